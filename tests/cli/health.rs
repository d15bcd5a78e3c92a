//! Health checks through the built binary, with host commands as workloads.

use std::fs;

use crate::support::{Home, explain, output, run_on_host as run, succeeds, until};

const QUICK: [&str; 4] = ["--health-interval", "100ms", "--health-retries", "2"];

#[test]
fn a_workload_that_is_not_well_has_crashed_and_the_policy_applies() {
    let home = Home::new();
    let sick = home.path().join("sick");
    let check = format!("echo looking; test ! -e {}", sick.display());
    let options =
        [&["-d", "-n", "a", "--restart", "on-failure:1", "--health-cmd", check.as_str()][..], &QUICK].concat();
    let _started = succeeds(run(&home, &options, "exec sleep 1000"));
    until("it is well", || home.ok(&["ps"]).contains("RUNNING (healthy)"));
    // A daemon that dies leaves the check to the next one.
    home.kill_daemon();
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    fs::write(&sick, "").unwrap();
    assert_eq!(home.run(&["wait", "a"]).status.code(), Some(0));
    let row = home.inspect("a");
    assert_eq!((row["state"].as_str(), row["failure_kind"].as_str()), (Some("FAILED"), Some("unhealthy")), "{row}");
    assert_eq!(
        row["failure"], "the health check failed 2 times in a row; the last time: exit code 1: looking",
        "{row}"
    );
    assert_eq!((row["generation"].as_u64(), row["restarts"].as_u64()), (Some(2), Some(1)));
    let events = home.ok(&["events", "a"]);
    assert_eq!(events.lines().filter(|line| line.contains("FAILED") && line.contains("health check")).count(), 2);
    assert!(events.contains("health_changed  healthy"), "{events}");
    assert!(events.contains("health_changed  failing, 1 in a row: exit code 1: looking"), "{events}");
}

#[test]
fn checks_that_hang_or_cannot_run_have_failed_and_the_start_period_forgives() {
    let home = Home::new();
    let hangs = ["-n", "a", "--health-cmd", "exec sleep 1000", "--health-timeout", "100ms"];
    let result = output(run(&home, &[&hangs[..], &QUICK].concat(), "exec sleep 1000"));
    assert!(String::from_utf8_lossy(&result.stderr).contains("2 times in a row; the last time: out of time"));
    let forgiven = ["-n", "b", "--health-cmd", "false", "--health-start-period", "1h"];
    let mut started = run(&home, &[&["-d"][..], &forgiven, &QUICK].concat(), "exec sleep 1000");
    assert!(started.output().unwrap().status.success());
    until("a failure is told", || home.inspect("b")["health"]["output"] == "exit code 1");
    assert!(home.ok(&["ps"]).contains("RUNNING (starting)"));
    home.ok(&["stop", "b"]);
    assert_eq!(home.inspect("b")["state"], "STOPPED");
}

#[test]
fn values_are_checked() {
    let home = Home::new();
    for (options, words) in [
        (&["--health-interval", "1s"][..], "--health-cmd"),
        (&["--health-cmd", "true", "--health-interval", "1ms"], "100ms to 24h"),
        (&["--health-cmd", "true", "--health-timeout", "100days"], "100ms to 24h"),
        (&["--health-cmd", "true", "--health-retries", "0"], "1 to 1000"),
        (&["--health-cmd", &"x".repeat(4000)], "3072 bytes"),
    ] {
        let refused = output(run(&home, options, "true"));
        assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains(words), "{}", explain(&refused));
    }
}
