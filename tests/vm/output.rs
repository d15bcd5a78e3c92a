//! Large output from a real microVM: byte-identical in the log and in the terminal's pipe, over
//! rotations, with a reader that stalls, in a small guest.

use std::fs;
use std::io::Read as _;

use sha2::{Digest as _, Sha256};

use crate::support::{self, Home, finish, spawn, until};

const MIB: usize = 1 << 20;

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Output of a workload that writes a file of 50 MiB of random bytes in writes of 1 MiB.
fn fifty_mib(stall: impl FnOnce(&Home)) {
    let home = Home::new();
    let rootfs = home.rootfs();
    let mut random = vec![0; 50 * MIB];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    fs::write(format!("{rootfs}/random"), &random).unwrap();
    let expected = sha256(&random);
    drop(random);

    let mut command = home.sandpen(&["run", "-n", "a", "--memory", "96M", &rootfs, "--"]);
    command.args(["dd", "if=/random", "bs=1M", "status=none"]);
    let mut child = spawn(command);
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = vec![0; MIB];
    stdout.read_exact(&mut shown).unwrap();
    stall(&home);
    stdout.read_to_end(&mut shown).unwrap();
    let output = finish(child);
    assert!(output.status.success(), "{}", support::explain(&output));
    assert_eq!(shown.len(), 50 * MIB);
    assert_eq!(sha256(&shown), expected, "terminal");

    let logged = home.run(&["logs", "a"]).stdout;
    assert_eq!(logged.len(), 50 * MIB);
    assert_eq!(sha256(&logged), expected, "log");
    let files = fs::read_dir(home.state().join("logs/default")).unwrap().flatten();
    let names: Vec<_> = files.map(|file| file.file_name().into_string().unwrap()).collect();
    assert!(names.contains(&"a.log.4".to_owned()), "no rotation: {names:?}");
}

#[test]
fn fifty_mib_arrive_unchanged_over_rotations() {
    fifty_mib(|_| ());
}

#[test]
fn fifty_mib_arrive_unchanged_with_a_reader_that_stalls() {
    fifty_mib(|home| until("the workload has written all and ended", || home.inspect("a")["state"] == "STOPPED"));
}

#[test]
fn a_foreground_reader_gets_what_was_rotated_away_meanwhile() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let mut command = home.sandpen(&["run", "-n", "a", "--log-max-size", "64K", "--log-keep", "1", &rootfs, "--"]);
    command.args(["sh", "-c", "seq 1 200000"]);
    let mut child = spawn(command);
    let mut stdout = child.stdout.take().unwrap();
    let mut shown = vec![0; 2];
    stdout.read_exact(&mut shown).unwrap();
    support::until("the workload has ended", || home.inspect("a")["state"] == "STOPPED");
    stdout.read_to_end(&mut shown).unwrap();
    assert!(finish(child).status.success());
    let expected: String = (1..=200_000).map(|i| format!("{i}\n")).collect();
    assert!(shown == expected.as_bytes(), "{} of {} bytes", shown.len(), expected.len());
}

/// With pauses of 60 ms between the lines, under emulation too.
#[test]
fn lines_of_both_streams_come_in_the_order_in_which_they_were_written() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "for i in $(seq 20); do echo o$i; sleep 0.06; echo e$i >&2; sleep 0.06; done";
    let output = home.run(&["run", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    assert!(output.status.success(), "{}", support::explain(&output));
    let output = home.run(&["logs", "a"]);
    let expected: String = (1..=20).map(|i| format!("o{i}\ne{i}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&home.log("a")), expected, "{}", support::explain(&output));
}
