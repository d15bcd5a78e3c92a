//! What the tests of sudden deaths share: a flood of numbered lines, who is killed, and what must be left.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::{Home, send_if_there, until};

/// Lines of a flood. Some 0.2 s of a shell's work.
pub const LINES: usize = 20_000;

/// Numbered lines, then exit code 42.
pub fn flood() -> String {
    format!("i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; done; exit 42")
}

pub fn numbered(lines: usize) -> String {
    (1..=lines).map(|i| format!("line {i}\n")).collect()
}

/// Says where output differs.
pub fn assert_same(seen: &[u8], expected: &str, round: u64) {
    let seen = String::from_utf8_lossy(seen);
    if let Some(at) = seen.lines().zip(expected.lines()).position(|(seen, expected)| seen != expected) {
        let near: Vec<_> = seen.lines().skip(at.saturating_sub(2)).take(5).collect();
        panic!("round {round}: differs at line {at}: {near:?}");
    }
    assert_eq!(seen.len(), expected.len(), "round {round}");
}

pub fn kill_daemon(home: &Home) {
    let Some(pid) = home.lock_holder() else { return };
    // A lock file can be older than its daemon's successor: only a daemon of this home is meant.
    if home.processes().iter().any(|(found, line)| *found == pid && line.contains(" daemon ")) {
        send_if_there(pid, Signal::SIGKILL);
    }
}

/// Kills the waiter of a sandbox.
pub fn kill_waiter(home: &Home, name: &str) -> u32 {
    let pid = home.waiter(name).unwrap_or_else(|| panic!("no waiter of {name} among {:?}", home.processes()));
    send_if_there(pid, Signal::SIGKILL);
    pid
}

pub fn row(home: &Home, name: &str) -> Option<Value> {
    home.rows().into_iter().find(|row| row["name"] == name)
}

/// Nothing is left but the daemon, logs and rows.
pub fn assert_clean(home: &Home) {
    let end = Instant::now() + Duration::from_secs(30);
    let run: PathBuf = home.state().join("run/default");
    while fs::read_dir(&run).is_ok_and(|mut entries| entries.next().is_some()) {
        if Instant::now() > end {
            let log = fs::read_to_string(home.state().join("daemon.log")).unwrap();
            let left: Vec<_> = fs::read_dir(&run).unwrap().flatten().collect();
            panic!("{left:?} {:?}\n{log}", home.processes());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    until("only the daemon is left", || {
        home.processes().iter().all(|(_, line)| line.contains(" daemon ")) && home.processes().len() <= 1
    });
}
