//! The waiter: the parent of one sandbox's VMM and its companions, which outlives the orchestrator.
//!
//! ```text
//!   reading the specification ──pipe ends early──▶ gone, nothing left
//!     │ FIFOs, sockets and log made, all programs executed, `processes` written
//!     │ (any failure: everything started is killed, the reason reported)
//!     ▼
//!   waiting ◀── taking up what a killed waiter has left: FIFOs opened, `processes` written
//!     │     ──companion dies──▶ VMM killed (at once, or after EXIT_GRACE if the companion exited)
//!     │ VMM ended: `exit` written, then reaped, then the `ended` FIFO closed
//!     ▼
//!   ended (companions: SIGTERM, SIGKILL after COMPANION_GRACE; FIFOs still held;
//!     │    not released within SYNC_DELAY: `exit` written out to the disk)
//!     │ "release", or the runtime directory is removed (from any state on: whatever lives is killed)
//!     ▼
//!   gone
//! ```
//!
//! One thread, blocked in `poll`. What is used in every sandbox is this program built as `sandpen-embed` builds it:
//! static, small, and without anything but the standard library.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};

use crate::wire::{self, Report, Stage};
use crate::{start, sys};

/// Which step could not be done, with what, and why.
pub(crate) struct Failure {
    pub(crate) stage: Stage,
    pub(crate) subject: String,
    pub(crate) source: io::Error,
}

pub(crate) fn failed(stage: Stage, subject: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let subject = subject.into();
    move |source| Failure { stage, subject, source }
}

/// The program.
pub fn main() {
    let report = |report: &Report| {
        // The orchestrator may be gone already; the next one adopts.
        let _ = io::stdout().write_all(report.to_line().as_bytes());
    };
    sys::name_process();
    let mut waiter = match sys::detach().map_err(failed(Stage::Detach, "")).and_then(|()| start::start()) {
        Ok(Some(waiter)) => waiter,
        Ok(None) => return leave_nothing(),
        Err(Failure { stage, subject, source }) => {
            let errno = source.raw_os_error().unwrap_or(0);
            report(&Report::Failed { stage, errno, subject });
            std::process::exit(1);
        }
    };
    report(&Report::Ready);
    // The orchestrator sees the end of the report, and no pipe of its making is kept.
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = sys::replace_standard(0, &null).and_then(|()| sys::replace_standard(1, &null));
    }
    waiter.serve();
}

/// The orchestrator went away before it said what to do.
fn leave_nothing() {
    if fs::exists(wire::PROCESSES_FILE).unwrap_or(true) {
        // Another waiter's processes: they are the next one's.
        return;
    }
    let Ok(dir) = std::env::current_dir() else { return };
    let _ = fs::remove_file(wire::LOCK_FILE);
    // Refused if the driver had prepared files in it; the next launch clears those.
    let _ = fs::remove_dir(dir);
}
