//! Logging in to Debian's docker-registry on loopback and out again: what is kept and where, what is said, and what nobody
//! gets to see.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::pull::{Place, RIGHT, failed};
use crate::support::authority::{authority, signed};
use crate::support::pty::OnTerminal;
use crate::support::registry::has_all;
use crate::support::{Home, explain, feed, finish, output, succeeds};

impl Place {
    fn registry(&self) -> String {
        format!("127.0.0.1:{}", self.registry.port)
    }

    fn auth_file(&self) -> PathBuf {
        self.home.path().join("home/auth.json")
    }

    /// The program, with a file of credentials that is not there at first.
    fn user(&self, args: &[&str]) -> Command {
        let mut command = self.sandpen(args);
        command.env("REGISTRY_AUTH_FILE", self.auth_file());
        command
    }

    fn log_in(&self, args: &[&str], password: &str) -> std::process::Output {
        let args = [&["--debug", "login", "-u", "user", "--password-stdin"], args].concat();
        typed_in(self.user(&args), password)
    }
}

/// Runs a command with something on its standard input.
fn typed_in(mut command: Command, text: &str) -> std::process::Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    feed(&mut child, text.as_bytes());
    finish(child)
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn entries(path: &Path) -> Value {
    serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()["auths"].clone()
}

#[test]
fn a_login_is_tried_kept_used_and_forgotten() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    place.put("app:1", 1000);
    let (registry, name) = (place.registry(), place.reference("app:1"));
    let refused = place.log_in(&[&registry], "hunter3\n");
    let expected = format!("{registry} does not let user in with this password (it says: ");
    assert!(refused.status.code() == Some(1) && said(&refused).contains(&expected), "{}", explain(&refused));
    assert!(said(&refused).ends_with("; nothing was kept\n"), "{}", explain(&refused));
    assert!(!place.auth_file().exists() && !said(&refused).contains("hunter"), "{}", explain(&refused));

    let done = place.log_in(&[&registry], "hunter2\n");
    let expected = format!("logged in to {registry} as user; kept in {}\n", place.auth_file().display());
    assert_eq!(said(&done), expected);
    assert_eq!(place.auth_file().metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(entries(&place.auth_file()), json!({&registry: {"auth": RIGHT}}));
    // A wrong one changes nothing.
    assert!(!place.log_in(&[&registry], "hunter3").status.success());
    assert_eq!(entries(&place.auth_file()), json!({&registry: {"auth": RIGHT}}));
    assert!(!place.home.state().exists(), "no daemon had anything to do with it");
    succeeds(place.user(&["pull", &name]));

    let left = succeeds(place.user(&["logout", &registry]));
    let expected = format!("logged out of {registry}; it was kept in {}\n", place.auth_file().display());
    assert_eq!(said(&left), expected);
    assert_eq!(entries(&place.auth_file()), json!({}));
    let error = failed(place.user(&["pull", "--json", &place.reference("app:2")]));
    assert!(error.contains(&format!("log in with: sandpen login {registry}")), "{error}");
    let none = succeeds(place.user(&["logout", &registry]));
    assert!(said(&none).contains(&format!("there was no login for {registry} in ")), "{}", explain(&none));

    // As the default registry it need not be named; and all of them go at once.
    assert!(place.log_in(&["--default-registry", &registry], "hunter2\r\n").status.success());
    let left = succeeds(place.user(&["logout", "--all"]));
    assert!(said(&left).starts_with(&format!("logged out of {registry}; ")), "{}", explain(&left));
    assert_eq!(entries(&place.auth_file()), json!({}));
}

#[test]
fn what_cannot_be_done_says_what_to_do() {
    let home = Home::new();
    let sandpen = |args: &[&str]| {
        let mut command = home.sandpen(args);
        command.env("REGISTRY_AUTH_FILE", home.path().join("auth.json"));
        command
    };
    for (args, text, expected) in [
        (&["login", "a.example"][..], "", "send the password to standard input with --password-stdin"),
        (&["login", "-u", "user", "a.example"], "", "send the password to standard input with --password-stdin"),
        (&["login", "--password-stdin", "a.example"], "x", "--username <USER>"),
        (&["login", "-u", "a:b", "--password-stdin", "a.example"], "x", "has no colon"),
        (&["login", "-u", "", "--password-stdin", "a.example"], "x", "is not empty"),
        (&["login", "-u", "user", "--password-stdin", "a.example"], "\n", "it is empty"),
        (&["login", "-u", "user", "--password-stdin", "a.example"], "hunter2\nx\n", "has more than one line"),
        (&["login", "-u", "user", "--password-stdin", "127.0.0.1:1"], "hunter2", "no connection to 127.0.0.1:1"),
        (&["login", "-u", "user", "--password-stdin", "https://a.example"], "hunter2", "named without https://"),
        (&["login", "-u", "user", "--password-stdin", "u:hunter2@a.example"], "hunter2", "without who logs in"),
        (&["login", "-u", "user", "--password-stdin", "a.example/x"], "hunter2", "is no registry"),
        (&["login", "-u", "user", "--password-stdin", "a b.example"], "hunter2", "is no registry"),
        (&["--default-registry", "none", "login", "-u", "user", "--password-stdin"], "hunter2", "name the registry"),
        (&["--default-registry", "none", "logout"], "", "name the registry"),
        (&["logout", "--all", "a.example"], "", "cannot be used with"),
    ] {
        let done = typed_in(sandpen(args), text);
        assert!(!done.status.success() && said(&done).contains(expected), "{args:?}: {}", explain(&done));
        // Of what was given in the wrong place clap shows the value.
        assert!(args.iter().any(|arg| arg.contains('@')) || !said(&done).contains("hunter"), "{}", explain(&done));
    }
    let mut homeless = home.sandpen(&["login", "-u", "user", "--password-stdin", "127.0.0.1:1"]);
    for variable in ["REGISTRY_AUTH_FILE", "HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR"] {
        homeless.env_remove(variable);
    }
    let done = typed_in(homeless, "hunter2");
    assert!(said(&done).contains("there is no place to keep credentials"), "{}", explain(&done));
    assert!(!home.path().join("auth.json").exists() && !home.state().exists());
}

#[test]
fn on_a_terminal_the_password_is_asked_for_and_not_shown() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let registry = place.registry();
    let mut terminal = OnTerminal::spawn(&place.user(&["--debug", "login", &registry]), 24, 80);
    let named = terminal.see_after(0, &format!("name for {registry}: "));
    terminal.keys("user\r");
    let asked = terminal.see_after(named, &format!("password of user for {registry}: "));
    terminal.keys("hunter3\r");
    terminal.see_after(asked, "nothing was kept");
    let (status, shown) = terminal.end();
    assert!(status.code() == Some(1) && !shown.contains("hunter"), "{shown}");
    assert!(!place.auth_file().exists());

    let mut terminal = OnTerminal::spawn(&place.user(&["login", "-u", "user", &registry]), 24, 80);
    let asked = terminal.see_after(0, "password of user");
    let processes = place.home.processes();
    assert!(!processes.iter().any(|(_, line)| line.contains("hunter")), "{processes:?}");
    // Backspace is the terminal's own.
    terminal.keys("hunter3\x7f2\r");
    terminal.see_after(asked, "logged in to");
    let (status, shown) = terminal.end();
    assert!(status.success() && !shown.contains("hunter"), "{shown}");
    assert_eq!(entries(&place.auth_file()), json!({&registry: {"auth": RIGHT}}));
}

/// The password was typed, and signals are not what ends that any more.
#[test]
fn a_registry_that_does_not_answer_is_not_waited_for_by_who_interrupts() {
    let home = Home::new();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let registry = silent.local_addr().unwrap().to_string();
    let mut terminal = OnTerminal::spawn(&home.sandpen(&["login", "-u", "user", &registry]), 24, 80);
    terminal.see_after(0, "password of user");
    terminal.keys("hunter2\r");
    let _asked = silent.accept().unwrap();
    terminal.keys("\x03");
    let (status, shown) = terminal.end();
    assert_eq!(status.code(), Some(130), "{shown}");
}

/// Who gives up gets the terminal back as it was, and the shell none of the password.
#[test]
fn a_password_that_is_not_finished_goes_nowhere() {
    let home = Home::new();
    for (keys, _way) in [("hunter2\x03", "Ctrl-C"), ("\x04", "the end"), ("\r", "nothing")] {
        let mut command = home.sandpen(&["login", "-u", "user", "a.example"]);
        command.env("REGISTRY_AUTH_FILE", home.path().join("auth.json"));
        let mut terminal = OnTerminal::spawn(&command, 24, 80);
        terminal.see_after(0, "password of user for a.example: ");
        terminal.keys(keys);
        terminal.see_after(0, "nothing was typed, and nothing is kept");
        assert_eq!(terminal.unread(), b"", "{keys:?}");
        let (status, shown) = terminal.end();
        assert!(status.code() == Some(1) && !shown.contains("hunter"), "{shown}");
    }
    let mut command = home.sandpen(&["login", "-u", "user", "--password-stdin", "a.example"]);
    command.env("REGISTRY_AUTH_FILE", home.path().join("auth.json"));
    let (status, shown) = OnTerminal::spawn(&command, 24, 80).end();
    assert!(status.code() == Some(1) && shown.contains("leave out --password-stdin"), "{shown}");
    assert!(!home.path().join("auth.json").exists());
}

#[test]
fn certificates_are_those_of_a_pull() {
    if !has_all() {
        return;
    }
    let authority = authority();
    let place = Place::with_tls(true, Some(signed(&authority, &["127.0.0.1"], |_| {})));
    let registry = place.registry();
    let refused = place.log_in(&[&registry], "hunter2");
    let certificate = place.home.data().join(format!("certs.d/{registry}/ca.crt"));
    let expected = format!("put the certificate of who signed it into {}", certificate.display());
    assert!(!refused.status.success() && said(&refused).contains(&expected), "{}", explain(&refused));
    assert!(!place.auth_file().exists());
    assert!(place.log_in(&["--insecure", &registry], "hunter2").status.success());
    assert!(place.log_in(&["--insecure-registry", &registry, &registry], "hunter2").status.success());
    assert!(!place.log_in(&["--insecure-registry", "127.0.0.1:1", &registry], "hunter2").status.success());
    let config = place.home.path().join("config.toml");
    fs::write(&config, format!("insecure-registry = ['{registry}']\n")).unwrap();
    let mut configured = place.user(&["login", "-u", "user", "--password-stdin", &registry]);
    configured.env("SANDPEN_CONFIG", &config);
    assert!(typed_in(configured, "hunter2").status.success());
    fs::create_dir_all(certificate.parent().unwrap()).unwrap();
    fs::write(&certificate, authority.pem()).unwrap();
    let done = place.log_in(&[&registry], "hunter2");
    assert!(done.status.success(), "{}", explain(&done));
    place.put("app:1", 1000);
    succeeds(place.user(&["pull", &place.reference("app:1")]));
}

/// Files are Podman's and Docker's as well; which one has what is said.
#[test]
fn other_tools_keep_what_is_theirs() {
    if !has_all() {
        return;
    }
    let place = Place::new(true);
    let registry = place.registry();
    let of = |directory: &str| place.home.path().join(directory);
    let user = |args: &[&str]| {
        let mut command = place.user(args);
        command.env_remove("REGISTRY_AUTH_FILE").env("HOME", of("home")).env_remove("XDG_CONFIG_HOME");
        command.env("XDG_RUNTIME_DIR", of("runtime")).env_remove("DOCKER_CONFIG");
        command.env("PATH", format!("{}:{}", of("bin").display(), std::env::var("PATH").unwrap()));
        command
    };
    let log_in = || typed_in(user(&["login", "-u", "user", "--password-stdin", &registry]), "hunter2");
    let write = |path: PathBuf, text: String| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let entry = json!({"auths": {&registry: {"auth": RIGHT}}}).to_string();
    let (runtime, own) = (of("runtime/containers/auth.json"), of("home/.config/containers/auth.json"));
    let docker = of("home/.docker/config.json");
    write(runtime.clone(), entry.clone());
    let done = log_in();
    let expected = format!("{} knows {registry} too, and is asked first", runtime.display());
    assert!(done.status.success() && said(&done).contains(&expected), "{}", explain(&done));
    assert_eq!(entries(&own), json!({&registry: {"auth": RIGHT}}));
    fs::remove_file(&runtime).unwrap();

    write(docker.clone(), entry.clone());
    assert!(!said(&log_in()).contains("asked first"));
    let error = failed(user(&["logout", &registry]));
    assert!(error.contains(docker.to_str().unwrap()) && error.contains("still knows"), "{error}");
    assert_eq!((entries(&own), fs::read_to_string(&docker).unwrap()), (json!({}), entry));
    fs::remove_file(&docker).unwrap();

    let helper = of("bin/docker-credential-box");
    let script = "#!/bin/sh\nat=$(dirname \"$0\")/kept\ncase $1 in store) cat > \"$at\" ;; erase) rm \"$at\" ;; \
                  get) [ -e \"$at\" ] && cat \"$at\" || { echo credentials not found in native keychain; exit 1; } ;; esac\n";
    write(helper.clone(), script.to_owned());
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    write(own.clone(), json!({"credHelpers": {&registry: "box"}}).to_string());
    let done = log_in();
    assert!(said(&done).contains("; kept by docker-credential-box, as "), "{}", explain(&done));
    assert_eq!(entries(&own), Value::Null);
    place.put("app:1", 1000);
    succeeds(user(&["pull", &place.reference("app:1")]));
    let left = succeeds(user(&["logout", &registry]));
    assert!(said(&left).contains("it was kept by docker-credential-box"), "{}", explain(&left));
    assert!(!of("bin/kept").exists());
}

#[test]
fn a_registry_that_asks_nobody_is_said_to() {
    if !has_all() {
        return;
    }
    let place = Place::new(false);
    let done = place.log_in(&[&place.registry()], "hunter2");
    assert!(done.status.success() && said(&done).contains("lets everybody in"), "{}", explain(&done));
    let silent = output(place.user(&["logout", &place.registry()]));
    assert!(silent.status.success(), "{}", explain(&silent));
}
