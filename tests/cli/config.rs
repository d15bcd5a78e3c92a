//! Config files: which one wins, what is refused, and what helps then.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::{Home, explain, output};

/// A home with a user's config file, which commands read.
struct Configured {
    home: Home,
}

impl Configured {
    fn new(text: impl AsRef<[u8]>) -> Self {
        let configured = Self { home: Home::new() };
        fs::create_dir_all(configured.file().parent().unwrap()).unwrap();
        fs::write(configured.file(), text).unwrap();
        configured.protect();
        configured
    }

    fn protect(&self) {
        fs::set_permissions(self.file(), fs::Permissions::from_mode(0o644)).unwrap();
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("config/sandpen/config.toml")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
        command.args(args).stdin(Stdio::null()).current_dir(self.home.path());
        command.env("XDG_CONFIG_HOME", self.home.path().join("config"));
        for variable in ["SANDPEN_CONFIG", "SANDPEN_STATE_DIR", "SANDPEN_DATA_DIR", "SANDPEN_RESERVE", "SANDPEN_CACHE"]
        {
            command.env_remove(variable);
        }
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        output(self.command(args))
    }

    /// What a refused command says.
    fn refused(&self, args: &[&str], code: i32) -> String {
        let refused = self.run(args);
        assert_eq!(refused.status.code(), Some(code), "{}", explain(&refused));
        String::from_utf8(refused.stderr).unwrap()
    }
}

/// What `sandpen config` says of a key, in JSON.
fn of_key(mut command: Command, key: &str) -> Value {
    let listed = output({
        command.arg("--json");
        command
    });
    assert!(listed.status.success(), "{}", explain(&listed));
    let list: Vec<Value> = serde_json::from_slice(&listed.stdout).unwrap();
    list.into_iter().find(|one| one["key"] == key).unwrap()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_what_is_built_in() {
    let configured = Configured::new("# mine\nstate-dir = '/of/the/file'\nmemory = '1G'\n");
    let state_dir = |command| of_key(command, "state-dir");
    let found = state_dir(configured.command(&["config"]));
    assert_eq!(
        (&found["value"], &found["origin"], &found["line"]),
        (&"/of/the/file".into(), &"user-file".into(), &2.into())
    );
    assert_eq!(found["file"], configured.file().to_str().unwrap());
    let mut command = configured.command(&["config"]);
    command.env("SANDPEN_STATE_DIR", "/of/the/environment");
    let found = state_dir(command);
    assert_eq!((&found["value"], &found["origin"]), (&"/of/the/environment".into(), &"environment".into()));
    assert_eq!(found["variable"], "SANDPEN_STATE_DIR");
    for args in [["config", "--state-dir", "/of/the/flag"], ["--state-dir", "/of/the/flag", "config"]] {
        let mut command = configured.command(&args);
        command.env("SANDPEN_STATE_DIR", "/of/the/environment");
        let found = state_dir(command);
        assert_eq!((&found["value"], &found["origin"]), (&"/of/the/flag".into(), &"flag".into()), "{args:?}");
    }
    let found = of_key(configured.command(&["config"]), "cpus");
    assert_eq!((&found["value"], &found["origin"]), (&"1".into(), &"built-in".into()));
    let found = of_key(configured.command(&["config"]), "memory");
    assert_eq!((&found["value"], &found["line"]), (&"1G".into(), &3.into()));
    let table = String::from_utf8(configured.run(&["config"]).stdout).unwrap();
    let line = table.lines().find(|line| line.starts_with("memory ")).unwrap();
    assert!(line.contains("\"1G\"") && line.ends_with("config.toml, line 3"), "{table}");
}

#[test]
fn what_a_command_does_is_what_the_file_says() {
    let configured = Configured::new("state-dir = '/dev/null/state'\ndriver = 'nonsense'\n");
    // The file's state directory is the one that cannot be made.
    let said = configured.refused(&["ps"], 1);
    assert!(said.contains("/dev/null/state"), "{said}");
    let help = String::from_utf8(configured.run(&["run", "--help"]).stdout).unwrap();
    assert!(help.contains("[default: nonsense]"), "{help}");
    let plain = output({
        let mut command = configured.command(&["run", "--help"]);
        command.env("SANDPEN_CONFIG", "");
        command
    });
    assert!(!String::from_utf8(plain.stdout).unwrap().contains("nonsense"));
}

/// A sandbox gets them, unless a flag says otherwise.
#[cfg(feature = "testing")]
#[test]
fn a_sandbox_has_the_defaults_of_the_file() {
    let configured =
        Configured::new("driver = 'process'\nmemory = '300M'\ncpus = 3\nlog-keep = 7\nhealth-interval = '5s'\n");
    let home = &configured.home;
    let sandpen = |args: &[&str]| {
        let mut command = home.sandpen(args);
        command.env_remove("SANDPEN_CONFIG").env("XDG_CONFIG_HOME", home.path().join("config"));
        crate::support::succeeds(command)
    };
    sandpen(&["run", "-d", "-n", "one", "/", "--", "sleep", "1000"]);
    sandpen(&["run", "-d", "-n", "two", "--cpus", "1", "/", "--", "sleep", "1000"]);
    let (one, two) = (home.inspect("one"), home.inspect("two"));
    assert_eq!(
        (&one["driver"], &one["memory_mib"], &one["cpus"]),
        (&"process".into(), &300.into(), &3.into()),
        "{one}"
    );
    assert_eq!((&two["memory_mib"], &two["cpus"]), (&300.into(), &1.into()), "{two}");
}

/// Whoever gives a flag has decided; the file says what holds where nobody does.
#[cfg(feature = "testing")]
#[test]
fn a_default_gives_way_to_a_flag_that_contradicts_it() {
    let configured = Configured::new(
        "driver = 'process'\nnet = 'none'\nrestart = 'always'\nmemory = '400M'\nshm-size = '300M'\n\
         health-start-period = '5s'\nhealth-interval = '5s'\n",
    );
    let home = &configured.home;
    let sandpen = |args: &[&str]| {
        let mut command = home.sandpen(args);
        command.env_remove("SANDPEN_CONFIG").env("XDG_CONFIG_HOME", home.path().join("config"));
        command
    };
    let started = |name: &str, options: &[&str]| {
        let args = [&["run", "-d", "-n", name], options, &["/", "--", "sleep", "1000"]].concat();
        crate::support::succeeds(sandpen(&args));
        let inspected = home.inspect(name);
        ["network", "restart", "shm_bytes"].map(|field| inspected[field].to_string().replace('"', ""))
    };
    let shared = (300 << 20).to_string();
    assert_eq!(started("plain", &[]), ["none", "always", &shared]);
    assert_eq!(started("published", &["-p", "0:80"]), ["published", "always", &shared]);
    assert_eq!(started("small", &["--memory", "200M"]), ["none", "always", "null"]);
    assert_eq!(started("removed", &["--rm"]), ["none", "no", &shared]);
    let ended = output(sandpen(&["run", "--rm", "/", "--", "true"]));
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", explain(&ended));
    // Flags that contradict each other are refused as ever.
    for flags in [&["--net", "none", "-p", "0:80"][..], &["--restart", "always", "--rm"]] {
        let refused = output(sandpen(&[&["run"], flags, &["/", "--", "true"]].concat()));
        assert_eq!(refused.status.code(), Some(125), "{flags:?}: {}", explain(&refused));
    }
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let long = format!("# {}\n", "x".repeat(70_000));
    for (text, expected) in [
        (&b"memory = \"1G\"\nmemry = 1\n"[..], "line 2: there is no key \"memry\"; did you mean memory?"),
        (b"memory = 1G", "line 1: "),
        (b"memory = ", "line 1: "),
        (b"\nmemory = \"much\"", "line 2: memory cannot be \"much\": "),
        (b"cpus = 'two'", "line 1: cpus cannot be \"two\": invalid digit found in string"),
        (b"cpus = 1.5", "line 1: cpus cannot be \"1.5\": invalid digit found in string"),
        (b"cpus = true", "line 1: cpus cannot be \"true\": "),
        (b"cpus = [1]", "line 1: cpus is an array"),
        (b"log-backlog = 'lose'", "line 1: log-backlog cannot be \"lose\": "),
        (b"require-confinement = 'perhaps'", "line 1: require-confinement cannot be \"perhaps\": "),
        (b"kernel = 'vmlinux'", "line 1: kernel is \"vmlinux\"; give an absolute path"),
        (b"env = ['SECRET=1']", "line 1: there is no key \"env\""),
        (b"name = 'web'", "line 1: there is no key \"name\""),
        (b"# a\n\xff = 1\n", "line 2: what stands there is not UTF-8"),
        (long.as_bytes(), "has more than 65536 bytes"),
    ] {
        let configured = Configured::new(text);
        let said = configured.refused(&["ps"], 1);
        assert!(said.contains(expected) && said.contains("config.toml"), "{:?}: {said}", String::from_utf8_lossy(text));
        assert!(!said.contains("SECRET"), "{said}");
    }
    let configured = Configured::new("nonsense");
    let said = configured.refused(&["run", "/", "--", "true"], 125);
    assert!(said.contains("config.toml\", line 1: "), "{said}");
    configured.refused(&["config"], 1);
    configured.refused(&["daemon"], 1);
    // What helps goes on helping.
    for args in [&["--help"][..], &["run", "--help"], &["completion", "bash"], &["--version"]] {
        let helped = configured.run(args);
        assert!(helped.status.success(), "{args:?}: {}", explain(&helped));
    }
    let mut command = configured.command(&["config"]);
    command.env("SANDPEN_CONFIG", "");
    assert!(output(command).status.success());
    let state = configured.home.path().join("state");
    let report = configured.run(&["doctor", "--json", "--state-dir", state.to_str().unwrap()]);
    assert_eq!(report.status.code(), Some(1));
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "config").unwrap();
    assert_eq!(check["status"], "fail");
    assert!(check["detail"].as_str().unwrap().contains("line 1"), "{check}");
}

#[test]
fn what_is_no_file_or_somebody_elses_is_refused() {
    let configured = Configured::new("cpus = 2");
    let file = configured.file();
    let chmod = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    for mode in [0o666, 0o620, 0o602] {
        chmod(mode);
        let said = configured.refused(&["ps"], 1);
        assert!(said.contains("chmod go-w"), "{mode:o}: {said}");
    }
    configured.protect();
    if nix::unistd::Uid::effective().is_root() {
        std::os::unix::fs::chown(&file, Some(61_617), None).unwrap();
        let said = configured.refused(&["ps"], 1);
        assert!(said.contains("belongs to user 61617"), "{said}");
    }
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(configured.refused(&["ps"], 1).contains("is no file"));
    fs::remove_dir(&file).unwrap();
    nix::unistd::mkfifo(&file, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(configured.refused(&["ps"], 1).contains("is no file"), "and it is not waited for");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    assert!(configured.refused(&["ps"], 1).contains("cannot be read"));
    // None at all is no mistake, nor is a file where a directory could be.
    fs::remove_file(&file).unwrap();
    assert!(configured.run(&["config"]).status.success());
    fs::remove_dir(file.parent().unwrap()).unwrap();
    fs::write(file.parent().unwrap(), "").unwrap();
    assert!(configured.run(&["config"]).status.success());
}

#[test]
fn a_file_that_is_named_has_to_be_there() {
    let configured = Configured::new("nonsense");
    let named = configured.home.path().join("named.toml");
    let with = |name: &Path| {
        let mut command = configured.command(&["config"]);
        command.env("SANDPEN_CONFIG", name);
        command
    };
    let missing = output(with(&named));
    assert_eq!(missing.status.code(), Some(1), "{}", explain(&missing));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("named.toml"), "{}", explain(&missing));
    fs::write(&named, "cpus = 5").unwrap();
    let found = of_key(with(&named), "cpus");
    assert_eq!((&found["value"], &found["origin"]), (&"5".into(), &"named-file".into()), "and the user's is not read");
    let relative = output(with(Path::new("named.toml")));
    assert!(String::from_utf8_lossy(&relative.stderr).contains("absolute path"), "{}", explain(&relative));
}

/// Root can read everything, so an ordinary user tries.
#[test]
fn a_file_that_cannot_be_read_is_not_passed_over() {
    let home = Home::of_user_without_kernel();
    let file = home.path().join("config.toml");
    fs::write(&file, "cpus = 2").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(if home.uid() == 0 { 0o600 } else { 0o000 })).unwrap();
    let mut command = home.sandpen(&["config"]);
    command.env("SANDPEN_CONFIG", &file);
    let said = output(command);
    assert_eq!(said.status.code(), Some(1), "{}", explain(&said));
    assert!(String::from_utf8_lossy(&said.stderr).contains("cannot be read: Permission denied"), "{}", explain(&said));
}

/// The pages of every command, and what a reader of troff makes of them.
#[test]
fn every_command_has_a_manual_page() {
    let home = Home::new();
    let directory = home.path().join("man/man1");
    home.ok(&["man", directory.to_str().unwrap()]);
    let mut expected = vec!["sandpen.1".to_owned()];
    let mut open = vec![Vec::<String>::new()];
    while let Some(command) = open.pop() {
        let mut args: Vec<&str> = command.iter().map(String::as_str).collect();
        args.push("--help");
        let help = home.ok(&args);
        let Some((_, list)) = help.split_once("Commands:\n") else { continue };
        for line in
            list.split("\n\n").next().unwrap().lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        {
            let name = line.split_whitespace().next().unwrap().to_owned();
            if name != "help" {
                let inner: Vec<String> = command.iter().cloned().chain([name]).collect();
                expected.push(format!("sandpen-{}.1", inner.join("-")));
                open.push(inner);
            }
        }
    }
    expected.sort();
    let mut written: Vec<_> =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    written.sort();
    assert_eq!(written, expected);
    assert!(written.len() > 20, "{written:?}");
    for name in &written {
        check_page(&directory.join(name));
    }
    let run = fs::read_to_string(directory.join("sandpen-run.1")).unwrap();
    assert!(run.contains("\\-\\-memory") && run.contains("Examples") && run.contains("256M"), "{run}");
    let mode = fs::metadata(directory.join("sandpen.1")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    // Again, over what is there; and where nothing can be written.
    home.ok(&["man", directory.to_str().unwrap()]);
    let said = home.fails(&["man", directory.join("sandpen.1").to_str().unwrap()]);
    assert!(said.contains("writing the manual page"), "{said}");
}

/// Its requests are ones of man(7) or troff, and a formatter has nothing to say against it where one is installed.
fn check_page(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    for heading in [".TH ", ".SH NAME", ".SH SYNOPSIS"] {
        assert!(text.contains(heading), "{}: no {heading}", path.display());
    }
    for request in text.lines().filter(|line| line.starts_with('.')) {
        let known =
            [".TH", ".SH", ".SS", ".TP", ".PP", ".IP", ".RS", ".RE", ".br", ".nf", ".fi", ".ie", ".el", ".ds", ".if"];
        assert!(known.contains(&request.split_whitespace().next().unwrap()), "{}: {request}", path.display());
    }
    assert!(!text.bytes().any(|byte| byte < b' ' && byte != b'\n'), "{}", path.display());
    for (program, args) in [("mandoc", &["-Tlint", "-Werror"][..]), ("groff", &["-man", "-Tutf8", "-ww", "-z"])] {
        let formatted = Command::new(program).args(args).arg(path).stdin(Stdio::null()).output();
        if let Ok(formatted) = formatted {
            assert!(formatted.status.success(), "{program} {}: {}", path.display(), explain(&formatted));
        }
    }
}
