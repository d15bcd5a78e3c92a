//! Why something about a job cannot be done.

use sandpen_types::session::{SessionEnd, SessionId};
use sandpen_vmm::sessions::SessionError;

use crate::database::DatabaseError;

/// Why something about a job cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The sandbox has no such job that runs.
    #[error("there is no job {0} that runs")]
    NotHeld(SessionId),
    /// A session has that id, which is no job.
    #[error("{0} is a session of the sandbox, not a job: ask again with another id")]
    IsSession(SessionId),
    /// It has ended before it could be asked.
    #[error("job {id} has ended: {end}")]
    Ended {
        /// Which.
        id: SessionId,
        /// How.
        end: SessionEnd,
    },
    /// It was started without a standard input.
    #[error("job {0} has no standard input; start it with -i")]
    NoStdin(SessionId),
    /// It was started without a terminal.
    #[error("job {0} has no terminal; start it with -t")]
    NoTerminal(SessionId),
    /// What was written to it may not have reached it: its keeper failed meanwhile.
    #[error("the input of job {0} broke off")]
    InputBroke(SessionId),
    /// What the guest says.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The database refused.
    #[error("the status database could not be used")]
    Database(#[from] DatabaseError),
}
