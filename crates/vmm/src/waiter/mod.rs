//! The tiny process between the orchestrator and a sandbox's VMM, which outlives us.
//!
//! Every VMM is the child of a *waiter*: a small static program (`sandpen-waiter`; [`WaitedVmm::launch`] installs and
//! starts it) that holds the sandbox's FIFOs open, starts the VMM and its companions, records how
//! the VMM ended, and stays until it is released. So an orchestrator can die at any moment: output
//! waits in the pipes, the exit status on disk, and the next one finds both
//! ([`WaitedVmm::adopt`]). A waiter that is killed itself ends nothing: whoever watches the VMM starts
//! another one, which opens the FIFOs by their names and watches the processes. Only the exit status of
//! a VMM that ends after that is unknown.
//!
//! ```text
//!             launch                     VMM ended            release
//!   (nothing) ──────▶ all processes run ──────────▶ recorded ────────▶ (nothing)
//!       │                  │      ▲                   │   ▲
//!       │ failed:          └──────┘ adopt             └───┘ adopt
//!       ▼ nothing is left
//! ```
//!
//! In the runtime directory (0700), beside the drivers' own files:
//!
//! | name | what |
//! | --- | --- |
//! | `waiter.err` | locked by the waiter as long as it lives; its last words if something is wrong |
//! | `processes` | boot id, pids and start times, written before the launch resolves |
//! | `exit` | how and when the VMM ended, written before the VMM is reaped; out on the disk soon after, unless an orchestrator has released the waiter by then |
//! | `ended` | FIFO that reads as ended once `exit` is written or the waiter is gone |
//! | `held` | what the waiter holds, for one that takes its place |
//! | `log` | FIFO that the VMM log is copied from |
//! | `commands` | FIFO: `release`, `close FIFO` |

mod check;
mod fifo;
mod install;
mod launch;
mod newborn;
mod runtime_dir;
mod waited;

#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;

pub use sandpen_waiter::wire::{LOG_FIFO, ProcessSpec, StdioSpec, VMM_ROLE, WaiterSpec};

use crate::blocking::WorkLost;
pub use fifo::{open_fifo_read, open_fifo_write};
pub use runtime_dir::{check_readable, is_abandoned, prepare_runtime_dir};
pub use waited::{WaitedEnd, WaitedVmm};

/// A failure of the waiter or on the way to it.
#[derive(Debug, thiserror::Error)]
pub enum WaiterError {
    /// Neither a process nor a record is left; a leftover directory was removed.
    #[error("nothing is left of the microVM: no process, no record of its end")]
    Gone,
    /// The runtime directory is in use.
    #[error("the microVM of {dir:?} still runs; stop it first")]
    Live {
        /// The runtime directory.
        dir: PathBuf,
    },
    /// The specification makes no sense.
    #[error("the waiter cannot run this: {0}")]
    Invalid(String),
    /// A program could not be executed.
    #[error("starting {role} ({program:?})")]
    Start {
        /// The process's role.
        role: String,
        /// Its program.
        program: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The waiter could not do one of its own steps.
    #[error("the waiter failed at {step} {subject:?}")]
    Step {
        /// What it was doing.
        step: &'static str,
        /// With what.
        subject: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The waiter ended without saying why.
    #[error("the waiter ended before all processes ran ({status}); its last words: {words:?}")]
    Broken {
        /// How it ended.
        status: String,
        /// What it wrote to `waiter.err`.
        words: String,
    },
    /// A record in the runtime directory is damaged.
    #[error(
        "the record {path:?} is damaged, so it cannot be told what runs there; end what runs and remove the directory"
    )]
    Record {
        /// The record.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("{action} {path:?}")]
    File {
        /// What was being done.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A process could not be watched or signalled.
    #[error("watching process {role}")]
    Process {
        /// Its role.
        role: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The launch was given up before anything was started.
    #[error("the launch was given up")]
    Cancelled,
    /// A step never came to its end.
    #[error(transparent)]
    Lost(#[from] WorkLost),
}
