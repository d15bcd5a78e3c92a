//! Faults of the host around us: a full disk, a locked database, a stopped VMM. What runs is not
//! harmed; what is new is refused and says why. The table is in docs/faults.md.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sandpen_skip::{Reason, skip};
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::support::daemon::serving;
use crate::support::full_disk::Disk;
use crate::support::loop_disk::LoopDisk;
use crate::support::{Home, finish, output, output_within, run_named as run, send, send_if_there, succeeds, until};

/// The number of `sandpen metrics`, with its labels as they are printed there.
fn metric(home: &Home, name: &str) -> u64 {
    let text = home.ok(&["metrics"]);
    let line = text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).rsplit(' ').next().unwrap().parse().unwrap()
}

/// Longer than anything may take that is not kept waiting for ever.
const LIMIT: Duration = Duration::from_mins(1);

/// The letter of a process's state in /proc; `None` when it is gone.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Every event as kind and detail, oldest first.
fn events(home: &Home) -> Vec<(String, serde_json::Value)> {
    let lines = home.ok(&["events", "--json"]);
    let events = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    events.map(|event| (event["kind"].as_str().unwrap().to_owned(), event["detail"].clone())).collect()
}

/// How often a fault began and ended, by the events.
fn edges(home: &Home, fault: &str) -> (usize, usize) {
    let events = events(home);
    let count = |kind: &str| events.iter().filter(|(of, detail)| of == kind && detail["fault"] == fault).count();
    (count("fault_began"), count("fault_ended"))
}

/// How often a log failed and recovered, by the events.
fn log_edges(home: &Home) -> (usize, usize) {
    let events = events(home);
    let count = |kind: &str| events.iter().filter(|(of, _)| of == kind).count();
    (count("log_failed"), count("log_recovered"))
}

#[test]
fn a_full_disk_holds_output_back_and_refuses_new_sandboxes() {
    let disk = Disk::new();
    let home = Home::new_in(disk.path());
    home.ok(&["ps"]);
    let go = tempfile::tempdir().unwrap();
    let wait = format!("while [ ! -e {}/go ]; do sleep 0.01; done", go.path().display());
    let script = "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); echo line $i; done; exit 7";
    succeeds(run(&home, "a", &["-d"], &format!("{wait}; {script}")));
    let pid = home.inspect("a")["microvm_pid"].clone();
    if !disk.fill() {
        home.run(&["kill", "a"]);
        return;
    }
    let refused = output(run(&home, "b", &["-d"], "true"));
    // The workload prints into a full disk.
    let go = std::fs::write(go.path().join("go"), "");
    let log_is_stuck = Instant::now() + Duration::from_millis(500);
    let mut rows = Vec::new();
    let full = metric(&home, "sandpen_fault_active{fault=\"disk_full\"}");
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
    succeeds(run(&home, "b", &["-d"], "true"));
    // Told when there was room again, once for each end, whatever was tried in between.
    assert_eq!(full, 1);
    until("the events are recorded", || edges(&home, "disk_full").1 > 0 && log_edges(&home).1 > 0);
    assert_eq!((edges(&home, "disk_full"), log_edges(&home)), ((1, 1), (1, 1)), "{:#?}", events(&home));
    assert_eq!(metric(&home, "sandpen_faults_total{fault=\"disk_full\"}"), 1);
    assert_eq!(metric(&home, "sandpen_fault_active{fault=\"disk_full\"}"), 0);
    assert_eq!(metric(&home, "sandpen_starts_refused_total{reason=\"disk_full\"}"), 1);
    assert_eq!(metric(&home, "sandpen_log_failures_total"), 1);
    assert!(metric(&home, "sandpen_log_retries_total") > 1);
    assert_eq!(metric(&home, "sandpen_log_bytes_total"), expected.len() as u64);
}

#[test]
fn a_full_disk_keeps_no_microvm_from_being_stopped_and_no_daemon_from_ending() {
    let disk = Disk::new();
    let home = Home::new_in(disk.path());
    // `a` has written when it is stopped, `b` is silent, `c` ends by itself while nothing can be recorded.
    let forever = "while :; do echo x; sleep 0.05; done";
    succeeds(run(&home, "a", &["-d"], forever));
    succeeds(run(&home, "b", &["-d"], "exec sleep 1000"));
    let go = tempfile::tempdir().unwrap();
    let wait = format!("while [ ! -e {}/go ]; do sleep 0.01; done; exit 7", go.path().display());
    succeeds(run(&home, "c", &["-d"], &wait));
    let pids = ["a", "b", "c"].map(|name| home.microvm_pid(name));
    let runs = |pid: u32| !matches!(state_of(pid), None | Some('Z'));
    if !disk.fill() {
        home.run(&["shutdown", "--stop-sandboxes", "--time", "1"]);
        return;
    }
    let go = std::fs::write(go.path().join("go"), "");
    let stopped = output_within(LIMIT, home.sandpen(&["stop", "--time", "1", "b"]));
    let b_runs = runs(pids[1]);
    let shutdown = output_within(LIMIT, home.sandpen(&["shutdown", "--stop-sandboxes", "--time", "1"]));
    let still_run: Vec<_> = pids.into_iter().filter(|pid| runs(*pid)).collect();
    // Before anything can fail: a daemon without room to record does not clean up.
    disk.free();
    go.unwrap();
    let stopped = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(stopped.contains("cannot be recorded now (disk_full)"), "{stopped}");
    assert!(!b_runs);
    let shutdown = String::from_utf8_lossy(&shutdown.stderr).into_owned();
    for name in ["default/a", "default/b", "default/c"] {
        assert!(shutdown.contains(name), "{shutdown}");
    }
    assert_eq!(still_run, [0; 0]);
    // The next daemon finds all of it.
    let ends = ["a", "b", "c"].map(|name| home.inspect(name));
    for row in &ends {
        assert!(row["state"] == "STOPPED" || row["state"] == "FAILED", "{row:#}");
    }
    assert_eq!(ends[2]["exit_code"], 7, "{:#}", ends[2]);
    assert!(home.log("a").chunks(2).all(|line| line == b"x\n"));
}

#[actix_rt::test]
async fn a_database_that_another_program_locks_delays_and_refuses() {
    let home = Home::new();
    succeeds(run(&home, "a", &["-d"], "while [ ! -e go ]; do sleep 0.01; done; exit 7"));
    let options = SqliteConnectOptions::new().filename(home.state().join("sandpen.db"));
    let mut other = SqliteConnection::connect_with(&options).await.unwrap();
    sqlx::query("BEGIN EXCLUSIVE").execute(&mut other).await.unwrap();
    let refused = output(run(&home, "b", &["-d"], "true"));
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("locked"), "{message}");
    std::fs::write(home.path().join("go"), "").unwrap();
    // Its end cannot be recorded yet; nothing is said that is not durable.
    until("its end has been tried", || metric(&home, "sandpen_database_failures_total{cause=\"locked\"}") > 1);
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    other.close().await.unwrap();
    until("its end is recorded", || home.inspect("a")["state"] == "STOPPED");
    assert_eq!(home.inspect("a")["exit_code"], 7);
    succeeds(run(&home, "b", &["-d"], "true"));
    until("the end of the fault is recorded", || edges(&home, "database_locked").1 > 0);
    assert_eq!(edges(&home, "database_locked"), (1, 1));
    assert_eq!(metric(&home, "sandpen_faults_total{fault=\"database_locked\"}"), 1);
    assert_eq!(metric(&home, "sandpen_starts_refused_total{reason=\"database\"}"), 1);
}

#[test]
fn a_vmm_that_is_stopped_by_a_signal_stays_running_and_can_be_ended() {
    let home = Home::new();
    succeeds(run(&home, "a", &["-d"], "exec sleep 1000"));
    let pid = home.microvm_pid("a");
    send(pid, Signal::SIGSTOP);
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["stop", "--time", "1", "a"]);
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_signal"]), (&"STOPPED".into(), &9.into()), "{row:#}");
    let told = || events(&home).into_iter().filter(|(kind, _)| kind == "vmm_suspended").collect::<Vec<_>>();
    until("it is recorded", || !told().is_empty());
    assert_eq!(told(), [("vmm_suspended".to_owned(), serde_json::json!({ "pid": pid }))]);
    assert_eq!(metric(&home, "sandpen_vmms_suspended_total"), 1);
}

/// A command that starts the daemon where it has to live with `limits` of the shell's `ulimit`.
fn daemon_with(home: &Home, limits: &str) -> Command {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", &format!("ulimit {limits}; exec \"$0\" ps"), env!("CARGO_BIN_EXE_sandpen")]);
    command.env("SANDPEN_STATE_DIR", home.state());
    command
}

#[test]
fn a_process_without_file_descriptors_refuses_new_sandboxes_and_logs_on_afterwards() {
    let home = Home::new();
    let go = home.path().join("go");
    let script = "while [ ! -e go ]; do sleep 0.05; done; echo late; exec sleep 1000";
    succeeds(daemon_with(&home, "-n 200"));
    let mut started = Vec::new();
    let refused = loop {
        let name = format!("s{}", started.len());
        let asked = output(run(&home, &name, &["-d"], script));
        if !asked.status.success() {
            break String::from_utf8_lossy(&asked.stderr).into_owned();
        }
        started.push(name);
        assert!(started.len() < 100);
    };
    assert!(refused.contains("may open 200 files"), "{refused}");
    assert!(started.len() > 3, "{started:?}");
    // Recorded beside the answer.
    until("the fault is recorded", || edges(&home, "open_files").0 > 0);
    assert_eq!(edges(&home, "open_files"), (1, 0));
    // Connections take what is really left; then the workloads write their first bytes, for which files
    // have to be opened.
    let socket = home.state().join("sandpen.sock");
    let connections: Vec<_> = (0..200).map_while(|_| std::os::unix::net::UnixStream::connect(&socket).ok()).collect();
    let fds = format!("/proc/{}/fd", home.daemon_pid());
    until("all descriptors are in use", || std::fs::read_dir(&fds).unwrap().count() >= 199);
    std::fs::write(go, "").unwrap();
    let daemon_log = home.state().join("daemon.log");
    until("a log fails", || std::fs::read_to_string(&daemon_log).unwrap().contains("the log cannot be written"));
    drop(connections);
    for name in &started {
        until("the output is on file", || {
            std::fs::read(home.state().join(format!("logs/default/{name}.log"))).is_ok_and(|log| log == b"late\n")
        });
        assert_eq!(home.inspect(name)["state"], "RUNNING");
    }
    until("the logs' recovery is recorded", || log_edges(&home).0 == log_edges(&home).1);
    assert!(metric(&home, "sandpen_log_failures_total") > 0);
    // Room again, which is found without another request.
    home.ok(&["kill", &started[0]]);
    until("the end of the fault is recorded", || edges(&home, "open_files").1 > 0);
    succeeds(run(&home, "again", &["-d"], "true"));
}

/// Sets how many processes and threads the user of a daemon may have before the daemon can make no more.
fn limit_processes(home: &Home, daemon: u32, limit: &str) {
    let mut command = Command::new("prlimit");
    // Only the soft limit, which the user may raise again.
    command.args(["--pid", &daemon.to_string(), &format!("--nproc={limit}:")]);
    command.uid(home.uid()).gid(home.uid());
    succeeds(command);
}

#[test]
fn a_host_without_room_for_another_process_fails_new_sandboxes_and_harms_none_that_runs() {
    if !nix::unistd::Uid::effective().is_root() {
        return skip(Reason::NotRoot, "the limit is of a user's processes, and this one has others");
    }
    let home = Home::of_ordinary_user();
    let go = home.state().parent().unwrap().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo late; exec sleep 1000", go.display());
    succeeds(run(&home, "a", &["-d"], &script));
    let pid = home.inspect("a")["microvm_pid"].clone();
    let daemon = home.daemon_pid();
    limit_processes(&home, daemon, "1");
    let failed = output(run(&home, "b", &["-d"], "true"));
    let failed = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(failed.contains("Resource temporarily unavailable"), "{failed}");
    assert_eq!(home.inspect("b")["failure_kind"], "spawn_failed");
    assert_eq!(metric(&home, "sandpen_fault_active{fault=\"processes\"}"), 1);
    assert_eq!(metric(&home, "sandpen_start_failures_total"), 1);
    std::fs::write(go, "").unwrap();
    until("the output is on file", || home.log("a") == b"late\n");
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["microvm_pid"]), (&"RUNNING".into(), &pid));
    assert_eq!(edges(&home, "processes"), (1, 0));
    // Room again, which is found without another request.
    limit_processes(&home, daemon, "10000");
    until("the end of the fault is recorded", || edges(&home, "processes").1 > 0);
    succeeds(run(&home, "b", &["-d"], "true"));
    assert_eq!(home.daemon_pid(), daemon);
    assert_eq!(metric(&home, "sandpen_faults_total{fault=\"processes\"}"), 1);
    let restarts = ["supervisor", "database", "monitor", "log_writer"]
        .map(|actor| metric(&home, &format!("sandpen_actor_restarts_total{{actor=\"{actor}\"}}")));
    assert_eq!(restarts, [0; 4]);
    home.ok(&["kill", "a"]);
}

#[test]
fn a_file_system_that_becomes_read_only_harms_nothing_that_runs_and_refuses_new_sandboxes() {
    let Some(disk) = LoopDisk::new(256) else { return };
    let home = Home::new_in(&disk.path());
    let go = tempfile::tempdir().unwrap();
    let go = go.path().join("go");
    let script = format!("while [ ! -e {} ]; do sleep 0.05; done; echo late; exec sleep 1000", go.display());
    for name in ["a", "b"] {
        succeeds(run(&home, name, &["-d"], &script));
    }
    let pids = ["a", "b"].map(|name| home.microvm_pid(name));
    let daemon = home.daemon_pid();
    disk.make_read_only();
    let refused = output(run(&home, "c", &["-d"], "true"));
    std::fs::write(&go, "").unwrap();
    until("the log fails", || metric(&home, "sandpen_log_failures_total") == 2);
    let active = metric(&home, "sandpen_fault_active{fault=\"read_only\"}");
    let refusals = metric(&home, "sandpen_starts_refused_total{reason=\"read_only\"}");
    assert_eq!(home.daemon_pid(), daemon);
    let row = home.inspect("a");
    let stopped = output_within(LIMIT, home.sandpen(&["stop", "--time", "1", "a"]));
    let shutdown = output_within(LIMIT, home.sandpen(&["shutdown", "--stop-sandboxes", "--time", "1"]));
    let running: Vec<_> = pids.iter().filter(|pid| !matches!(state_of(**pid), None | Some('Z'))).collect();
    // What is left cannot be cleaned up by anybody but us.
    for (pid, _) in home.processes() {
        send_if_there(pid, Signal::SIGKILL);
    }
    let refused = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.contains("cannot be written") && refused.contains("Read-only"), "{refused}");
    assert_eq!((&row["state"], row["microvm_pid"].as_u64()), (&"RUNNING".into(), Some(pids[0].into())));
    assert_eq!((active, refusals), (1, 1));
    let stopped = String::from_utf8_lossy(&stopped.stderr).into_owned();
    assert!(stopped.contains("cannot be recorded now (read_only)"), "{stopped}");
    let shutdown = String::from_utf8_lossy(&shutdown.stderr).into_owned();
    assert!(shutdown.contains("default/a, default/b"), "{shutdown}");
    assert!(running.is_empty(), "{running:?}");
}

/// The library that makes a program see another time; the package libfaketime.
fn faketime() -> Option<std::path::PathBuf> {
    let libraries = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let found = libraries.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    if found.is_none() {
        skip(Reason::NoFaketime, "the package libfaketime");
    }
    found
}

#[test]
fn a_clock_that_is_set_ends_and_delays_nothing() {
    let Some(library) = faketime() else { return };
    let home = Home::new();
    let offset = home.path().join("offset");
    let set_clock = |text: &str| {
        std::fs::write(home.path().join("offset.new"), text).unwrap();
        std::fs::rename(home.path().join("offset.new"), &offset).unwrap();
    };
    // One that a command starts would have no such library of its environment.
    let start_daemon = || {
        let mut command = home.sandpen(&["daemon"]);
        command.env("LD_PRELOAD", &library).env("FAKETIME_TIMESTAMP_FILE", &offset);
        // Only the wall clock can be set.
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        serving(&home, command)
    };
    let end_daemon = |daemon| {
        home.ok(&["shutdown"]);
        assert!(finish(daemon).status.success());
    };
    let transition = || succeeds(run(&home, "t", &["-d"], "true"));
    set_clock("+0");
    let mut daemon = start_daemon();
    succeeds(run(&home, "a", &["-d", "--timeout", "1h"], "exec sleep 1000"));
    succeeds(run(&home, "r", &["-d", "--restart", "always"], "sleep 0.1"));
    let pid = home.inspect("a")["microvm_pid"].clone();
    let goes_on = |when: &str| {
        let row = home.inspect("a");
        assert_eq!((&row["state"], &row["microvm_pid"]), (&"RUNNING".into(), &pid), "{when}: {row:#}");
        // From one to the next at most a minute, by the clock that nobody sets.
        let starts = home.inspect("r")["generation"].as_u64().unwrap();
        until("it is started again", || home.inspect("r")["generation"].as_u64().unwrap() > starts);
    };
    let jumps = || -> Vec<i64> {
        let events = events(&home).into_iter().filter(|(kind, _)| kind == "clock_jumped");
        events.map(|(_, detail)| detail["by_ms"].as_i64().unwrap() / 1000).collect()
    };
    for (to, jump) in [("+1d", 86_400), ("-1d", -172_800)] {
        let before = jumps().len();
        set_clock(to);
        transition();
        goes_on(to);
        until("the jump is recorded", || jumps().len() > before);
        let told = *jumps().last().unwrap();
        assert!((told - jump).abs() <= 60, "{to}: {told}");
        // What the row says of the past was written by another clock.
        end_daemon(daemon);
        daemon = start_daemon();
        goes_on(&format!("{to}, the next daemon"));
    }
    // One that did not see it happen: its clock is a day ahead of what is in the rows.
    end_daemon(daemon);
    set_clock("+0");
    let daemon = start_daemon();
    goes_on("set while no daemon ran");
    assert_eq!(metric(&home, "sandpen_faults_total{fault=\"clock_jumped\"}"), 0);
    let numbers: Vec<u64> = home
        .ok(&["events", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].as_u64().unwrap())
        .collect();
    assert!(numbers.iter().zip(1..).all(|(seq, expected)| *seq == expected));
    home.ok(&["kill", "a"]);
    home.ok(&["kill", "r"]);
    end_daemon(daemon);
}
