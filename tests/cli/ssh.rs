//! `sandpen ssh-config` and what it leads OpenSSH to, with the sessions of the `process` driver; real microVMs are in `tests/vm`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use crate::support::{Home, explain, finish, output, spawn, until};

fn idle(home: &Home, name: &str) {
    let rootfs = home.path().to_str().unwrap();
    home.ok(&["run", "--driver", "process", "-d", "--idle", "-n", name, rootfs]);
}

/// The file with a sandbox's block.
fn config(home: &Home, name: &str) -> PathBuf {
    let file = home.path().join("config");
    fs::write(&file, home.ok(&["ssh-config", name])).unwrap();
    file
}

fn ssh(file: &PathBuf, args: &[&str]) -> Command {
    let mut command = Command::new("ssh");
    command.arg("-F").arg(file).args(args).stdin(Stdio::null()).env("SANDPEN_NO_KEEP", "1").env("SANDPEN_CONFIG", "");
    command
}

fn says(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*out), (Some(code), stdout), "{}", explain(output));
    assert!(err.contains(stderr) && err.is_empty() == stderr.is_empty(), "{stderr:?}: {}", explain(output));
}

#[test]
fn a_sandbox_is_reached_whatever_its_paths_and_names_are() {
    let parent = tempfile::tempdir().unwrap();
    let odd = parent.path().join("it's \"odd\" 50% $HOME\\ #ü");
    fs::create_dir(&odd).unwrap();
    let home = Home::new_in(&odd);
    idle(&home, "a");
    idle(&home, "app/we_b.1");
    let file = config(&home, "a");
    for host in ["sandpen-a", "a.sandpen"] {
        says(&output(ssh(&file, &[host, "echo hello; echo err >&2; exit 3"])), 3, "hello\n", "err\n");
    }
    let key = fs::metadata(home.state().join("ssh_host_key")).unwrap();
    assert_eq!(key.mode() & 0o7777, 0o600);
    // One key for all sandboxes of a state directory, and for ever.
    let known = fs::read(home.state().join("ssh_known_hosts")).unwrap();
    let file = config(&home, "app/we_b.1");
    assert_eq!(fs::read(home.state().join("ssh_known_hosts")).unwrap(), known);
    for host in ["sandpen-app-we_b.1", "we_b.1.app.sandpen"] {
        says(&output(ssh(&file, &[host, "echo", "hello"])), 0, "hello\n", "");
    }
    // Another key is another server.
    fs::remove_file(home.state().join("ssh_host_key")).unwrap();
    says(&output(ssh(&file, &["we_b.1.app.sandpen", "true"])), 255, "", "Host key verification failed");
    home.ok(&["ssh-config", "a"]);
    says(&output(ssh(&file, &["we_b.1.app.sandpen", "true"])), 0, "", "");
}

#[test]
fn what_cannot_be_served_is_said() {
    let home = Home::new();
    assert!(home.fails(&["ssh-config", "no-such"]).contains("there is no sandbox"));
    idle(&home, "a");
    let file = config(&home, "a");
    let key = home.state().join("ssh_host_key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(home.fails(&["ssh-config", "a"]).contains("can be read by others (mode 0644)"));
    says(&output(ssh(&file, &["a.sandpen", "true"])), 255, "", "can be read by others");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&key, "half a ke").unwrap();
    assert!(home.fails(&["ssh-config", "a"]).contains("holds no host key of sandpen's"));
    fs::remove_file(&key).unwrap();
    let file = config(&home, "a");
    home.ok(&["stop", "-t", "0", "a"]);
    says(&output(ssh(&file, &["a.sandpen", "true"])), 255, "", "sandbox a does not run");
    home.ok(&["rm", "a"]);
    says(&output(ssh(&file, &["a.sandpen", "true"])), 255, "", "there is no sandbox");
    // Nobody who types is a client.
    let mut proxy = home.sandpen(&["ssh-proxy", "--help"]);
    proxy.stdin(Stdio::null());
    assert!(output(proxy).status.success());
    assert!(!home.ok(&["--help"]).contains("ssh-proxy"), "it is nobody's own");
}

/// Of several in one connection none waits for another: not for a program that reads nothing, nor for a reader that does not.
#[test]
fn channels_of_one_connection_do_not_hold_each_other_up() {
    let home = Home::new();
    idle(&home, "a");
    let file = config(&home, "a");
    let socket = home.path().join("control");
    let control = format!("ControlPath={}", socket.display());
    let through = |args: &[&str]| ssh(&file, &[&["-o", &control], args].concat());
    let mut master = spawn(through(&["-M", "-N", "a.sandpen"]));
    until("there is a connection", || output(through(&["-O", "check", "a.sandpen"])).status.success());
    // One whose program does not read what it is sent.
    let mut deaf = through(&["a.sandpen", "echo ready; exec sleep 1000"]);
    deaf.stdin(Stdio::piped());
    let mut deaf = spawn(deaf);
    let mut stdin = deaf.stdin.take().unwrap();
    let feeding = std::thread::spawn(move || while stdin.write_all(&[7; 1 << 14]).is_ok() {});
    // One that nobody reads from.
    let mut mute = spawn(through(&["a.sandpen", "exec yes"]));
    let bytes = vec![b'x'; 4 << 20];
    for _ in 0..3 {
        let mut echo = through(&["a.sandpen", "exec cat"]);
        echo.stdin(Stdio::piped());
        let mut echo = spawn(echo);
        let (mut stdin, input) = (echo.stdin.take().unwrap(), bytes.clone());
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let echo = finish(echo);
        writing.join().unwrap().unwrap();
        let said = String::from_utf8_lossy(&echo.stderr);
        assert!(echo.status.success() && echo.stdout == bytes, "{} bytes, {}: {said}", echo.stdout.len(), echo.status);
    }
    for client in [&mut deaf, &mut mute, &mut master] {
        client.kill().unwrap();
        client.wait().unwrap();
    }
    feeding.join().unwrap();
    until("all of it has ended", || home.ok(&["sessions", "--json", "a"]).trim() == "[]");
}
