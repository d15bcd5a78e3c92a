//! What can fail about a waiter.

use std::io;
use std::path::PathBuf;

use crate::blocking::WorkLost;

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

/// Runs something that may wait for the disk off this thread.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WaiterError> + Send + 'static,
) -> Result<T, WaiterError> {
    crate::blocking::blocking(work).await?
}
