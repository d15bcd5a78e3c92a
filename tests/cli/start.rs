//! `start` and `restart`: an ended sandbox again, as it was.

use std::fs;

use crate::support::{Home, explain, run_named, succeeds, until};

const SCRIPT: &str = "echo begun with $WORD; sleep 1000";

/// One with an environment, as a new user's server.
fn server(home: &Home) {
    succeeds(run_named(home, "a", &["-d", "-e", "WORD=a secret"], SCRIPT));
    until("it has begun", || home.ok(&["logs", "a"]) == "begun with a secret\n");
}

#[test]
fn an_ended_one_starts_as_it_was_and_its_log_goes_on() {
    let home = Home::new();
    server(&home);
    let before = home.inspect("a");
    home.ok(&["stop", "--time", "0", "a"]);
    assert_eq!(home.ok(&["start", "a"]), "a\n");
    let after = home.inspect("a");
    assert_eq!((&after["state"], &after["id"]), (&"RUNNING".into(), &before["id"]));
    assert_eq!(after["generation"], 2);
    assert_eq!((&after["restarts"], &after["command"]), (&0.into(), &before["command"]));
    until("it has begun again", || home.ok(&["logs", "a"]).ends_with("begun with a secret\n"));
    let refused = home.fails(&["start", "a"]);
    assert!(refused.contains("is RUNNING already") && refused.contains("`sandpen restart`"), "{refused}");
}

#[test]
fn a_live_one_restarts_and_an_ended_one_too() {
    let home = Home::new();
    server(&home);
    let first = home.inspect("a")["microvm_pid"].clone();
    for ended in [false, true] {
        if ended {
            home.ok(&["kill", "a"]);
        }
        assert_eq!(home.ok(&["restart", "--time", "1", "a"]), "a\n");
        let row = home.inspect("a");
        assert_eq!(row["state"], "RUNNING");
        assert_ne!(row["microvm_pid"], first);
    }
    assert_eq!(home.inspect("a")["generation"], 3);
}

#[test]
fn one_that_waits_for_its_restart_is_restarted_at_once() {
    let home = Home::new();
    let mended = home.path().join("mended");
    let script = format!("[ -e {} ] && exec sleep 1000; exit 3", mended.display());
    succeeds(run_named(&home, "a", &["-d", "--restart", "always"], &script));
    until("it waits", || home.inspect("a")["state"] == "BACKOFF");
    let refused = home.fails(&["start", "a"]);
    assert!(refused.contains("already"), "{refused}");
    fs::write(mended, "").unwrap();
    home.ok(&["restart", "a"]);
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["restarts"]), (&"RUNNING".into(), &0.into()));
}

#[test]
fn what_cannot_be_started_again_is_said() {
    let home = Home::new();
    succeeds(run_named(&home, "gone", &["-d", "--rm"], "sleep 1000"));
    let refused = home.fails(&["restart", "gone"]);
    assert!(refused.contains("--rm"), "{refused}");
    assert_eq!(home.inspect("gone")["state"], "RUNNING", "nothing was ended");
    // Each of several is tried.
    server(&home);
    let output = home.run(&["restart", "--time", "0", "nobody", "a"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(1), &b"a\n"[..]), "{}", explain(&output));
}

#[test]
fn a_start_that_fails_is_no_success() {
    let home = Home::new();
    let rootfs = home.path().join("rootfs");
    fs::create_dir(&rootfs).unwrap();
    home.ok(&["run", "-n", "a", "--driver", "process", rootfs.to_str().unwrap(), "--", "/bin/true"]);
    fs::remove_dir(&rootfs).unwrap();
    let refused = home.fails(&["start", "a"]);
    assert!(refused.contains("no such directory"), "{refused}");
    assert_eq!(home.inspect("a")["generation"], 1, "nothing was begun");
}
