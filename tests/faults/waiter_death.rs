//! The waiter's sudden death, alone and together with the daemon's: the microVM lives on, its log is gap-free and
//! not doubled, and an exit status is unknown only where nobody saw it.

use std::fs;

use serde_json::Value;

use super::deaths::{LINES, assert_clean, assert_same, flood, kill_daemon, kill_waiter, numbered};
use crate::support::dice::Dice;
use crate::support::{Home, expect, explain, finish, output, run_named as run, spawn, until};

#[test]
fn a_killed_waiter_is_replaced_and_nothing_is_lost() {
    let home = Home::new();
    let mut dice = Dice::of_this_run();
    for round in 0..4_u64 {
        let name = format!("a{round}");
        let script = format!("echo ready; {}; exec sleep 1000", flood().replace("; exit 42", ""));
        let mut client = spawn(run(&home, &name, &[], &script));
        expect(&mut client, b"ready\n");
        let pid = home.inspect(&name)["microvm_pid"].clone();
        for _ in 0..3 {
            dice.pause(100);
            let killed = kill_waiter(&home, &name);
            // Together with the daemon, or alone.
            if dice.below(2) == 0 {
                kill_daemon(&home);
                home.ok(&["ps"]);
            }
            until("another one is there", || home.waiter(&name).is_some_and(|waiter| waiter != killed));
        }
        let whole = format!("ready\n{}", numbered(LINES));
        until("all is on file", || home.log(&name).len() >= whole.len());
        let found = home.inspect(&name);
        assert_eq!((&found["state"], &found["microvm_pid"]), (&"RUNNING".into(), &pid), "round {round}");
        home.ok(&["kill", &name]);
        let result = finish(client);
        let found = home.inspect(&name);
        assert_eq!(found["state"], "STOPPED", "round {round}: {found}");
        // No guest here that could tell it.
        assert_eq!(result.status.code(), Some(125), "round {round}: {}", explain(&result));
        assert!(String::from_utf8_lossy(&result.stderr).contains("exit status is unknown"), "{}", explain(&result));
        assert_same(home.ok(&["logs", &name]).as_bytes(), &whole, round);
        assert_same(&result.stdout, &numbered(LINES), round);
        assert_clean(&home);
    }
}

#[test]
fn only_an_exit_that_no_waiter_saw_is_unknown() {
    let home = Home::new();
    let go = home.path().join("go");
    let script = format!("echo ready; while [ ! -e '{}' ]; do sleep 0.02; done; exit 42", go.display());
    output(run(&home, "a", &["-d"], &script));
    output(run(&home, "b", &["-d"], &script));
    let killed = kill_waiter(&home, "a");
    until("another one is there", || home.waiter("a").is_some_and(|waiter| waiter != killed));
    fs::write(go, "").unwrap();
    let waited = home.run(&["wait", "a"]);
    home.run(&["wait", "b"]);
    let (a, b) = (home.inspect("a"), home.inspect("b"));
    assert_eq!((&b["state"], &b["exit_code"]), (&"STOPPED".into(), &42.into()), "{b}");
    assert_eq!((&a["state"], &a["exit_code"]), (&"STOPPED".into(), &Value::Null), "{a}");
    assert!(String::from_utf8_lossy(&waited.stderr).contains("unknown"), "it is said: {}", explain(&waited));
    assert_eq!(home.ok(&["logs", "a"]), "ready\n");
    assert_clean(&home);
}

#[test]
fn all_of_ours_killed_at_once_ends_no_microvm() {
    let home = Home::new();
    let names = ["a", "b", "c"];
    for name in names {
        output(run(&home, name, &["-d"], "echo ready; exec sleep 1000"));
    }
    let pids = names.map(|name| home.inspect(name)["microvm_pid"].clone());
    let ours: Vec<_> = home.processes().into_iter().filter(|(_, line)| line.contains("sandpen")).collect();
    assert!(ours.len() >= 4, "{ours:?}");
    kill_daemon(&home);
    for name in names {
        kill_waiter(&home, name);
    }
    until("they are gone", || names.iter().all(|name| home.waiter(name).is_none()));
    for (name, pid) in names.into_iter().zip(pids) {
        let found = home.inspect(name);
        assert_eq!((&found["state"], &found["microvm_pid"]), (&"RUNNING".into(), &pid), "{found}");
        assert!(home.waiter(name).is_some());
        home.ok(&["kill", name]);
        assert_eq!(home.ok(&["logs", name]), "ready\n");
    }
    assert_clean(&home);
}
