//! What meets at a random moment: clients that die, verbs during a start, many sandboxes at once. Nothing is left,
//! and the daemon is as it was.

use std::fs;
use std::process::Stdio;

use super::deaths::{assert_clean, row};
use crate::support::dice::Dice;
use crate::support::{Home, explain, finish, output, run_named as run, spawn, until};

#[test]
fn clients_killed_at_any_moment_leave_a_sandbox_that_can_be_ended() {
    let home = Home::new();
    home.ok(&["ps"]);
    let mut dice = Dice::of_this_run();
    for round in 0..8 {
        let name = format!("c{round}");
        let mut command = run(&home, &name, &["-i"], "while :; do echo x; sleep 0.01; done");
        command.stdin(Stdio::piped());
        let mut client = spawn(command);
        dice.pause(100);
        client.kill().unwrap();
        client.wait().unwrap();
        // The request may still be under way: forced removal ends it whatever it has become.
        until("it is gone for good", || {
            home.run(&["rm", "-f", &name]);
            row(&home, &name).is_none()
        });
        assert_clean(&home);
    }
}

#[test]
fn stop_kill_and_removal_meet_a_start_at_any_moment() {
    let home = Home::new();
    home.ok(&["ps"]);
    let mut dice = Dice::of_this_run();
    for round in 0..12 {
        let name = format!("s{round}");
        let mut client = spawn(run(&home, &name, &[], "exec sleep 1000"));
        dice.pause(40);
        let args = match dice.below(3) {
            0 => vec!["stop", &name],
            1 => vec!["kill", &name],
            _ => vec!["rm", "-f", &name],
        };
        until("it is known", || home.run(&args).status.success() || client.try_wait().unwrap().is_some());
        let result = finish(client);
        let seen = result.status.code();
        // A removal may come first, and hold the name for a moment.
        if seen == Some(125) && String::from_utf8_lossy(&result.stderr).contains("being removed") {
            assert!(row(&home, &name).is_none());
            continue;
        }
        // What is not on record yet leaves none.
        if seen == Some(125) && String::from_utf8_lossy(&result.stderr).contains("was given up") {
            assert!(row(&home, &name).is_none());
            continue;
        }
        // Before the workload runs, a stop may kill and a kill may terminate. What is removed is gone
        // for its client.
        let removed = args[0] == "rm" && seen == Some(125);
        assert!(removed || matches!(seen, Some(137 | 143)), "{args:?}: {}", explain(&result));
        assert_clean(&home);
    }
}

#[test]
fn two_hundred_runs_leave_the_daemon_as_it_was() {
    let home = Home::new();
    let look = || {
        let pid = home.daemon_pid();
        let files = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        let kib: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        (files, threads, kib)
    };
    let one = |i: usize| {
        let result = output(run(&home, "a", &[], &format!("echo {i}")));
        assert_eq!(result.stdout, format!("{i}\n").as_bytes(), "{}", explain(&result));
    };
    (0..50).for_each(one);
    let before = look();
    (0..150).for_each(one);
    let mut after = look();
    until("connections are closed", || {
        after = look();
        after.0 <= before.0 + 2
    });
    println!("{before:?} {after:?}");
    assert!(after.1 <= before.1 + 8, "threads: {before:?} {after:?}");
    assert!(after.2 < before.2 + (8 << 10), "memory: {before:?} {after:?}");
}

#[test]
fn fifty_sandboxes_at_once() {
    let home = Home::new();
    let names: Vec<_> = (0..50).map(|i| format!("n{i}")).collect();
    let clients: Vec<_> =
        names.iter().map(|name| spawn(run(&home, name, &[], &format!("echo {name}; sleep 1; exit 7")))).collect();
    for (client, name) in clients.into_iter().zip(&names) {
        let result = finish(client);
        assert_eq!(result.status.code(), Some(7), "{name}: {}", explain(&result));
        assert_eq!(result.stdout, format!("{name}\n").as_bytes(), "{}", explain(&result));
    }
    assert_clean(&home);
}
