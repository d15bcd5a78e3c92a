//! `--log-backlog drop` with a real microVM whose log cannot be written: the guest goes on, reports more output
//! than is on file, and ends with its own exit code.

use crate::support::full_disk::Disk;
use crate::support::{self, Home, until};

#[test]
fn a_guest_writes_on_although_the_disk_is_full() {
    const FLOOD: u64 = 3_000_000;
    let disk = Disk::new();
    let home = Home::new_in(disk.path());
    let rootfs = home.rootfs();
    // What it has done shows in a directory on another disk.
    let signs = tempfile::tempdir().unwrap();
    let volume = format!("{}:/signs", signs.path().display());
    let script = format!(
        "echo begin; until [ -e /signs/go ]; do sleep 0.05; done; head -c {FLOOD} /dev/zero | tr '\\0' x; : > /signs/done
        until [ -e /signs/end ]; do sleep 0.05; done; echo end >&2; exit 7"
    );
    home.ok(&["run", "-d", "-n", "a", "--log-backlog", "drop", "-v", &volume, &rootfs, "--", "sh", "-c", &script]);
    until("it began", || home.log("a") == b"begin\n");
    if !disk.fill() {
        home.run(&["kill", "a"]);
        return;
    }
    let go = std::fs::write(signs.path().join("go"), "");
    let deadline = std::time::Instant::now() + support::DEADLINE;
    while !signs.path().join("done").exists() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    // Before anything can fail: a daemon without room does not end.
    disk.free();
    go.unwrap();
    assert!(signs.path().join("done").exists(), "it waits for the log");
    std::fs::write(signs.path().join("end"), "").unwrap();
    assert_eq!(home.ok(&["wait", "a"]), "7\n");
    let row = home.inspect("a");
    let lost = &row["log_dropped"];
    let dropped = lost["stdout"].as_u64().unwrap() + lost["stderr"].as_u64().unwrap();
    assert!(dropped > 1_000_000, "{row:#}");
    assert_eq!(home.log("a").len() as u64 + dropped, FLOOD + 10, "{row:#}");
}
