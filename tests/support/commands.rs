//! Commands of the tests: run to their end within a limit, spoken with, and explained where they failed.

use std::fs;
use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;
use sandpen_skip::{Reason, skip};

use super::signals::send_if_there;
use super::{DEADLINE, Home};

/// `sandpen run OPTIONS ROOTFS -- sh -c SCRIPT` with the driver `process`: on the host.
pub fn run_on_host(home: &Home, options: &[&str], script: &str) -> Command {
    let mut command = home.sandpen(&["run", "--driver", "process"]);
    command.args(options).arg(home.path()).args(["--", "/bin/sh", "-c", script]);
    command
}

/// The same of a sandbox with this name.
pub fn run_named(home: &Home, name: &str, options: &[&str], script: &str) -> Command {
    run_on_host(home, &[&["-n", name], options].concat(), script)
}

/// A command as root of a user and mount namespace of its own, after the shell's line `prepare`; `None`, which counts as a
/// skip, where there can be none.
pub fn in_namespaces(prepare: &str, command: &Command) -> Option<Command> {
    let unshare = |args: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(["-Urm"]).args(args).stdin(Stdio::null());
        unshare
    };
    let tried = output(unshare(&["true"]));
    if !tried.status.success() {
        skip(Reason::NoUserNamespaces, explain(&tried));
        return None;
    }
    let mut inside = unshare(&["sh", "-c", &format!("{prepare} && exec \"$@\""), "sh"]);
    inside.arg(command.get_program()).args(command.get_args());
    inside.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Some(inside)
}

/// Runs a command to its end, at most until the deadline.
pub fn output(command: Command) -> Output {
    output_within(DEADLINE, command)
}

/// Runs a command to its end; kills it after `limit`.
pub fn output_within(limit: Duration, command: Command) -> Output {
    finish_within(limit, spawn(command))
}

/// Runs a command to its end, which must be a success; its output.
pub fn succeeds(command: Command) -> Output {
    let output = output(command);
    assert!(output.status.success(), "{}", explain(&output));
    output
}

/// Starts a command whose output is read later.
pub fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits for a child with its output; kills it at the deadline.
pub fn finish(child: Child) -> Output {
    finish_within(DEADLINE, child)
}

fn finish_within(limit: Duration, child: Child) -> Output {
    let pid = child.id();
    let (done, watch) = std::sync::mpsc::channel::<()>();
    let guard = std::thread::spawn(move || {
        if watch.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
            send_if_there(pid, Signal::SIGKILL);
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(done);
    guard.join().unwrap();
    output
}

pub fn explain(output: &Output) -> String {
    format!(
        "{}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Checks how a command ended, all that it said, and a part of what it said on stderr, which is empty for nothing.
pub fn said(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*out), (Some(code), stdout), "{}", explain(output));
    assert!(err.contains(stderr) && err.is_empty() == stderr.is_empty(), "{stderr:?}: {}", explain(output));
}

/// Writes to a child's stdin and closes it.
pub fn feed(child: &mut Child, bytes: &[u8]) {
    child.stdin.take().unwrap().write_all(bytes).unwrap();
}

/// Reads so much of a child's stdout, which must be this.
pub fn expect(child: &mut Child, bytes: &[u8]) {
    let mut seen = vec![0; bytes.len()];
    child.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(seen, bytes, "{:?}", String::from_utf8_lossy(&seen));
}

/// Whether a child has a connection, to the daemon.
pub fn is_connected(child: &Child) -> bool {
    let mut files = fs::read_dir(format!("/proc/{}/fd", child.id())).unwrap().flatten();
    files.any(|file| fs::read_link(file.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:")))
}
