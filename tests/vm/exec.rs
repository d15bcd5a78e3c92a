//! Sessions of real microVMs: `exec`, `shell`, `top` and `attach --session` beside a workload, over the daemon's death and
//! replacement, and to the microVM's end.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::daemon::daemon;
use crate::support::echo::echoes;
use crate::support::pty::OnTerminal;
use crate::support::shell::shell_on_terminal;
use crate::support::{Home, explain, feed, finish, output, said, send, spawn, until};

/// busybox's prompt.
const PROMPT: &str = "/ # ";
const DETACH: &[u8] = b"\x10\x11";

fn exec(home: &Home, args: &[&str]) -> Command {
    home.sandpen(&[&["exec"], args].concat())
}

fn sessions(home: &Home) -> Vec<Value> {
    serde_json::from_str(&home.ok(&["sessions", "--json", "a"])).unwrap()
}

#[test]
fn commands_beside_an_idle_workload() {
    let home = Home::idle();
    let run = |args: &[&str]| output(exec(&home, args));
    said(&run(&["a", "--", "sh", "-c", "echo out; echo err >&2; exit 3"]), 3, "out\n", "err\n");
    said(&run(&["a", "--", "sh", "-c", "kill -9 $$"]), 137, "", "");
    said(&run(&["a", "--", "/no/such"]), 127, "", "/no/such");
    said(&run(&["a", "--", "no-such"]), 127, "", "no-such");
    said(&run(&["a", "--", "/etc"]), 126, "", "/etc");
    said(&run(&["-w", "/no/such", "a", "--", "true"]), 126, "", "/no/such");
    said(&run(&["-u", "nobody-here", "a", "--", "true"]), 126, "", "nobody-here");
    said(&run(&["--timeout", "300ms", "a", "--", "sleep", "100"]), 124, "", "time was up");
    said(
        &run(&["-e", "A=b c", "-w", "/tmp", "-u", "7:8", "a", "--", "sh", "-c", "echo $A; pwd; id -u; id -g"]),
        0,
        "b c\n/tmp\n7\n8\n",
        "",
    );
    // What is left in the background lives on, and holds nothing up.
    said(&run(&["a", "--", "sh", "-c", "sleep 1000 & echo left"]), 0, "left\n", "");
    let top = home.ok(&["top", "a"]);
    assert!(
        top.starts_with("PID ") && top.contains("sleep 1000") && top.lines().any(|line| line.starts_with("1 ")),
        "{top}"
    );
    // Every byte of a mebibyte, and its end, in and out.
    let cat = exec(&home, &["-i", "a", "--", "sh", "-c", "cat; echo end >&2"]);
    assert_eq!(String::from_utf8_lossy(&echoes(cat, 1 << 20)), "end\n");
    // As many arguments as there can be.
    let long = "x".repeat(100_000);
    let most = vec![long.as_str(); 10];
    said(&run(&[&["a", "--", "sh", "-c", "echo $# ${#10}", "sh"][..], &most].concat()), 0, "10 100000\n", "");
    // Side by side: each needs the other one.
    let meet = |mine: &str, other: &str| {
        let script = format!("touch /tmp/{mine}; until [ -e /tmp/{other} ]; do :; done; echo {mine}");
        spawn(exec(&home, &["a", "--", "sh", "-c", &script]))
    };
    let (one, two) = (meet("one", "two"), meet("two", "one"));
    said(&finish(one), 0, "one\n", "");
    said(&finish(two), 0, "two\n", "");
    let mut shell = home.sandpen(&["shell", "a"]);
    shell.stdin(Stdio::piped());
    let mut shell = spawn(shell);
    feed(&mut shell, b"echo in $0; exit 4\n");
    let shell = finish(shell);
    assert_eq!(shell.status.code(), Some(4), "{}", explain(&shell));
    assert!(String::from_utf8_lossy(&shell.stdout).starts_with("in -"), "a login shell: {}", explain(&shell));
    until("every session is forgotten", || sessions(&home).is_empty());
    assert_eq!(home.log("a"), b"");
    home.ok(&["stop", "a"]);
    assert_eq!(home.inspect("a")["exit_code"], 0);
}

#[test]
fn a_terminal_is_used_left_and_found_again_over_every_end_of_a_daemon() {
    let home = Home::idle();
    let mut client = shell_on_terminal(exec(&home, &["-it", "a", "--", "sh"]), PROMPT);
    client.ask("tty", "/dev/pts/0\r\n");
    let id = sessions(&home)[0]["id"].as_str().unwrap().to_owned();
    client.keys(DETACH);
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains(&format!("`sandpen attach --session {id} a` comes back")), "{text}");

    let attach = || OnTerminal::spawn(&home.sandpen(&["attach", "--session", &id, "a"]), 24, 80);
    let successor = daemon(&home, &["--replace"]);
    let mut client = attach();
    client.ask("echo after the $((7-6))st end", "after the 1st end\r\n");
    // With a client, which goes on by itself.
    let seen = client.seen().len();
    home.kill_daemon();
    let _ = finish(successor);
    client.see_after(seen, "goes on with a new one\r\n");
    client.ask("echo after the $((7-5))nd end", "after the 2nd end\r\n");
    client.ask("stty size", "24 80\r\n");
    client.keys(DETACH);
    client.end();
    home.kill_daemon();
    let mut client = attach();
    client.ask("echo after the $((7-4))rd end", "after the 3rd end\r\n");
    client.keys("exit 7\r");
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(7), "{text}");
    until("it is forgotten", || sessions(&home).is_empty());
}

#[test]
fn nothing_is_lost_or_doubled_over_the_deaths_of_daemons() {
    let home = Home::idle();
    // Slower than the daemons die.
    let script = "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); [ $((i%100)) = 0 ] && sleep 0.1; done; read line; echo $line; exit 3";
    let mut client = exec(&home, &["-i", "a", "--", "sh", "-c", script]);
    client.stdin(Stdio::piped());
    let mut client = spawn(client);
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(b"written before\n").unwrap();
    for number in 0..3000 {
        assert_eq!(lines.next().unwrap().unwrap(), number.to_string());
        if number % 1000 == 500 {
            home.kill_daemon();
        }
    }
    drop(stdin);
    assert_eq!(lines.next().unwrap().unwrap(), "written before");
    let ended = finish(client);
    assert_eq!(ended.status.code(), Some(3), "{}", explain(&ended));
}

#[test]
fn sessions_end_with_their_microvm() {
    let home = Home::idle();
    let begin = |script: &str| {
        let mut client = spawn(exec(&home, &["a", "--", "sh", "-c", script]));
        let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "ready");
        (client, lines)
    };
    // In order: what they write at their end still comes.
    let (one, mut lines) = begin("trap 'echo the end; exit 5' HUP; echo ready; while :; do sleep 0.1; done");
    home.ok(&["stop", "a"]);
    assert_eq!(lines.next().unwrap().unwrap(), "the end");
    let one = finish(one);
    assert_eq!(one.status.code(), Some(5), "{}", explain(&one));
    let refused = output(exec(&home, &["a", "--", "true"]));
    said(&refused, 125, "", "it is STOPPED");
    home.ok(&["start", "a"]);
    // Its loss: nobody knows.
    let (two, _lines) = begin("echo ready; exec sleep 1000");
    send(home.microvm_pid("a"), Signal::SIGKILL);
    let two = finish(two);
    assert_eq!(two.status.code(), Some(125), "{}", explain(&two));
}
