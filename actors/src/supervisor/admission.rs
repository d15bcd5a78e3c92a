//! Whether there is room for one more sandbox. New work is refused before old work lacks something.
//!
//! ```text
//!   start ─▶ descriptors? ─▶ disk? ─▶ row ─▶ process?     refused or failed ─▶ counted, fault begins
//!                                                     └─ looked again every 5 s ─▶ room: fault ends
//! ```

use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_types::fault::Fault;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::OPEN_FILES_OF_GUEST;

use super::SupervisorError;
use super::actor::Supervisor;
use crate::host::room;
use crate::log_writer::FILES_OF_LOG;
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::Place;

/// Open files of everything else in this process.
const FILES_BESIDE: u64 = 128;
/// The part of all files that logs may keep open while nothing is written to them: with more of them, a log
/// opens its files when it needs them and closes them at once.
const LOGS_PART: u64 = 8;
/// From a refusal on, how often it is looked whether there is room again.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// The fewest files that a sandbox of any driver keeps open. Where no start was refused, a lack of files counts as
/// over once there is room for these.
pub(super) const FILES_OF_ONE: u64 = 3;

/// Files of a process that may open `limit` which logs may keep open.
pub(super) fn files_of_logs(limit: u64) -> u64 {
    limit / LOGS_PART
}

/// How many microVMs of guests a process has room for that may open `limit` files.
pub fn guests_within(limit: u64) -> u64 {
    limit.saturating_sub(FILES_BESIDE + files_of_logs(limit)) / OPEN_FILES_OF_GUEST
}

impl Supervisor {
    /// Whether this process may open the files of one more, which keeps `more` open at rest.
    pub(super) fn check_open_files(&self, more: u64) -> Result<(), SupervisorError> {
        let live = self.children.len();
        let at_rest = more + self.children.values().map(|child| child.open_files).sum::<u64>();
        let limit = self.config.open_files_limit;
        let logs = files_of_logs(limit).min(FILES_OF_LOG * (u64::try_from(live).unwrap_or(u64::MAX / 4) + 1));
        if FILES_BESIDE + at_rest + logs > limit {
            return Err(SupervisorError::OpenFiles { live, limit, needed: more });
        }
        Ok(())
    }

    /// Whether the state directory takes one more.
    fn disk_room(&self) -> impl Future<Output = Result<(), SupervisorError>> + use<> {
        let (dir, reserve) = (self.config.state_dir.path().to_owned(), self.config.reserve);
        async move {
            let checked = blocking(move || room::check(&dir, reserve)).await;
            Ok(checked.map_err(|_| SupervisorError::Gone)??)
        }
    }

    /// Counts a refusal; one that the host is to blame for begins a fault.
    pub(super) fn note_refusal(&mut self, refusal: &SupervisorError, ctx: &mut Context<Self>) {
        let faults = &self.config.faults;
        let counter = match refusal {
            SupervisorError::Spec(_) | SupervisorError::Nested(_) => Counter::RefusedSpec,
            SupervisorError::AlreadyLive { .. }
            | SupervisorError::BeingRemoved { .. }
            | SupervisorError::DiskInUse { .. }
            | SupervisorError::FilesInUse { .. }
            | SupervisorError::VolumeLeaves { .. } => Counter::RefusedName,
            SupervisorError::OpenFiles { needed, .. } => {
                self.files_lacked = *needed;
                faults.raise(Place::Process, Fault::OpenFiles, &refusal.to_string());
                self.look_again(ctx);
                Counter::RefusedOpenFiles
            }
            SupervisorError::Storage(cause) => {
                let fault = cause.fault();
                faults.raise(Place::StateDir, fault, &error_chain(cause));
                self.look_again(ctx);
                match fault {
                    Fault::DiskFull => Counter::RefusedDiskFull,
                    Fault::ReadOnly => Counter::RefusedReadOnly,
                    _ => Counter::RefusedOther,
                }
            }
            SupervisorError::Database(cause) => match cause.fault() {
                Some(Fault::DiskFull) => Counter::RefusedDiskFull,
                Some(Fault::ReadOnly) => Counter::RefusedReadOnly,
                _ => Counter::RefusedDatabase,
            },
            SupervisorError::Driver(_) => Counter::RefusedDriver,
            SupervisorError::ShuttingDown => Counter::RefusedShuttingDown,
            _ => Counter::RefusedOther,
        };
        self.config.faults.count(counter);
    }

    /// Looks later whether faults that nobody else meets again have ended.
    pub(super) fn look_again(&mut self, ctx: &mut Context<Self>) {
        if self.watches_room {
            return;
        }
        self.watches_room = true;
        ctx.run_later(LOOK_AGAIN, |this, ctx| {
            let room = this.disk_room();
            ctx.spawn(room.into_actor(this).map(|room, this, ctx| {
                this.watches_room = false;
                let files = this.check_open_files(this.files_lacked);
                if files.is_ok() {
                    this.files_lacked = FILES_OF_ONE;
                    this.config.faults.clear(&Place::Process);
                }
                if room.is_ok() {
                    this.config.faults.clear(&Place::StateDir);
                }
                // The least that a start needs; what a single one of them lacked is no fault that lasts.
                let process = std::thread::Builder::new().spawn(|| ());
                if files.is_ok() && process.is_ok() {
                    this.config.faults.clear(&Place::Start);
                }
                if files.is_err() || room.is_err() || process.is_err() {
                    this.look_again(ctx);
                }
            }));
        });
    }
}
