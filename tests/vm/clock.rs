//! A guest's wall clock follows the host's, also after pauses that the guest knows nothing of.

use std::fs::{self, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;

use crate::support::{Home, explain, finish, restores, send, until};

/// How far a guest's clock may be off.
const MOST: Duration = Duration::from_millis(100);
/// Longer than what is slewed.
const PAUSE: Duration = Duration::from_secs(3);

/// A sandbox that says what its clock says.
struct Clock {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

impl Clock {
    fn start(home: &Home, options: &[&str]) -> Self {
        let rootfs = home.rootfs();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads/clock.c");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(Path::new(&rootfs).join("clock"))
            .arg(source);
        let output = cc.output().expect("a C compiler (package gcc)");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut command = home.sandpen(&["run", "-i", "-n", "a"]);
        command.args(options).args([&rootfs, "--", "/clock"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (asks, answers) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        Self { child, asks, answers }
    }

    /// How far it is off, at least: it was read between two readings of ours.
    fn error(&mut self) -> Duration {
        let before = now();
        self.asks.write_all(b"\n").unwrap();
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        let after = now();
        let (seconds, nanos) = line.trim().split_once('.').unwrap_or_else(|| panic!("{line:?} is no time"));
        let read = Duration::new(seconds.parse().unwrap(), nanos.parse().unwrap());
        before.saturating_sub(read) + read.saturating_sub(after)
    }

    fn is_right(&mut self, when: &str) {
        let mut error = self.error();
        eprintln!("{when}: off by {error:?}");
        until(when, || {
            error = self.error();
            error < MOST
        });
    }

    fn end(self) {
        drop(self.asks);
        let output = finish(self.child);
        assert!(output.status.success(), "{}", explain(&output));
    }
}

#[test]
fn a_guests_clock_is_right_after_its_vmm_was_paused() {
    let home = Home::new();
    let mut clock = Clock::start(&home, &[]);
    clock.is_right("at first");
    let vmm = home.microvm_pid("a");
    send(vmm, Signal::SIGSTOP);
    std::thread::sleep(PAUSE);
    send(vmm, Signal::SIGCONT);
    clock.is_right("after a pause");
    clock.end();
}

/// By QEMU's monitor, which stops the counter that the guest has its time from.
#[test]
fn a_guests_clock_is_right_after_its_machine_was_stopped() {
    if !restores("only a machine from a template has a monitor") {
        return;
    }
    let home = Home::new();
    let mut clock = Clock::start(&home, &["--root", "image"]);
    clock.is_right("at first");
    let monitor = home.state().join("run/default/a/qmp.in");
    assert!(fs::exists(&monitor).unwrap(), "it was not restored");
    let say = |command: &str| {
        let mut monitor = OpenOptions::new().write(true).open(&monitor).unwrap();
        writeln!(monitor, r#"{{"execute": "{command}"}}"#).unwrap();
    };
    say("stop");
    std::thread::sleep(PAUSE);
    say("cont");
    clock.is_right("after it was stopped");
    until("it was set forward", || home.ok(&["logs", "--vmm", "a"]).contains("the clock is set forward by "));
    clock.end();
}
