//! Restart policies through the built binary, with host commands as workloads.

use std::fs;

use nix::sys::signal::Signal;

use crate::support::{Home, explain, output, run_on_host as run, send, succeeds, until};

/// Counts its starts in the working directory of the test; ends with `exit` for the first ones, then 0.
fn counting(home: &Home, exit: u32, failures: u32) -> String {
    let file = home.path().join("starts");
    format!("echo start >> {0}; n=$(wc -l < {0}); echo run $n; [ $n -gt {failures} ] || exit {exit}", file.display())
}

fn starts(home: &Home) -> usize {
    fs::read_to_string(home.path().join("starts")).unwrap_or_default().lines().count()
}

#[test]
fn the_foreground_shows_all_starts_and_ends_with_the_last() {
    let home = Home::new();
    let result = output(run(&home, &["-n", "a", "--restart", "on-failure:5"], &counting(&home, 7, 2)));
    assert_eq!(String::from_utf8_lossy(&result.stdout), "run 1\nrun 2\nrun 3\n", "{}", explain(&result));
    assert_eq!(result.status.code(), Some(0), "{}", explain(&result));
    assert_eq!(home.inspect("a")["restarts"], 2);
    let result = output(run(&home, &["-n", "b", "--restart", "on-failure:1"], "echo x; exit 7"));
    assert_eq!((&result.stdout[..], result.status.code()), (&b"x\nx\n"[..], Some(7)), "{}", explain(&result));
    assert_eq!(home.ok(&["logs", "-f", "b"]), "x\nx\n");
}

#[test]
fn policies_are_read_as_docker_does() {
    let home = Home::new();
    for bad in ["never", "on-failure:0", "on-failure:x", "always:1", ""] {
        let refused = output(run(&home, &["--restart", bad], "true"));
        assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("unless-stopped"), "{}", explain(&refused));
    }
    for options in [&["--rm", "--restart", "always"][..], &["-d", "--rm", "--restart", "on-failure:3"]] {
        let refused = output(run(&home, options, "true"));
        assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("removed when it ends"), "{}", explain(&refused));
    }
    let _fine = succeeds(run(&home, &["--rm", "--restart", "no"], "true"));
}

#[test]
fn a_pending_restart_is_shown_and_a_stop_ends_it_for_good() {
    let home = Home::new();
    // Restarts in a row until the pause is long enough to be seen.
    let _started = succeeds(run(&home, &["-d", "-n", "a", "--restart", "always"], "exit 3"));
    let mut shown = String::new();
    until("a pause is seen", || {
        shown = home.ok(&["ps"]);
        shown.contains("BACKOFF (next in ")
    });
    assert!(shown.lines().nth(1).is_some_and(|line| line.starts_with("a ")), "{shown}");
    home.ok(&["stop", "a"]);
    let row = home.inspect("a");
    assert_eq!((row["state"].as_str(), row["stopped_by"].as_str()), (Some("STOPPED"), Some("request")));
    // Not even the next daemon starts it again.
    let generation = row["generation"].clone();
    home.ok(&["shutdown"]);
    assert_eq!(home.inspect("a")["generation"], generation);
}

#[test]
fn what_ended_with_the_daemon_comes_back_with_the_next_one() {
    let home = Home::new();
    for (name, policy) in [("a", "unless-stopped"), ("b", "always"), ("c", "on-failure")] {
        let _started = succeeds(run(&home, &["-d", "-n", name, "--restart", policy], "exec sleep 1000"));
    }
    home.ok(&["shutdown", "--stop-sandboxes"]);
    for name in ["a", "b"] {
        until("it runs again", || home.inspect(name)["state"] == "RUNNING");
        assert_eq!(home.inspect(name)["generation"], 2);
        home.ok(&["stop", name]);
    }
    let row = home.inspect("c");
    assert_eq!((row["state"].as_str(), row["stopped_by"].as_str()), (Some("STOPPED"), Some("shutdown")));
}

#[test]
fn a_time_limit_is_a_failure_with_its_reason_everywhere() {
    let home = Home::new();
    let options = ["-n", "a", "--timeout", "1s", "--restart", "on-failure:1"];
    let result = output(run(&home, &options, "echo up; exec sleep 1000"));
    assert_eq!((&result.stdout[..], result.status.code()), (&b"up\nup\n"[..], Some(143)), "{}", explain(&result));
    assert!(String::from_utf8_lossy(&result.stderr).contains("time limit of 1s"), "{}", explain(&result));
    let row = home.inspect("a");
    assert_eq!((row["state"].as_str(), row["failure_kind"].as_str()), (Some("FAILED"), Some("timed_out")));
    assert_eq!((row["restarts"].as_u64(), row["generation"].as_u64()), (Some(1), Some(2)));
    let events = home.ok(&["events", "a"]);
    let failed = events.lines().filter(|line| line.contains("FAILED") && line.contains("time limit of 1s"));
    assert_eq!(failed.count(), 2, "{events}");
}

/// Wherever the daemon dies, the next one knows what is to be done: no start is forgotten, none is one
/// too many.
#[test]
fn restarts_are_neither_lost_nor_doubled_when_the_daemon_dies() {
    let home = Home::new();
    let _started = succeeds(run(&home, &["-d", "-n", "a", "--restart", "on-failure"], &counting(&home, 1, 5)));
    let mut seen = 1;
    while seen < 6 {
        // Each death follows a start closely: before, while or after its end is recorded.
        until("the next start, or the end", || starts(&home) > seen || home.inspect("a")["state"] == "STOPPED");
        // Whose pid is in the file, if a daemon died just now: there has to be one.
        home.ok(&["ps"]);
        let pid = home.daemon_pid();
        send(pid, Signal::SIGKILL);
        seen = starts(&home).max(seen + 1);
    }
    until("the end", || home.inspect("a")["state"] == "STOPPED");
    let row = home.inspect("a");
    assert_eq!((row["generation"].as_u64(), row["restarts"].as_u64()), (Some(6), Some(5)), "{row}");
    assert_eq!(starts(&home), 6);
    let runs: String = (1..=6).map(|run| format!("run {run}\n")).collect();
    assert_eq!(home.ok(&["logs", "a"]), runs);
}

#[test]
fn a_limit_of_a_log_that_an_older_version_recorded_is_read_and_restarted() {
    const BYTES: usize = 20_000;
    let home = Home::new();
    let script = format!("head -c {BYTES} /dev/zero | tr '\\0' x; exec sleep 1000");
    let options = ["-d", "-n", "a", "--restart", "always", "--log-max-size", "4K"];
    let _started = succeeds(run(&home, &options, &script));
    home.ok(&["shutdown"]);
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(home.state().join("sandpen.db"));
    actix_rt::Runtime::new().unwrap().block_on(async {
        let mut database = sqlx::ConnectOptions::connect(&options).await.unwrap();
        let most = "UPDATE sandboxes SET spec = json_set(spec, '$.log.keep', 4294967295)";
        assert_eq!(sqlx::query(most).execute(&mut database).await.unwrap().rows_affected(), 1);
        sqlx::Connection::close(database).await.unwrap();
    });
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["restarts"]), (&"RUNNING".into(), &0.into()), "{row:#}");
    send(home.microvm_pid("a"), Signal::SIGKILL);
    let files = || {
        let entries = fs::read_dir(home.state().join("logs/default")).unwrap().map(|entry| entry.unwrap().path());
        let logs =
            entries.filter(|path| path.extension().is_some_and(|extension| extension != "idx" && extension != "vmm"));
        logs.map(|path| path.metadata().map_or(0, |meta| usize::try_from(meta.len()).unwrap())).collect::<Vec<_>>()
    };
    until("it has written all again", || {
        home.inspect("a")["restarts"] == 1 && files().iter().sum::<usize>() == 2 * BYTES
    });
    assert!(files().len() >= 2 * BYTES / 4096, "{:?}", files());
    assert_eq!(home.ok(&["logs", "a"]), "x".repeat(2 * BYTES));
    home.ok(&["kill", "a"]);
}
