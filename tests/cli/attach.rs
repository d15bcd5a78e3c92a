//! `sandpen attach` to sandboxes without a terminal, and what both `run -t` and `attach` refuse. The
//! `process` driver makes it quick.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};

use nix::sys::signal::Signal;

use crate::support::pty::OnTerminal;
use crate::support::{Home, explain, finish, output, send};

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

/// A client, whose lines are read apart from the ticks.
struct Client {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Client {
    /// Attached for certain: a tick has come.
    fn attached(home: &Home, args: &[&str]) -> Self {
        let mut command = attach(home, args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "tick", "from now on, and no earlier output");
        Self { child, lines }
    }

    fn type_line(&mut self, line: &str) {
        self.child.stdin.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// The next line that is no tick.
    fn line(&mut self) -> String {
        self.lines.find(|line| line.as_ref().unwrap() != "tick").expect("a line").unwrap()
    }
}

#[test]
fn several_type_and_see_the_same_and_their_end_is_not_the_inputs() {
    let home = Home::new();
    let script = "(while sleep 0.05; do echo tick; done) & \
                  while read line; do echo \"got $line\"; [ $line = end ] && break; done; kill $!; exit 7";
    start(&home, "a", script);
    let (mut one, mut two) = (Client::attached(&home, &["a"]), Client::attached(&home, &["a"]));
    let mut watcher = Client::attached(&home, &["--no-stdin", "a"]);
    watcher.type_line("not passed on");
    one.type_line("1");
    for client in [&mut one, &mut two, &mut watcher] {
        assert_eq!(client.line(), "got 1");
    }
    two.type_line("2");
    for client in [&mut one, &mut two, &mut watcher] {
        assert_eq!(client.line(), "got 2");
    }
    // The end of one's input leaves it watching.
    drop(one.child.stdin.take());
    two.type_line("3");
    assert_eq!(one.line(), "got 3");
    // A signal leaves, and ends nothing.
    send(one.child.id(), Signal::SIGINT);
    let left = finish(one.child);
    assert_eq!(left.status.code(), Some(0), "{}", explain(&left));
    assert!(String::from_utf8_lossy(&left.stderr).contains("left sandbox a, which runs on"), "{}", explain(&left));
    // A daemon's death is survived.
    home.kill_daemon();
    let mut four = Client::attached(&home, &["a"]);
    four.type_line("4");
    for client in [&mut two, &mut watcher] {
        assert_eq!([client.line(), client.line()], ["got 3", "got 4"], "nothing is missed or doubled");
    }
    four.type_line("end");
    for client in [two, watcher, four] {
        let ended = finish(client.child);
        assert_eq!(ended.status.code(), Some(7), "{}", explain(&ended));
    }
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
    for keys in [",", "ctrl-", "ctrl-1", &"a,".repeat(50_000), "ctrl-a,,b"] {
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
