//! `sandpen attach` to sandboxes without a terminal, and what both `run -t` and `attach` refuse. The
//! `process` driver makes it quick.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use support::pty::OnTerminal;
use support::{Home, explain, finish, output, until};

/// Starts a sandbox that keeps its input open.
fn start(home: &Home, name: &str, script: &str) {
    let rootfs = home.path().to_str().unwrap();
    home.ok(&["run", "--driver", "process", "-di", "-n", name, rootfs, "--", "/bin/sh", "-c", script]);
}

fn attach(home: &Home, args: &[&str]) -> Command {
    let mut command = home.sandpen(&["attach"]);
    command.args(args);
    command
}

fn spawn(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal).unwrap();
}

fn type_line(child: &mut Child, line: &str) {
    child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
}

/// Reads up to the end of `line`, which comes next.
fn expect(child: &mut Child, line: &str) {
    let mut seen = vec![0; line.len() + 1];
    child.stdout.as_mut().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(String::from_utf8_lossy(&seen), format!("{line}\n"));
}

#[test]
fn several_type_and_see_the_same_and_their_end_is_not_the_inputs() {
    let home = Home::new();
    start(&home, "a", "echo before; while read line; do echo \"got $line\" ; [ $line = end ] && exit 7; done; exit 8");
    until("it runs", || home.log("a") == b"before\n");
    let (mut one, mut two) = (spawn(attach(&home, &["a"])), spawn(attach(&home, &["a"])));
    // Whoever is not attached yet would miss it: asked until it comes.
    let mut third = spawn(attach(&home, &["--no-stdin", "a"]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    type_line(&mut one, "1");
    for client in [&mut one, &mut two, &mut third] {
        expect(client, "got 1");
    }
    type_line(&mut two, "2");
    for client in [&mut one, &mut two, &mut third] {
        expect(client, "got 2");
    }
    // The end of one's input leaves it watching.
    drop(one.stdin.take());
    type_line(&mut two, "3");
    expect(&mut one, "got 3");
    // Signals leave, and end nothing.
    send(one.id(), Signal::SIGINT);
    let left = finish(one);
    assert_eq!(left.status.code(), Some(0), "{}", explain(&left));
    assert!(String::from_utf8_lossy(&left.stderr).contains("left sandbox a, which runs on"), "{}", explain(&left));
    // A daemon's death is survived.
    send(home.daemon_pid(), Signal::SIGKILL);
    until("there is another daemon", || home.run(&["ps"]).status.success());
    for client in [&mut two, &mut third] {
        expect(client, "got 3");
    }
    let mut four = spawn(attach(&home, &["a"]));
    type_line(&mut four, "end");
    for client in [two, third, four] {
        let ended = finish(client);
        assert_eq!(ended.status.code(), Some(7), "{}", explain(&ended));
        assert!(ended.stdout.ends_with(b"got end\n") || ended.stdout.is_empty(), "{}", explain(&ended));
    }
    assert_eq!(home.log("a"), b"before\ngot 1\ngot 2\ngot 3\ngot end\n");
}

#[test]
fn what_does_not_run_is_refused() {
    let home = Home::new();
    for name in ["nope", "conf/nope"] {
        let refused = output(attach(&home, &[name]));
        assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no sandbox"), "{}", explain(&refused));
    }
    start(&home, "a", "exit 3");
    home.ok(&["wait", "a"]);
    let refused = output(attach(&home, &["a"]));
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("sandpen logs a"), "{}", explain(&refused));
}

#[test]
fn input_for_a_terminal_must_come_from_one() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    for keys in ["", "ctrl-", "ctrl-1", &"a,".repeat(50_000), "ctrl-a,,b"] {
        for command in [&["run", "-it", "--detach-keys", keys, rootfs][..], &["attach", "--detach-keys", keys, "a"]] {
            let refused = home.run(command);
            assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
            assert!(String::from_utf8_lossy(&refused.stderr).contains("detach-keys"), "{}", explain(&refused));
        }
    }
    let refused = home.run(&["run", "-it", rootfs, "--", "sh"]);
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not a terminal"), "{}", explain(&refused));
    assert!(!home.state().exists(), "refused before a daemon was started");
}

#[test]
fn a_driver_without_terminals_says_so_and_leaves_this_one_alone() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    let client = OnTerminal::spawn(&home.sandpen(&["run", "-it", "--driver", "process", rootfs, "--", "sh"]), 24, 80);
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(125), "{text}");
    assert!(text.contains("no terminals"), "{text}");
}
