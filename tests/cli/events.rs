//! What happened, as `sandpen events` tells it: complete, in order, after removals and over deaths of
//! the daemon.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Home, explain, output, run_on_host as run, send, succeeds};

fn events(home: &Home, args: &[&str]) -> Vec<Value> {
    let text = home.ok(&[&["events", "--json"], args].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Number, kind or state, and name of each.
fn brief(event: &Value) -> (u64, String, String) {
    let what = event["detail"]["state"]["status"].as_str().or_else(|| event["kind"].as_str()).unwrap();
    (event["seq"].as_u64().unwrap(), what.to_owned(), event["name"].as_str().unwrap_or("-").to_owned())
}

/// A follower, whose lines come in order. Killed at the end.
struct Follower {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Follower {
    fn new(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on to the first event for which `wanted` holds; all numbers that came, in order.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Vec<u64> {
        let mut seen = Vec::new();
        loop {
            let line = self.lines.next().expect("the stream of events ended").unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            seen.push(event["seq"].as_u64().unwrap());
            if wanted(&event) {
                return seen;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_life_is_told_with_its_reasons_and_stays_after_the_removal() {
    let home = Home::new();
    let ended = output(run(&home, &["-n", "a", "--timeout", "1s"], "exec sleep 100"));
    assert_eq!(ended.status.code(), Some(143), "{}", explain(&ended));
    home.ok(&["rm", "a"]);
    let all = events(&home, &[]);
    let told: Vec<_> = all.iter().map(brief).map(|(seq, what, name)| format!("{seq} {what} {name}")).collect();
    assert_eq!(
        told,
        [
            "1 orchestrator_started -",
            "2 STARTING a",
            "3 RUNNING a",
            "4 STOPPING a",
            "5 STOPPING a",
            "6 FAILED a",
            "7 removed a"
        ]
    );
    assert!(all[5]["detail"]["reason"].as_str().unwrap().contains("time limit of 1s"), "{}", all[5]);
    let text = home.ok(&["events", "--from", "6", "a"]);
    let lines: Vec<_> = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!((lines.len(), lines[0][0], lines[0][2], lines[0][3]), (2, "6", "a", "FAILED"), "{text}");
    assert!(text.contains("time limit of 1s"), "{text}");
    assert_eq!(events(&home, &["--from", "8"]), Vec::<Value>::new());
    assert_eq!(events(&home, &["other"]), Vec::<Value>::new());
}

#[test]
fn numbers_that_make_no_sense_are_refused() {
    let home = Home::new();
    home.ok(&["ps"]);
    let refused = home.fails(&["events", "--from", "1000"]);
    assert!(refused.contains("event 1000 has not happened yet; the next one is 2"), "{refused}");
    assert!(home.fails(&["events", "-f", "--from", &u64::MAX.to_string()]).contains("has not happened yet"));
    for bad in ["0", "-1", "x", "1.5", "18446744073709551616", ""] {
        assert_eq!(home.run(&["events", &format!("--from={bad}")]).status.code(), Some(2), "{bad}");
    }
    for bad in ["../a", "a/b/c", ""] {
        home.fails(&["events", bad]);
    }
}

#[test]
fn a_follower_outlives_its_daemon_and_misses_nothing() {
    let home = Home::new();
    let _started = succeeds(run(&home, &["-d", "-n", "a"], "exec sleep 1000"));
    let mut follower = Follower::new(home.sandpen(&["events", "-f", "--json"]));
    let mut seen = follower.until(|event| event["detail"]["state"]["status"] == "RUNNING");
    let first = home.daemon_pid();
    send(first, Signal::SIGKILL);
    // The follower itself finds or starts the next daemon.
    seen.extend(follower.until(|event| event["kind"] == "orchestrator_started" && event["detail"]["pid"] != first));
    home.ok(&["stop", "a"]);
    seen.extend(follower.until(|event| event["detail"]["state"]["status"] == "STOPPED"));
    let expected: Vec<u64> = (1..=u64::try_from(seen.len()).unwrap()).collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_follower_that_does_not_read_holds_up_nobody_and_gets_everything_later() {
    let home = Home::new();
    home.ok(&["ps"]);
    let mut follower = Follower::new(home.sandpen(&["events", "-f", "--json"]));
    // Some 70 KB of lines: more than the pipe between holds.
    let script = "exit 0";
    for _ in 0..40 {
        let _ended = succeeds(run(&home, &["-n", "a", "-e", "A=b"], script));
    }
    home.ok(&["rm", "a"]);
    let seen = follower.until(|event| event["kind"] == "removed");
    let expected: Vec<u64> = (1..=u64::try_from(seen.len()).unwrap()).collect();
    assert_eq!(seen, expected);
    assert_eq!(seen.len(), 1 + 40 * 4 + 1);
}

#[test]
fn a_follower_hears_of_a_shutdown_from_the_next_daemon() {
    let home = Home::new();
    home.ok(&["ps"]);
    let mut follower = Follower::new(home.sandpen(&["events", "-f", "--json"]));
    let first = home.daemon_pid();
    assert_eq!(follower.until(|event| event["detail"]["pid"] == first), [1]);
    home.ok(&["shutdown"]);
    home.ok(&["ps"]);
    assert_eq!(follower.until(|event| event["kind"] == "orchestrator_stopped"), [2]);
    assert_eq!(follower.until(|event| event["kind"] == "orchestrator_started"), [3]);
}
