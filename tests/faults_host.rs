//! Faults of the host around us: a full disk, a locked database, a stopped VMM. What runs is not
//! harmed; what is new is refused and says why. The table is in docs/faults.md.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on fails")]

#[path = "chaos/disk.rs"]
mod disk;
mod support;

use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use support::{Home, output, until};

/// `sandpen run -d -n NAME` of a script on the host.
fn run(home: &Home, name: &str, script: &str) -> Command {
    let mut command = home.sandpen(&["run", "-d", "--driver", "process", "-n", name]);
    command.arg(home.path()).args(["--", "/bin/sh", "-c", script]);
    command
}

#[test]
fn a_full_disk_holds_output_back_and_refuses_new_sandboxes() {
    let disk = disk::Disk::new();
    let home = Home::new_in(disk.path());
    home.ok(&["ps"]);
    let go = tempfile::tempdir().unwrap();
    let wait = format!("while [ ! -e {}/go ]; do sleep 0.01; done", go.path().display());
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; done; exit 7";
    assert!(output(run(&home, "a", &format!("{wait}; {script}"))).status.success());
    let pid = home.inspect("a")["microvm_pid"].clone();
    if !disk.fill() {
        home.run(&["kill", "a"]);
        return;
    }
    let refused = output(run(&home, "b", "true"));
    // The workload prints into a full disk.
    let go = std::fs::write(go.path().join("go"), "");
    let log_is_stuck = Instant::now() + Duration::from_millis(500);
    let mut rows = Vec::new();
    while Instant::now() < log_is_stuck {
        rows.push(home.run(&["inspect", "a"]));
    }
    // Before anything can fail: a daemon without room does not end.
    disk.free();
    go.unwrap();
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success(), "{message}");
    assert!(message.contains("full") || message.contains("No space left"), "{message}");
    for row in rows {
        let row: serde_json::Value = serde_json::from_slice(&row.stdout).unwrap();
        assert_eq!((&row["state"], &row["microvm_pid"]), (&"RUNNING".into(), &pid));
    }
    until("it ends", || home.inspect("a")["state"] == "STOPPED");
    assert_eq!(home.inspect("a")["exit_code"], 7);
    let expected: String = (1..=100_000).map(|i| format!("line {i}\n")).collect();
    assert!(home.log("a") == expected.as_bytes(), "{} bytes of {}", home.log("a").len(), expected.len());
    assert!(output(run(&home, "b", "true")).status.success());
}

#[actix_rt::test]
async fn a_database_that_another_program_locks_delays_and_refuses() {
    let home = Home::new();
    assert!(output(run(&home, "a", "while [ ! -e go ]; do sleep 0.01; done; exit 7")).status.success());
    let options = SqliteConnectOptions::new().filename(home.state().join("sandpen.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let refused = output(run(&home, "b", "true"));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("locked"), "{message}");
    std::fs::write(home.path().join("go"), "").unwrap();
    // Its end cannot be recorded yet; nothing is said that is not durable.
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    until("its end is recorded", || home.inspect("a")["state"] == "STOPPED");
    assert_eq!(home.inspect("a")["exit_code"], 7);
    assert!(output(run(&home, "b", "true")).status.success());
}

#[test]
fn a_vmm_that_is_stopped_by_a_signal_stays_running_and_can_be_ended() {
    let home = Home::new();
    assert!(output(run(&home, "a", "exec sleep 1000")).status.success());
    let pid = i32::try_from(home.inspect("a")["microvm_pid"].as_i64().unwrap()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["stop", "--time", "1", "a"]);
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_signal"]), (&"STOPPED".into(), &9.into()), "{row:#}");
}
