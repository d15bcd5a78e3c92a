//! MicroVMs of QEMU that are restored from a saved one instead of booting: they are as others are, no two
//! are alike, and a bad template harms nobody.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::PathBuf;
use std::process::Stdio;

use crate::support::{self, Home, explain, feed, finish, until};

/// Only emulated machines are restored: with KVM they boot quickly, which is not tried here.
fn restores() -> bool {
    support::restores("machines are restored under emulation only")
}

fn templates(home: &Home) -> Vec<PathBuf> {
    let entries = fs::read_dir(home.state().join("cache/templates")).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| !path.to_string_lossy().contains("draft")).collect()
}

/// Whether a sandbox's live QEMU was told to wait for a saved machine.
fn is_restored(home: &Home, name: &str) -> bool {
    let pid = home.inspect(name)["microvm_pid"].as_u64().expect("it runs");
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    command_line.split(|byte| *byte == 0).any(|argument| argument == b"-incoming")
}

#[test]
fn restored_machines_are_as_others_and_no_two_are_alike() {
    if !restores() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    fs::write(format!("{rootfs}/etc/machine-id"), "0123456789abcdef0123456789abcdef\n").unwrap();
    let script = "hostname; cat /etc/machine-id; head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n'; echo
        cat /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id; date +%s; echo err >&2; exec sleep 1000";
    let mut seen = HashSet::new();
    for name in ["a", "b", "c"] {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        home.ok(&["run", "-d", "-n", name, "--root", "image", &rootfs, "--", "sh", "-c", script]);
        // Two streams: which one's bytes come first is not told.
        let said = |stream| home.ok(&["logs", "--stream", stream, name]);
        until("it has said all", || said("stderr") == "err\n" && said("stdout").lines().count() == 6);
        assert!(is_restored(&home, name));
        let text = said("stdout");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!((lines[0], lines.len()), (name, 6), "{text}");
        for line in &lines[1..5] {
            assert!(line.len() >= 32 && seen.insert((*line).to_owned()), "{line} was there before");
        }
        let clock: u64 = lines[5].parse().unwrap();
        assert!((now..now + 300).contains(&clock), "the clock is {clock}, not {now}");
    }
    assert_eq!(templates(&home).len(), 1);
    // A workload that does not end by itself, asked to.
    home.ok(&["stop", "a", "-t", "1"]);
    // One of a dead daemon.
    home.kill_daemon();
    let pid = home.inspect("b")["microvm_pid"].clone();
    assert_eq!(home.inspect("b")["state"], "RUNNING");
    home.ok(&["kill", "b"]);
    assert_eq!(home.ok(&["wait", "b"]), "137\n", "{pid}");
    assert_eq!(home.inspect("c")["state"], "RUNNING");
    home.ok(&["kill", "c"]);
}

#[test]
fn bytes_pass_through_a_restored_machine_unchanged() {
    if !restores() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    let data: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    fs::write(format!("{rootfs}/data"), &data).unwrap();
    for _ in 0..2 {
        let mut command = home.sandpen(&[
            "run",
            "--rm",
            "-i",
            "--root",
            "image",
            &rootfs,
            "--",
            "sh",
            "-c",
            "cat /data; cat; exit 42",
        ]);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = child.spawn().unwrap();
        feed(&mut child, b"from standard input");
        let output = finish(child);
        assert_eq!(output.status.code(), Some(42), "{}", explain(&output).chars().rev().take(500).collect::<String>());
        assert!(output.stdout.starts_with(&data) && output.stdout.ends_with(b"from standard input"));
        assert_eq!(output.stdout.len(), data.len() + 19);
    }
}

#[test]
fn a_damaged_template_is_made_again() {
    if !restores() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    let run = || home.ok(&["run", "--rm", "--root", "image", &rootfs, "--", "echo", "up"]);
    assert_eq!(run(), "up\n");
    until("it is on disk", || templates(&home).len() == 1);
    let path = &templates(&home)[0];
    let whole = fs::read(path).unwrap();
    // In the middle of the kernel, where it would be believed.
    let at = whole.iter().rposition(|byte| *byte != 0).unwrap() as u64;
    // A number is used again, even at once.
    let identity = || fs::metadata(path).ok().map(|meta| (meta.ino(), meta.created().unwrap()));
    let damaged = identity();
    let file = fs::File::options().write(true).open(path).unwrap();
    file.write_all_at(&[!whole[usize::try_from(at).unwrap()]], at).unwrap();
    home.ok(&["shutdown"]);
    assert_eq!(run(), "up\n");
    until("another one is on disk", || identity().is_some_and(|now| Some(now) != damaged));
    home.ok(&["shutdown"]);
    // Whole again: it is read, not made. (A new one would be another file.)
    let made = identity();
    assert_eq!(run(), "up\n");
    assert_eq!(identity(), made);
}
