//! A root workload that forges the report of its own end, in real microVMs: it ends all the same.

use std::path::Path;
use std::process::Command;

use sandpen_guest::protocol::{ExitReport, GuestMessage, WorkloadEnd, encode};

use crate::support::{Home, until};

/// A root directory with the forger in it.
fn rootfs(home: &Home) -> String {
    let rootfs = home.rootfs();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads/forge.c");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(Path::new(&rootfs).join("forge")).arg(source);
    let output = cc.output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    rootfs
}

/// What PID 1 would write, in hexadecimal digits.
fn exit(stdout_bytes: u64, stderr_bytes: u64) -> String {
    let report = ExitReport { end: WorkloadEnd::Code(0), stdout_bytes, stderr_bytes };
    let frame = encode(&GuestMessage::Exit(report)).unwrap();
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn start(home: &Home, rootfs: &str, options: &[&str], frame: &str) {
    let mut args = vec!["run", "-d", "-n", "a"];
    args.extend(options);
    args.extend([rootfs, "--", "/forge", frame]);
    home.ok(&args);
}

fn has_forged(home: &Home) {
    until("the frame is in the control port", || home.ok(&["logs", "a"]).starts_with("forged\n"));
}

#[test]
fn bytes_that_cannot_exist_end_it_at_once() {
    let home = Home::new();
    let rootfs = rootfs(&home);
    // It is ended before what it prints arrives.
    start(&home, &rootfs, &["--timeout", "1h"], &exit(u64::MAX, u64::MAX));
    home.run(&["wait", "a"]);
    let row = home.inspect("a");
    assert_eq!(
        (row["state"].as_str(), row["failure_kind"].as_str()),
        (Some("FAILED"), Some("protocol_broken")),
        "{row}"
    );
    assert!(row["failure"].as_str().unwrap().contains("were reported that never came"), "{row}");
}

/// What it claims could be on its way, and a byte comes every second: neither its time limit nor a stop is put off
/// for longer than one drain.
#[test]
fn a_lie_that_could_be_true_puts_its_end_off_once() {
    let home = Home::new();
    let rootfs = rootfs(&home);
    start(&home, &rootfs, &["--timeout", "3s"], &exit(1 << 20, 0));
    has_forged(&home);
    home.ok(&["stop", "-t", "1", "a"]);
    let row = home.inspect("a");
    // By its own word it ended well; that is what the guest's report is.
    assert_eq!((row["state"].as_str(), row["exit_code"].as_i64()), (Some("STOPPED"), Some(0)), "{row}");
    assert!(home.processes().iter().all(|(_, line)| !line.contains("qemu")), "{:?}", home.processes());
}
