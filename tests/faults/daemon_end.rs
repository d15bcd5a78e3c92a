//! A daemon that ends in order: replaced in the middle of a flood, and told twice.

use std::fs;

use nix::sys::signal::Signal;

use super::deaths::{LINES, assert_same, flood, numbered};
use crate::support::daemon::daemon;
use crate::support::{Home, explain, finish, output, run_named as run, send, until};

#[test]
fn a_daemon_is_replaced_while_a_sandbox_floods() {
    let home = Home::new();
    let first = daemon(&home, &[]);
    output(run(&home, "a", &["-d"], &flood()));
    let pid = home.inspect("a")["microvm_pid"].clone();
    let second = daemon(&home, &["--replace"]);
    assert!(finish(first).status.success(), "it ended in order");
    let third = daemon(&home, &["--replace"]);
    assert!(finish(second).status.success());
    let found = home.inspect("a");
    assert!(found["state"] != "RUNNING" || found["microvm_pid"] == pid, "{found}");
    assert_eq!(home.ok(&["wait", "a"]), "42\n");
    assert_same(home.ok(&["logs", "a"]).as_bytes(), &numbered(LINES), 0);

    // A waiter's record of a version that is not known: refused, and the daemon goes on.
    output(run(&home, "b", &["-d"], "exec sleep 1000"));
    let record = home.state().join("run/default/b/processes");
    let text = fs::read_to_string(&record).unwrap();
    fs::write(&record, text.replace("sandpen-processes 1", "sandpen-processes 9")).unwrap();
    let refused = home.fails(&["daemon", "--replace"]);
    assert!(refused.contains("is not replaced"), "{refused}");
    fs::write(&record, text).unwrap();
    // A guest that speaks another version of the control protocol, as the header of its start message says.
    let start = home.state().join("run/default/b/start");
    fs::write(&start, [0xF5, b'S', b'p', 0xFF, 2, 1, 0, 0, 0, 0, 0x18, 0x29, 0x6A, 0xC1]).unwrap();
    let refused = home.fails(&["daemon", "--replace"]);
    assert!(refused.contains("could not speak with the microVM") && refused.contains("version 2"), "{refused}");
    fs::remove_file(&start).unwrap();
    assert_eq!(home.daemon_pid(), third.id());
    assert_eq!(home.inspect("b")["state"], "RUNNING");
    home.ok(&["kill", "b"]);
    home.ok(&["shutdown"]);
    assert!(finish(third).status.success());
}

#[test]
fn a_second_signal_cuts_the_grace_short() {
    let home = Home::new();
    let daemon = daemon(&home, &["--stop-sandboxes", "--time", "86400"]);
    output(run(&home, "a", &["-d"], "trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"));
    until("it is ready", || home.log("a") == b"ready\n");
    send(daemon.id(), Signal::SIGTERM);
    until("it was asked", || home.log("a") == b"ready\nasked\n");
    send(daemon.id(), Signal::SIGTERM);
    let ended = finish(daemon);
    assert!(ended.status.success(), "{}", explain(&ended));
    let found = home.inspect("a");
    assert_eq!((&found["state"], &found["exit_signal"]), (&"STOPPED".into(), &9.into()), "{found}");
}
