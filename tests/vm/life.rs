//! The life of real microVMs: stop, kill, time limit, names, removal, and our own death.

use std::fs::{self, File};
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{Home, expect, explain, finish, is_there, send, send_if_there, spawn, until};

/// What may be left of an ended sandbox: its log, index and VMM log, and its row.
fn assert_clean(home: &Home, name: &str) {
    assert!(!home.state().join("run/default").join(name).exists());
    let processes = home.processes();
    assert!(processes.iter().all(|(_, line)| !line.contains("qemu") && !line.contains("__virtiofsd")), "{processes:?}");
    assert!(processes.iter().all(|(_, line)| !line.contains("waiter")), "{processes:?}");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(home.path().to_str().unwrap()), "{mounts}");
}

#[test]
fn stop_asks_first_and_leaves_nothing_but_log_and_row() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 1; done";
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    until("the trap is set", || home.ok(&["logs", "a"]).contains("ready"));
    home.ok(&["stop", "a"]);
    assert_eq!(home.ok(&["logs", "a"]), "ready\nasked\n");
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_code"]), (&"STOPPED".into(), &5.into()));
    assert_clean(&home, "a");
    home.ok(&["rm", "a"]);
    assert!(!home.state().join("logs/default/a.log").exists());
    assert_eq!(home.ok(&["ps", "-a", "--json"]).trim(), "[]");
}

#[test]
fn a_workload_that_ignores_term_is_ended_after_the_grace() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&[
        "run",
        "-d",
        "-n",
        "a",
        &rootfs,
        "--",
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 1; done",
    ]);
    until("the trap is set", || home.ok(&["logs", "a"]).contains("ready"));
    let begun = Instant::now();
    home.ok(&["stop", "-t", "1", "a"]);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(home.inspect("a")["state"], "STOPPED");
    assert_clean(&home, "a");
}

#[test]
fn kill_and_other_signals() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "trap 'echo usr1' USR1; echo ready; while :; do sleep 1; done";
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    until("the trap is set", || home.ok(&["logs", "a"]).contains("ready"));
    home.ok(&["kill", "-s", "USR1", "a"]);
    until("the signal arrived", || home.ok(&["logs", "a"]).contains("usr1"));
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["kill", "a"]);
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_signal"]), (&"STOPPED".into(), &9.into()));
    assert_eq!(home.ok(&["wait", "a"]).trim(), "137");
    assert_clean(&home, "a");
}

#[test]
fn the_time_limit_is_said() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let output = home.run(&["run", "-n", "a", "--timeout", "1s", &rootfs, "--", "sleep", "1000"]);
    assert_eq!(output.status.code(), Some(143), "{}", explain(&output));
    assert!(String::from_utf8_lossy(&output.stderr).contains("time limit"), "{}", explain(&output));
    assert_eq!(home.inspect("a")["state"], "FAILED");
}

#[test]
fn a_name_that_runs_is_refused_and_an_ended_one_starts_again() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sleep", "1000"]);
    let before = home.inspect("a");
    let refused = home.run(&["run", "-n", "a", &rootfs, "--", "true"]);
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("already"), "{}", explain(&refused));
    assert_eq!(home.inspect("a"), before);
    home.ok(&["kill", "a"]);
    let again = home.run(&["run", "-n", "a", &rootfs, "--", "echo", "second"]);
    assert_eq!(again.stdout, b"second\n", "{}", explain(&again));
}

#[test]
fn ctrl_c_stops_gracefully_and_twice_kills() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let graceful = "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 1; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 1; done";
    for (script, signals, code) in [(graceful, 1, 3), (deaf, 2, 137)] {
        let command = home.sandpen(&["run", "-n", "a", &rootfs, "--", "sh", "-c", script]);
        let mut child = spawn(command);
        expect(&mut child, b"ready\n");
        send(child.id(), Signal::SIGINT);
        if signals == 2 {
            until("the first one was taken", || home.inspect("a")["state"] == "STOPPING");
            send(child.id(), Signal::SIGINT);
        }
        let output = finish(child);
        assert_eq!(output.status.code(), Some(code), "{}", explain(&output));
    }
}

#[test]
fn a_killed_daemon_loses_nothing_and_the_next_one_goes_on() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let wait = |sign: &str| format!("until [ -e /{sign} ]; do sleep 0.1; done");
    let counter =
        format!("i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; {}; echo end; exit 42", wait("end"));
    home.ok(&["run", "-d", "-n", "counts", &rootfs, "--", "sh", "-c", &counter]);
    home.ok(&["run", "-d", "-n", "short", &rootfs, "--", "sh", "-c", &format!("{}; echo gone; exit 7", wait("go"))]);
    home.ok(&["run", "-d", "-n", "stays", &rootfs, "--", "sleep", "1000"]);
    let pid_before = home.inspect("stays")["microvm_pid"].clone();
    let daemon = home.daemon_pid();
    send(daemon, Signal::SIGKILL);
    until("the daemon is gone", || !is_there(daemon));
    fs::write(format!("{rootfs}/go"), "").unwrap();
    // `short` ends while nobody watches: its guest waits for an acknowledgement.
    let control = home.state().join("run/default/short/control.out");
    let control = File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(control).unwrap();
    until("its guest has told the end", || rustix::io::ioctl_fionread(&control).unwrap() > 0);

    assert_eq!(home.ok(&["wait", "short"]).trim(), "7");
    assert_eq!(home.ok(&["logs", "short"]), "gone\n");
    let row = home.inspect("stays");
    assert_eq!((&row["state"], &row["microvm_pid"]), (&"RUNNING".into(), &pid_before));
    fs::write(format!("{rootfs}/end"), "").unwrap();
    assert_eq!(home.ok(&["wait", "counts"]).trim(), "42");
    let expected: String = (1..=3000).map(|i| format!("line {i}\n")).collect::<String>() + "end\n";
    assert_eq!(home.ok(&["logs", "counts"]), expected);
    home.ok(&["stop", "-t", "1", "stays"]);
    assert_clean(&home, "stays");
}

#[test]
fn a_killed_waiter_costs_neither_output_nor_exit_code() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "i=0; while [ $i -lt 3000 ]; do i=$((i+1)); echo line $i; done; sleep 2; echo end; exit 42";
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    let pid = home.inspect("a")["microvm_pid"].clone();
    let killed = home.waiter("a").unwrap();
    send(killed, Signal::SIGKILL);
    until("another one is there", || home.waiter("a").is_some_and(|waiter| waiter != killed));
    // And together with the daemon.
    home.kill_daemon();
    send(home.waiter("a").unwrap(), Signal::SIGKILL);
    assert_eq!(home.inspect("a")["microvm_pid"], pid);
    assert_eq!(home.ok(&["wait", "a"]).trim(), "42");
    let expected: String = (1..=3000).map(|i| format!("line {i}\n")).collect::<String>() + "end\n";
    assert_eq!(home.ok(&["logs", "a"]), expected);
    let row = home.inspect("a");
    assert_eq!((&row["state"], &row["exit_code"]), (&"STOPPED".into(), &42.into()), "{row}");
    assert_clean(&home, "a");
}

#[test]
fn a_dead_virtiofsd_is_failed_and_ends_the_vmm() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sleep", "1000"]);
    let processes = home.processes();
    let virtiofsd: Vec<_> = processes.iter().filter(|(_, line)| line.contains("__virtiofsd")).collect();
    assert!(!virtiofsd.is_empty(), "{processes:?}");
    for (pid, _) in virtiofsd {
        send_if_there(*pid, Signal::SIGKILL);
    }
    home.run(&["wait", "a"]);
    let row = home.inspect("a");
    assert_eq!(row["state"], "FAILED");
    assert!(row["failure"].to_string().contains("virtiofsd"), "{row}");
    assert_clean(&home, "a");
}

#[test]
fn a_dead_vmm_is_failed_and_its_neighbour_lives() {
    let home = Home::new();
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "dies", &rootfs, "--", "sleep", "1000"]);
    home.ok(&["run", "-d", "-n", "lives", &rootfs, "--", "sleep", "1000"]);
    let pid = home.microvm_pid("dies");
    send(pid, Signal::SIGKILL);
    home.run(&["wait", "dies"]);
    let row = home.inspect("dies");
    assert_eq!(row["state"], "FAILED", "{row}");
    assert_eq!(home.inspect("lives")["state"], "RUNNING");
    home.ok(&["kill", "lives"]);
}
