//! What a keeper of jobs takes.

use std::sync::Weak;

use actix::{Addr, Message};
use sandpen_types::session::{SessionId, SessionSpec};
use sandpen_vmm::driver::GuestSession;
use sandpen_vmm::sessions::SessionRequest;

use super::{JobError, JobStdin};
use crate::database::JobRow;
use crate::log_writer::LogWriter;

/// The way to the guest, from its monitor, which alone keeps it: with the monitor it goes.
#[derive(Clone, Message)]
#[rtype(result = "()")]
pub struct UseGuest {
    /// The way.
    pub guest: Weak<dyn GuestSession>,
    /// Whether the microVM was there before.
    pub is_found: bool,
}

/// Begins a job. Answers when its program runs, or has its end if that could not be executed. Asked again with one number,
/// nothing runs twice: the row is answered as it is.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<JobRow, JobError>")]
pub struct BeginJob {
    /// What it is called, at random.
    pub id: SessionId,
    /// What it runs.
    pub spec: SessionSpec,
}

/// Answers when the end of a job that runs is on record; of another one at once.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct AwaitJob(pub SessionId);

/// Passes a signal or a size on to a job that runs.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), JobError>")]
pub struct PassToJob {
    /// Which.
    pub id: SessionId,
    /// What.
    pub request: SessionRequest,
}

/// The log writer of a job that runs; `None` when all that there will be is on file.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Option<Addr<LogWriter>>")]
pub struct GetJobLog(pub SessionId);

/// The standard input of a job that runs.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<JobStdin, JobError>")]
pub struct GetJobStdin(pub SessionId);

/// The jobs that run: sessions of the guest that are nobody else's.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<SessionId>")]
pub struct GetHeldJobs;

/// The microVM is gone, or there never was one: answers when all that it left of its jobs is on file, and the end of each on
/// record. The keeper ends then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CloseJobs;
