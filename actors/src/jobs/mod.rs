//! A sandbox's jobs: sessions of its guest that we ourselves are the client of. [`JobKeeper`], one for each microVM, has each
//! job's output go to a log of its own, and its end on record.
//!
//! ```text
//!   BeginJob ─▶ on record ─▶ begun in the guest ─┐
//!   found on record, running ────────────────────┴▶ attached from what is on file ─▶ output ─▶ on file ─▶ taken ↻
//!                                                      ▲      └ the monitor, a log writer or we fail ┘
//!                                                      └──────────────┘
//!   ended ─▶ the log closed ─▶ the end on record ─▶ taken, and forgotten by the guest
//!   forgotten by the guest, or gone with its microVM ─▶ likewise, as gone
//! ```
//!
//! **Nothing is lost or doubled.** The guest keeps each byte until we say that we have it, which we say when it is in the log's
//! file; how much of each stream is there the file itself tells whoever goes on ([`GetOnFile`](crate::log_writer::GetOnFile)).
//!
//! **Bounded.** A job's bytes wait in the guest, in the windows of its driver's link, and at most one event of it here: it is
//! written before the next one is taken. A disk that takes nothing makes the job wait in its own `write`.
//!
//! Each job's [`life`](job) is a task; one that panics takes the keeper along, as if it were the keeper's own. The next keeper
//! reads what is on record and goes on.

mod actor;
mod begin;
mod error;
mod input;
mod job;
mod messages;
mod on_file;
mod tidy;
mod trim;
mod way;

use std::path::PathBuf;

use actix::ArbiterHandle;
use sandpen_types::row::SandboxRow;
use sandpen_types::session::SessionId;
use sandpen_types::state_dir::StateDir;

pub use actor::JobKeeper;
pub use error::JobError;
pub use input::JobStdin;
pub use messages::*;

use crate::database::Database;
use crate::log_writer::OpenLogs;
use crate::runtime::actor_ref::ActorRef;
use crate::telemetry::faults::Faults;

/// What a keeper needs.
#[derive(Clone)]
pub struct KeeperConfig {
    /// The sandbox's row, live.
    pub row: SandboxRow,
    /// Where logs lie.
    pub state_dir: StateDir,
    /// Where the jobs' log writers run: always the same one for a sandbox, so that what was on its way to an earlier one is
    /// written before the next one looks.
    pub log_arbiter: ArbiterHandle,
    /// How many logs have their files open.
    pub open_logs: OpenLogs,
    /// The database.
    pub database: ActorRef<Database>,
    /// Counts, and hears of trouble.
    pub faults: Faults,
}

impl KeeperConfig {
    /// Where a job's log lies.
    fn log(&self, id: SessionId) -> PathBuf {
        self.state_dir.job_log(self.row.id, id)
    }
}
