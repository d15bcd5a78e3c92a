//! A state directory that an earlier program left, byte for byte, with what that program answered about it: this
//! one answers the same, and takes up what was going on. It is the first version that kept all of it, killed
//! amid two running sandboxes, on a host that was restarted since.
//!
//! `state_of_before/state` has the files, `state_of_before/answers` what `events --json` said, and for each ended
//! sandbox `inspect` (`.json`, without paths and timings), `logs` (`.out`) and `logs -t` (`.times`). They are never
//! written anew: a program that cannot read them any more needs a migration.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;

use crate::support::{Home, explain, output, until};

const ENDED: [&str; 8] = ["ended", "killed", "linux", "repeated", "signalled", "stopped", "timed", "unwell"];

fn left(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/state_of_before").join(path)
}

/// Copies a directory with the modes that the program insists on.
fn copy_private(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    fs::set_permissions(to, fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_private(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).unwrap();
            fs::set_permissions(&target, fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
}

fn left_behind() -> Home {
    let home = Home::new();
    copy_private(&left("state"), &home.state());
    for name in ["back", "lost"] {
        for pipe in ["commands", "ended", "log", "stderr.out", "stdout.out"] {
            mkfifo(&home.state().join("run/default").join(name).join(pipe), Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        }
    }
    home
}

/// Whether all of `before` is in `now`, which may know more.
fn assert_has(now: &Value, before: &Value, what: &str) {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            for (key, before) in before {
                let now = now.get(key).unwrap_or_else(|| panic!("{what}: no {key}"));
                assert_has(now, before, &format!("{what}.{key}"));
            }
        }
        (Value::Array(now), Value::Array(before)) => {
            assert_eq!(now.len(), before.len(), "{what}");
            for (at, (now, before)) in now.iter().zip(before).enumerate() {
                assert_has(now, before, &format!("{what}[{at}]"));
            }
        }
        _ => assert_eq!(now, before, "{what}"),
    }
}

#[test]
fn what_ended_is_told_as_before() {
    let home = left_behind();
    for name in ENDED {
        let answer = |kind: &str| fs::read(left(&format!("answers/{name}.{kind}"))).unwrap();
        assert_has(&home.inspect(name), &serde_json::from_slice(&answer("json")).unwrap(), name);
        let logs = home.run(&["logs", name]);
        assert!(logs.status.success(), "{name}: {}", explain(&logs));
        assert!(logs.stdout == answer("out") && logs.stderr.is_empty(), "{name}: {}", explain(&logs));
        let mut timed = home.sandpen(&["logs", "-t", name]);
        timed.env("TZ", "UTC");
        let timed = output(timed);
        assert!(timed.stdout == answer("times"), "{name}: {}", explain(&timed));
    }
    assert_eq!(home.ok(&["wait", "ended"]), "42\n");
    assert!(home.fails(&["inspect", "removed"]).contains("there is no sandbox"));
}

#[test]
fn events_go_on_where_they_were() {
    let home = left_behind();
    let before = fs::read_to_string(left("answers/events.jsonl")).unwrap();
    let now = home.ok(&["events", "--json"]);
    for (now, before) in now.lines().zip(before.lines()) {
        assert_has(&serde_json::from_str(now).unwrap(), &serde_json::from_str(before).unwrap(), "an event");
    }
    let seq = |line: &str| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap();
    let numbers: Vec<u64> = now.lines().map(seq).collect();
    assert!(numbers.len() > before.lines().count(), "the end of those that ran is told: {now}");
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
}

#[test]
fn what_ran_is_lost_or_comes_back_and_its_log_goes_on() {
    let home = left_behind();
    let found = home.inspect("lost");
    assert_eq!((&found["state"], &found["failure_kind"]), (&"FAILED".into(), &"lost".into()), "{found}");
    assert_eq!(home.ok(&["logs", "lost"]), "start\n");
    until("it is back", || home.inspect("back")["state"] == "RUNNING" && home.log("back") == b"start\nstart\n");
    assert_eq!(home.inspect("back")["restarts"], 1);
    home.ok(&["kill", "back"]);
    // Names are free again, and logs of new runs are apart.
    home.ok(&["rm", "ended"]);
    home.ok(&["run", "--driver", "process", "-n", "ended", "/", "--", "true"]);
    assert_eq!(home.inspect("ended")["generation"], 1);
    assert_eq!(home.ok(&["logs", "ended"]), "");
}
