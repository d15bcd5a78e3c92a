//! `--log-backlog block` and `drop` side by side on a disk that is full, a real one, through the built binary.

use std::path::Path;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::full_disk::Disk;
use crate::support::{self, Home, explain, run_named, succeeds, until};

/// Written by each sandbox while the disk is full, to stdout and to stderr.
const FLOOD: u64 = 2_000_000;

/// Starts one that says "begin", floods when it may, notes that it has, and ends when it may.
fn start(home: &Home, signs: &Path, name: &str, options: &[&str]) {
    let wait = |sign: &str| format!("while [ ! -e {}/{sign} ]; do sleep 0.01; done", signs.display());
    let flood = format!("head -c {FLOOD} /dev/zero | tr '\\0' x");
    let done = format!(": > {}/{name}", signs.display());
    let script = format!("echo begin; {}; {flood}; {flood} >&2; {done}; {}; echo end", wait("go"), wait("end"));
    succeeds(run_named(home, name, &[&["-d"], options].concat(), &script));
}

#[test]
fn a_full_disk_keeps_one_waiting_and_costs_the_other_marked_bytes() {
    let disk = Disk::new();
    let home = Home::new_in(disk.path());
    home.ok(&["ps"]);
    let signs = tempfile::tempdir().unwrap();
    let sign = |name: &str| signs.path().join(name);
    start(&home, signs.path(), "blocks", &[]);
    start(&home, signs.path(), "drops", &["--log-backlog", "drop"]);
    until("both began", || home.log("blocks") == b"begin\n" && home.log("drops") == b"begin\n");
    if !disk.fill() {
        home.run(&["shutdown", "--stop-sandboxes", "--time", "1"]);
        return;
    }
    let go = std::fs::write(sign("go"), "");
    let end = std::time::Instant::now() + support::DEADLINE;
    while !sign("drops").exists() && std::time::Instant::now() < end {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let (dropped, blocked) = (sign("drops").exists(), !sign("blocks").exists());
    let told = home.run(&["inspect", "drops"]);
    let counted = home.run(&["metrics"]);
    // Before anything can fail: a daemon without room does not end.
    disk.free();
    go.unwrap();
    assert!(dropped, "it has written all although nothing could be written");
    assert!(blocked, "its neighbour waits");
    let told: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!((&told["state"], &told["log_backlog"]), (&"RUNNING".into(), &"drop".into()));
    assert!(told["log_dropped"]["stdout"].as_u64().unwrap() > 1_000_000, "{told:#}");
    let counted = String::from_utf8_lossy(&counted.stdout).into_owned();
    assert!(counted.contains("sandpen_log_dropped_bytes_total{stream=\"stderr\"}"), "{counted}");

    until("the other one has written all", || sign("blocks").exists());
    std::fs::write(sign("end"), "").unwrap();
    for name in ["blocks", "drops"] {
        assert_eq!(home.ok(&["wait", name]), "0\n");
    }
    let whole = 2 * FLOOD + 10;
    assert_eq!(home.log("blocks").len() as u64, whole);
    assert_eq!(home.inspect("blocks")["log_dropped"], serde_json::Value::Null);
    let lost = home.inspect("drops")["log_dropped"].clone();
    let (stdout, stderr) = (lost["stdout"].as_u64().unwrap(), lost["stderr"].as_u64().unwrap());
    assert!(stderr > 0);
    let kept = home.log("drops");
    assert_eq!(kept.len() as u64 + stdout + stderr, whole);
    assert!(kept.starts_with(b"begin\n") && kept.iter().all(|byte| b"begindx\n".contains(byte)), "raw bytes only");

    // Readers are told beside the bytes; one stream's reader of that stream alone.
    let logs = home.run(&["logs", "drops"]);
    assert_eq!(logs.stdout, kept);
    let marks = |output: &std::process::Output, stream: &str| -> u64 {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = text.lines().filter(|line| line.contains(&format!(" bytes of {stream} were dropped")));
        lines.map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap()).sum()
    };
    assert_eq!((marks(&logs, "stdout"), marks(&logs, "stderr")), (stdout, stderr), "{}", explain(&logs));
    let followed = home.run(&["logs", "-f", "--stream", "stderr", "drops"]);
    assert_eq!((marks(&followed, "stdout"), marks(&followed, "stderr")), (0, stderr));
    until("it is an event", || home.ok(&["events", "--json"]).contains("\"log_dropped\""));
}

#[test]
fn a_daemon_that_dies_amid_a_gap_leaves_no_smaller_loss_and_true_offsets() {
    const BYTES: u64 = 30_000_000;
    /// What one log writer claims before it reads.
    const CLAIM: u64 = 256 << 10;
    let disk = Disk::new();
    let home = Home::new_in(disk.path());
    let signs = tempfile::tempdir().unwrap();
    let script = format!(
        "echo begin; while [ ! -e {0}/go ]; do sleep 0.01; done; head -c {BYTES} /dev/zero | tr '\\0' x; : > {0}/done",
        signs.path().display()
    );
    succeeds(run_named(&home, "a", &["-d", "--log-backlog", "drop", "--log-max-size", "64M"], &script));
    until("it began", || home.log("a") == b"begin\n");
    if !disk.fill() {
        home.run(&["shutdown", "--stop-sandboxes", "--time", "1"]);
        return;
    }
    let daemon = home.daemon_pid();
    let go = std::fs::write(signs.path().join("go"), "");
    let lost = || {
        let row: serde_json::Value = serde_json::from_slice(&home.run(&["inspect", "a"]).stdout).unwrap_or_default();
        row["log_dropped"]["stdout"].as_u64().unwrap_or(0)
    };
    let deadline = std::time::Instant::now() + support::DEADLINE;
    while lost() == 0 && std::time::Instant::now() < deadline {}
    let killed = kill(Pid::from_raw(daemon.cast_signed()), Signal::SIGKILL);
    // Before anything can fail: no daemon starts without room.
    disk.free();
    go.unwrap();
    killed.unwrap();
    until("it has written all", || !home.ok(&["ps"]).is_empty() && signs.path().join("done").exists());
    // The driver of the tests has no exit code where another daemon was there; what counts is the end.
    home.run(&["wait", "a"]);
    let kept = home.log("a");
    let told = kept.len() as u64 + lost();
    let whole = BYTES + 6;
    assert!((whole..=whole + CLAIM).contains(&told), "{} kept, {} dropped", kept.len(), lost());
    assert!(lost() > 0 && kept.starts_with(b"begin\n"));
    assert_eq!(home.run(&["logs", "a"]).stdout, kept);
}

#[test]
fn a_policy_that_is_none_is_refused() {
    let home = Home::new();
    let error = home.fails(&["run", "--log-backlog", "maybe", ".", "--", "true"]);
    assert!(error.contains("neither block nor drop"), "{error}");
    assert!(!home.state().join("daemon.lock").exists());
}
