//! What the tests of sudden deaths share: a flood of numbered lines, who is killed, and what must be left.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::support::{self, Home, until};

/// Lines of a flood. Some 0.2 s of a shell's work.
pub const LINES: usize = 20_000;

/// Random numbers that a seed repeats (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        let seed = std::env::var("SANDPEN_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| RandomState::new().hash_one(0));
        println!("SANDPEN_TEST_SEED={seed}");
        Self(seed)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    /// A random moment: what is random about these tests, not a wait for something.
    pub fn pause(&mut self, limit_ms: u64) {
        std::thread::sleep(Duration::from_micros(self.below(limit_ms * 1000)));
    }
}

/// `sandpen run OPTIONS -n NAME ROOTFS -- sh -c SCRIPT` on the host.
pub fn run(home: &Home, name: &str, options: &[&str], script: &str) -> Command {
    let mut command = home.sandpen(&["run", "--driver", "process", "-n", name]);
    command.args(options).arg(home.path()).args(["--", "/bin/sh", "-c", script]);
    command
}

pub fn spawn(mut command: Command) -> Child {
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

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

pub fn send(pid: u32, signal: Signal) {
    // It may be gone already; who it was is certain: nobody else reaps it meanwhile.
    let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), signal);
}

pub fn kill_daemon(home: &Home) {
    let Ok(text) = fs::read_to_string(home.state().join("daemon.lock")) else { return };
    let Ok(pid) = text.trim().parse::<u32>() else { return };
    // A lock file can be older than its daemon's successor: only a daemon of this home is meant.
    if home.processes().iter().any(|(found, line)| *found == pid && line.contains(" daemon ")) {
        send(pid, Signal::SIGKILL);
    }
}

/// Kills the waiter of a sandbox.
pub fn kill_waiter(home: &Home, name: &str) -> u32 {
    let pid = home.waiter(name).unwrap_or_else(|| panic!("no waiter of {name} among {:?}", home.processes()));
    send(pid, Signal::SIGKILL);
    pid
}

pub fn row(home: &Home, name: &str) -> Option<Value> {
    let list: Value = serde_json::from_str(&home.ok(&["ps", "-a", "--json"])).unwrap();
    list.as_array().unwrap().iter().find(|row| row["name"] == name).cloned()
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

/// A daemon in the foreground, that serves.
pub fn daemon(home: &Home, args: &[&str]) -> Child {
    // One for each: the one that ends tells that too.
    let number = fs::read_dir(home.path()).unwrap().count();
    let socket = home.path().join(format!("notify{number}.sock"));
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_read_timeout(Some(support::DEADLINE)).unwrap();
    let mut command = home.sandpen(&[&["daemon"], args].concat());
    let child = command.env("NOTIFY_SOCKET", &socket).stderr(Stdio::piped()).spawn().unwrap();
    let mut message = [0; 100];
    let length = manager.recv(&mut message).unwrap();
    assert!(message[..length].starts_with(b"READY=1\n"), "{:?}", String::from_utf8_lossy(&message));
    assert_eq!(home.daemon_pid(), child.id());
    child
}
