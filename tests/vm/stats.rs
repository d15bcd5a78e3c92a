//! `sandpen stats` on real microVMs.

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Home, send, until};

fn run(home: &Home, name: &str, script: &str) {
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", name, "--driver", "qemu", "--memory", "192M", &rootfs, "--", "sh", "-c", script]);
}

/// One round of `stats --json`, by name.
fn stats(home: &Home, args: &[&str]) -> Vec<Value> {
    let text = home.ok(&[&["stats", "--json", "--no-stream"], args].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn what_a_sandbox_does_shows_on_host_and_guest_and_one_that_is_stopped_holds_up_no_other() {
    let home = Home::new();
    run(&home, "busy", "while :; do :; done");
    // 64 MiB of the memory file system are memory of the guest.
    run(
        &home,
        "full",
        "dd if=/dev/zero of=/dev/shm/full bs=1M count=64 2>/dev/null || dd if=/dev/zero of=/tmp/full bs=1M count=64; echo full; while :; do echo line; sleep 0.1; done",
    );
    until("it has filled its memory", || home.ok(&["logs", "full"]).contains("full"));
    let both = stats(&home, &[]);
    let names: Vec<_> = both.iter().map(|stats| stats["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["busy", "full"]);
    let (busy, full) = (&both[0], &both[1]);
    assert!(number(&busy["host_cpu_permille"]) > 0, "{busy}");
    assert!(number(&busy["guest_cpu_permille"]) > 100, "{busy}");
    assert!(number(&busy["host"]["processes"]) >= 2 && number(&busy["host"]["memory_bytes"]) > 20 << 20, "{busy}");
    assert!(number(&busy["uptime_ms"]) > 0 && busy["disk_bytes"].is_null(), "{busy}");
    let guest = &full["guest"];
    let total = number(&guest["memory_total_bytes"]);
    assert!((100 << 20..=192 << 20).contains(&total) && number(&guest["memory_used_bytes"]) < total, "{full}");
    assert!(
        number(&guest["disk_total_bytes"]) == 0 && number(&guest["tasks"]) > 10,
        "a shared root is the host's: {full}"
    );
    assert!(number(&full["log_bytes_per_second"]) > 0, "{full}");
    let later = &stats(&home, &["full"])[0];
    assert!(number(&later["log_bytes"]) > number(&full["log_bytes"]), "{later}");

    // A daemon that comes later asks a guest that it did not start.
    home.kill_daemon();
    assert!(stats(&home, &["busy"])[0]["guest"].is_object());

    let pid = home.microvm_pid("full");
    send(pid, Signal::SIGSTOP);
    for _ in 0..2 {
        let both = stats(&home, &[]);
        assert!(both[0]["guest"].is_object() && both[1]["guest"].is_null(), "{both:?}");
        assert!(both[1]["host"].is_object(), "{both:?}");
    }
    let table = home.ok(&["stats", "--no-stream"]);
    let line = table.lines().find(|line| line.starts_with("full ")).unwrap();
    assert!(line.contains(" -  "), "{table}");
    send(pid, Signal::SIGCONT);
    until("it answers again", || stats(&home, &["full"])[0]["guest"].is_object());

    home.ok(&["kill", "busy"]);
    assert_eq!(stats(&home, &[]).len(), 1);
    let all = stats(&home, &["--all"]);
    assert!(all.len() == 2 && all[0]["state"] == "STOPPED" && all[0]["host"].is_null(), "{all:?}");
    let error = home.fails(&["stats", "nobody"]);
    assert!(error.contains("there is no sandbox default/nobody"), "{error}");
}

/// What a disk takes of the host's is seen from outside, and its file system from inside.
#[test]
fn a_disk_is_seen_from_both_sides() {
    if !crate::support::has_mke2fs() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "dd if=/dev/zero of=/full bs=1M count=20 2>/dev/null; sync; echo full; sleep 1000";
    home.ok(&["run", "-d", "-n", "a", "--driver", "qemu", "--disk", "128M", &rootfs, "--", "sh", "-c", script]);
    until("it has written", || home.ok(&["logs", "a"]) == "full\n");
    let stats = &stats(&home, &[])[0];
    assert!(number(&stats["disk_bytes"]) >= 20 << 20, "{stats}");
    let (used, total) = (number(&stats["guest"]["disk_used_bytes"]), number(&stats["guest"]["disk_total_bytes"]));
    assert!(used >= 20 << 20 && total <= 128 << 20 && used < total, "{stats}");
}
