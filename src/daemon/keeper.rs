//! The parent of a daemon where no service manager is: starts it again when it crashed. It holds
//! nothing, so that its own death costs nothing: the daemon goes on, and so do the microVMs.
//!
//! ```text
//!   start ─▶ waiting ─┬ ended with a code ──▶ ends with the same
//!     ▲               ├ killed or panicked ─▶ pause ─┐    (too often in a row: ends)
//!     └───────────────┼──────────────────────────────┘
//!                     └ SIGTERM, SIGINT, SIGHUP ─▶ passed on; in a pause: ends
//! ```

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use sandpen_types::backoff::Pauses;

/// Crashes in a row after which it is no use to go on.
const CRASHES_MAX: u32 = 10;
/// Pauses from the second start in a row on; the first comes at once.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(10));
/// A daemon that ran this long was healthy: its crash counts as the first again.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// What a Rust program ends with after a panic of its main thread.
const PANIC_CODE: i32 = 101;

/// Runs `command`, again after each crash, until it ends by itself; its exit code. To be called while
/// this process has one thread. With `background` it leaves the caller's session and directory, and its
/// standard output is the first daemon's alone, which tells its readiness there.
///
/// # Errors
/// It cannot be executed or waited for.
pub fn keep(mut command: Command, background: bool) -> io::Result<u8> {
    let mut awaited = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD] {
        awaited.add(signal);
    }
    // Blocked, so that none is lost between two waits. The daemon unblocks them for itself.
    awaited.thread_block()?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    if background && let Err(error) = nix::unistd::setsid() {
        // A leader of a process group is as far from the terminal as its parent wanted it.
        tracing::debug!(%error, "staying in the session");
    }
    let mut crashes = 0;
    loop {
        let started = Instant::now();
        let child = command.spawn()?;
        if background {
            let null = OpenOptions::new().write(true).open("/dev/null")?;
            nix::unistd::dup2_stdout(&null)?;
            std::env::set_current_dir("/")?;
        }
        let status = wait(child, &signals)?;
        if let Some(code) = status.code().filter(|code| *code != PANIC_CODE) {
            return Ok(u8::try_from(code).unwrap_or(1));
        }
        crashes = if started.elapsed() >= HEALTHY_AFTER { 1 } else { crashes + 1 };
        if crashes > CRASHES_MAX {
            tracing::error!(%status, "the daemon crashed {crashes} times in a row; giving up");
            return Ok(1);
        }
        let pause = PAUSES.after(crashes - 1);
        tracing::error!(%status, ?pause, "the daemon crashed and is started again");
        let until = Instant::now() + pause;
        while let Some(signal) = next_signal(&signals, Some(until))? {
            // Of children nothing is to be heard: there are none.
            if signal != Signal::SIGCHLD {
                return Ok(0);
            }
        }
    }
}

/// The next signal; `None` where none has come by then.
fn next_signal(signals: &SignalFd, until: Option<Instant>) -> io::Result<Option<Signal>> {
    loop {
        if let Some(signal) = signals.read_signal()? {
            return Ok(Some(Signal::try_from(signal.ssi_signo.cast_signed())?));
        }
        let left = until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(None);
        }
        // Rounded up, or the last millisecond would be spent spinning.
        let left = left.and_then(|left| PollTimeout::try_from(left + Duration::from_millis(1)).ok());
        match poll(&mut [PollFd::new(signals.as_fd(), PollFlags::POLLIN)], left.unwrap_or(PollTimeout::NONE)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn wait(mut child: Child, signals: &SignalFd) -> io::Result<ExitStatus> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut told = None;
    loop {
        let Some(signal) = next_signal(signals, None)? else { continue };
        if signal != Signal::SIGCHLD {
            told = Some(signal);
        }
        if let Some(status) = child.try_wait()? {
            // Asked to end, and it has ended: of just that, before it could see to it itself, or just before.
            let is_of_that = |told| signal != Signal::SIGCHLD || status.signal() == Some(told as i32);
            return Ok(match told {
                Some(told) if status.signal().is_some() && is_of_that(told) => ExitStatus::from_raw(0),
                _ => status,
            });
        }
        if signal != Signal::SIGCHLD {
            // Not reaped, so the pid is still its own.
            kill(pid, signal)?;
        }
    }
}
