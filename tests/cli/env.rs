//! Where the environment of a command comes from: options, files, descriptors; and that no value of it is told.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::input::refused;
use crate::support::{Home, explain, feed, finish, output, run_named, spawn, succeeds, until};

/// Shows the variables A to F, each between bars; an unset one is a dash.
const SHOW: &str = r#"for n in A B C D E F; do eval "printf '%s|' \"\${$n--}\""; done"#;

/// The command after redirections of a shell, of which `$F` is the file.
fn redirected(command: &Command, redirections: &str, file: &Path) -> Command {
    let mut shell = Command::new("/bin/sh");
    shell
        .args(["-c", &format!("{redirections}\nexec \"$0\" \"$@\"")])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell.env("F", file).stdin(Stdio::null());
    shell
}

fn shown(output: &Output) -> Vec<&[u8]> {
    let mut parts: Vec<_> = output.stdout.split(|byte| *byte == b'|').collect();
    parts.pop();
    parts
}

/// An error that says where, once, and nothing of what is there.
fn assert_tells_where(error: &str, places: &[&str]) {
    assert!(places.iter().all(|place| error.contains(place)), "{places:?} in {error}");
    assert!(!error.contains("s3c") && error.lines().count() == 1, "{error}");
}

#[test]
fn later_ones_hold_and_names_alone_are_the_callers() {
    let home = Home::new();
    let file = |name: &str, bytes: &[u8]| {
        let path = home.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    };
    let first = file("first", b"# all of it\nA=first\nB=first\r\nC=first\nD=first\nE\nF='first' # \xff\n");
    let second = file("second", b"B=second\nC=second\nD=second");
    let third = file("third", b"C=third\0D=third\nof two lines\0");
    let (first, second) = (first.to_str().unwrap(), second.to_str().unwrap());
    // What comes from where holds in this order, whatever the order of the options is.
    let options =
        ["-e", "D", "--env-fd", "3", "--env-file", first, "--env-file", second, "-e", "A=x", "-e", "A=option"];
    let mut command = run_named(&home, "a", &options, SHOW);
    command.env("E", OsStr::from_bytes(b"caller's \xfe")).env("D", "the caller's");
    let ran = succeeds(redirected(&command, "exec 3<\"$F\"", &third));
    let expected: [&[u8]; 6] = [b"option", b"second", b"third", b"the caller's", b"caller's \xfe", b"'first' # \xff"];
    assert_eq!(shown(&ran), expected, "{}", explain(&ran));
    // One that the caller does not have is left out, even if it was given before.
    let options = ["--env-file", first, "-e", "A", "-e", "E", "-e", "D=1", "-e", "D=2"];
    let mut command = run_named(&home, "b", &options, SHOW);
    for name in ["A", "D", "E"] {
        command.env_remove(name);
    }
    let ran = succeeds(command);
    let expected: [&[u8]; 6] = [b"-", b"first", b"first", b"2", b"-", b"'first' # \xff"];
    assert_eq!(shown(&ran), expected, "{}", explain(&ran));
    assert_eq!(home.inspect("b")["env_names"], serde_json::json!(["B", "C", "F", "D"]));
}

#[test]
fn a_file_that_is_no_list_is_refused_by_its_place_and_no_value_is_told() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    let path = home.path().join("list");
    let text = path.to_str().unwrap();
    let refused = |list: &str| refused(&home, &["run", "--env-file", list, rootfs, "--", "true"], 125);
    for (bytes, place) in [
        (&b"A=1\nB=s3c\0ret\n"[..], "line 2 holds a NUL"),
        (b"\n# x\n=s3cret", "line 3 has no name"),
        (b"export A=s3cret", "line 1 has a space"),
        (b"A=-----BEGIN\ns3cret and s3cret=\n", "line 2 has a space"),
    ] {
        fs::write(&path, bytes).unwrap();
        assert_tells_where(&refused(text), &[text, place]);
    }
    fs::write(&path, b"A=s3cret\n".repeat(200_000)).unwrap();
    assert_tells_where(&refused(text), &[text, "more than 1048576 bytes"]);
    // Sparse, and of a size that no memory has.
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    assert_tells_where(&refused(text), &[text, "more than 1048576 bytes"]);
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    assert_tells_where(&refused(text), &[text, "not a regular file", "--env-fd"]);
    assert_tells_where(&refused("/dev/zero"), &["/dev/zero", "not a regular file"]);
    assert_tells_where(&refused(rootfs), &[rootfs, "directory"]);
    assert_tells_where(&refused("/no/such"), &["/no/such", "No such file"]);
}

#[test]
fn a_file_that_only_others_can_read_is_refused() {
    let home = Home::of_ordinary_user();
    let path = home.path().join("list");
    fs::write(&path, "A=s3cret\n").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    let error = home.fails(&["run", "--env-file", path.to_str().unwrap(), "/", "--", "true"]);
    assert_tells_where(&error, &[path.to_str().unwrap(), "Permission denied"]);
}

#[test]
fn a_descriptor_must_be_ours_to_read() {
    let home = Home::new();
    let file = home.path().join("list");
    let directory = home.path().join("directory");
    fs::create_dir(&directory).unwrap();
    fs::write(&file, b"A=1\0=s3cret\0").unwrap();
    let run = |fd: &str, options: &[&str]| run_named(&home, "a", &[&["--env-fd", fd], options].concat(), "true");
    for (command, redirections, path, places) in [
        (run("3", &[]), "exec 3<&-", &file, &["descriptor 3", "not open", "3<FILE"][..]),
        (run("3", &[]), "exec 3>>\"$F\"", &file, &["descriptor 3", "not open for reading"]),
        (run("3", &[]), "exec 3<\"$F\"", &directory, &["descriptor 3", "cannot be read"]),
        (run("3", &[]), "exec 3<\"$F\"", &file, &["descriptor 3", "entry 2 has no name"]),
        (run("3", &["--env-fd", "3"]), "exec 3</dev/null", &file, &["descriptor 3", "not open"]),
        (run("3", &[]), "exec 3</dev/zero", &file, &["descriptor 3", "more than 1048576 bytes"]),
        (run("0", &["-i"]), "", &file, &["--env-fd 0", "-i"]),
    ] {
        let refused = output(redirected(&command, redirections, path));
        assert_eq!(refused.status.code(), Some(125), "{redirections}: {}", explain(&refused));
        assert_tells_where(&String::from_utf8_lossy(&refused.stderr), places);
    }
    let (ours, _theirs) = UnixStream::pair().unwrap();
    let mut command = run("0", &[]);
    command.stdin(std::os::fd::OwnedFd::from(ours));
    let refused = output(command);
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    assert_tells_where(&String::from_utf8_lossy(&refused.stderr), &["descriptor 0", "pipe or a file"]);
    assert!(!home.state().exists(), "refused before a daemon was started");
}

#[test]
fn secrets_come_through_a_pipe_and_are_nowhere_else() {
    const SECRET: &str = "s3cret-of-the-pipe";
    let home = Home::new();
    let mut child = spawn({
        let mut command = run_named(&home, "a", &["--env-fd", "0"], SHOW);
        command.stdin(Stdio::piped());
        command
    });
    feed(&mut child, format!("A={SECRET}\n").as_bytes());
    let ran = finish(child);
    assert_eq!(shown(&ran)[0], SECRET.as_bytes(), "{}", explain(&ran));
    home.ok(&["shutdown"]);

    // A FIFO that has what its writer wrote, who has gone. A daemon is started after that.
    let fifo = home.path().join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let filled = format!("exec 4<>\"$F\" 3<\"$F\"; printf 'A={SECRET}\\n' >&4; exec 4<&-");
    let command = run_named(&home, "b", &["-d", "--env-fd", "3"], &format!("{SHOW}; while :; do sleep 1; done"));
    succeeds(redirected(&command, &filled, &fifo));
    until("it has its environment", || home.log("b").starts_with(format!("{SECRET}|").as_bytes()));
    for (pid, command_line) in home.processes() {
        assert!(!command_line.contains(SECRET), "{command_line}");
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
        assert!(open.flat_map(|fd| fs::read_link(fd.path())).all(|to| to != fifo), "process {pid} has the FIFO");
    }
    for args in [&["inspect", "b"][..], &["ps", "--json"], &["events", "--json"]] {
        assert!(!home.ok(args).contains(SECRET), "{args:?}");
    }
    assert!(!fs::read_to_string(home.state().join("daemon.log")).unwrap().contains(SECRET));
}
