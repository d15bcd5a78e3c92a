//! Memory that a guest has freed comes back to the host, whichever way the machine came up.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sandpen_skip::{Reason, skip};

use crate::support::{self, Home, expect, explain, finish, until};

/// What a workload takes and frees, and how much of it has to come back at least: a guest may keep some of it for
/// itself.
const TAKEN_MIB: u64 = 100;
const BACK_MIB: u64 = 75;

/// Memory in MiB that a process has of the host's, shared or its own.
fn resident_mib(pid: u64) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() / 1024
}

/// Whether the installed kernel can tell what is free; else that is a skip.
fn has_balloon() -> bool {
    let data_dir = std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into);
    let has = sandpen::kernel::find(&data_dir).unwrap().check_has("virtio_balloon");
    if let Err(error) = &has {
        skip(Reason::NoKernel, error);
    }
    has.is_ok()
}

/// A root directory with the program of `tests/workloads/machine.c`.
pub fn rootfs_with_program(home: &Home) -> String {
    let rootfs = home.rootfs();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads/machine.c");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(Path::new(&rootfs).join("machine"))
        .arg(source);
    let output = cc.output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    rootfs
}

/// A workload that has taken memory and frees it after a line; what it gives back has to be seen.
fn gives_back(home: &Home, name: &str, mut run: Command, back_mib: u64) -> Child {
    let mut child = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    expect(&mut child, b"taken\n");
    let pid = home.inspect(name)["microvm_pid"].as_u64().unwrap();
    let taken = resident_mib(pid);
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    expect(&mut child, b"freed\n");
    until("most of it is the host's again", || resident_mib(pid) + back_mib <= taken);
    child
}

fn ends_with(mut child: Child, code: i32) {
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let output = finish(child);
    assert_eq!(output.status.code(), Some(code), "{}", explain(&output));
}

fn qemu(home: &Home, name: &str, options: &[&str], rootfs: &str) -> Child {
    let taken = TAKEN_MIB.to_string();
    let args = [&["run", "-i", "-n", name, "--driver", "qemu"], options, &[rootfs, "--", "/machine", "memory", &taken]];
    gives_back(home, name, home.sandpen(&args.concat()), BACK_MIB)
}

/// QEMU says so where it cannot.
fn nothing_was_said(home: &Home, name: &str) {
    let log = home.ok(&["logs", "--vmm", name]);
    assert!(!log.contains("fallocate") && !log.contains("discard"), "{log}");
}

#[test]
fn what_a_booted_guest_frees_comes_back() {
    if !has_balloon() {
        return;
    }
    let home = Home::new();
    let child = qemu(&home, "a", &[], &rootfs_with_program(&home));
    nothing_was_said(&home, "a");
    ends_with(child, 0);
}

/// Each has a copy of the same file: what one gives back is neither missed by the others, nor kept.
#[test]
fn what_restored_guests_free_comes_back_and_harms_no_other() {
    if !has_balloon() || !support::restores("machines are restored under emulation only") {
        return;
    }
    let home = Home::new();
    let rootfs = rootfs_with_program(&home);
    let options = ["--root", "image"];
    let run = |script: &str| home.ok(&[&["run", "--rm"], &options[..], &[&rootfs, "--", "sh", "-c", script]].concat());
    assert_eq!(run("echo made"), "made\n");
    let first = qemu(&home, "a", &options, &rootfs);
    // The disk's room comes back as before, a file of some reports' size.
    let script = "dd if=/dev/urandom of=/file bs=1M count=24 2>/dev/null; sync; md5sum < /file > /sum; rm /file; sync
        dd if=/dev/zero of=/other bs=1M count=24 2>/dev/null; sync; echo 3 > /proc/sys/vm/drop_caches
        tr -d '\\0' < /other | wc -c; cat /sys/block/vd*/queue/discard_max_bytes | sort -n | head -1";
    assert_eq!(run(script), format!("0\n{}\n", (2 << 20) - 512));
    let second = qemu(&home, "b", &options, &rootfs);
    for (name, child) in [("a", first), ("b", second)] {
        nothing_was_said(&home, name);
        ends_with(child, 0);
    }
    assert_eq!(run("echo alive"), "alive\n");
}

/// libkrun's balloon is always there. The guest reports as Linux does.
#[cfg(all(feature = "krun", feature = "testing"))]
#[test]
fn what_a_guest_of_libkrun_frees_comes_back() {
    use crate::support::guests;

    if !guests::kvm() {
        return;
    }
    let home = Home::new();
    let image = guests::build(home.path(), "balloon");
    let rootfs = home.path().to_str().unwrap();
    let mut run = home.sandpen(&["run", "-i", "-n", "a", "--driver", "krun-bare", "--memory", "96M"]);
    run.args([rootfs, "--", image.to_str().unwrap()]);
    ends_with(gives_back(&home, "a", run, 40), 42);
}
