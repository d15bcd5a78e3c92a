//! What the supervisor knows of one sandbox that has not ended.

use std::sync::Arc;

use actix::{Addr, SpawnHandle};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::database::SandboxRow;
use crate::intensity::RecentFailures;
use crate::log_writer::LogWriter;
use crate::monitor::{Monitor, Stop};
use crate::spec::DiskName;
use crate::state::Status;

/// Whoever waits for a row.
pub(super) type RowSender = oneshot::Sender<Arc<SandboxRow>>;

/// A sandbox that is being started, live, in BACKOFF or being cleaned up.
#[derive(Default)]
pub(super) struct Child {
    /// The latest durable row; `None` while the first one is being written.
    pub(super) row: Option<Arc<SandboxRow>>,
    pub(super) monitor: Option<Addr<Monitor>>,
    pub(super) log: Option<Addr<LogWriter>>,
    /// Waiting for RUNNING or the end.
    pub(super) until_started: Vec<RowSender>,
    /// Waiting for the end without a restart.
    pub(super) until_ended: Vec<RowSender>,
    /// Waiting for the next monitor, or for the end.
    pub(super) until_hosted: Vec<oneshot::Sender<()>>,
    /// Waiting for the end, whatever follows it; dropped then.
    pub(super) until_settled: Vec<oneshot::Sender<()>>,
    /// Waiting until what is left of an ended one is gone; dropped then.
    pub(super) until_released: Vec<oneshot::Sender<()>>,
    /// It has ended, and what is left of it is being removed for want of a monitor.
    pub(super) releasing: bool,
    /// Gives up a start that is not on record yet.
    pub(super) reserving: Option<CancellationToken>,
    /// A stop was asked for: no restart follows.
    pub(super) stop: Option<Stop>,
    /// The timer of the next attempt, in BACKOFF.
    pub(super) next_attempt: Option<SpawnHandle>,
    /// Not a live sandbox: its files are being removed.
    pub(super) removing: bool,
    /// The named disk of one that has no row yet.
    pub(super) reserved_disk: Option<DiskName>,
    /// Descriptors that it keeps open at rest.
    pub(super) open_files: u64,
    /// Losses of its monitor or its log writer.
    pub(super) losses: RecentFailures,
}

impl Child {
    /// The place of a sandbox that is about to be started, with its named disk.
    pub(super) fn with_disk(reserved_disk: Option<DiskName>) -> Self {
        Self { reserved_disk, ..Self::default() }
    }

    /// Whether this named disk is this child's.
    pub(super) fn uses_disk(&self, name: &DiskName) -> bool {
        let of_row = self.row.as_ref().and_then(|row| row.spec.disk.name.as_ref());
        self.reserved_disk.as_ref() == Some(name) || of_row == Some(name)
    }

    /// The place of a sandbox whose files are being removed.
    pub(super) fn in_removal() -> Self {
        Self { removing: true, ..Self::default() }
    }

    /// The state's word, for messages.
    pub(super) fn status(&self) -> &'static str {
        if self.removing {
            return "being removed";
        }
        self.row.as_ref().map_or(Status::Starting, |row| row.state.status()).as_str()
    }

    /// Whether its end is on record, and what is left of it is being removed.
    pub(super) fn is_releasing(&self) -> bool {
        let has_ended = self.row.as_ref().is_some_and(|row| row.state.is_ended());
        has_ended && (self.releasing || self.monitor.is_some())
    }

    /// Resolves with its last row; those who have stopped waiting are forgotten.
    pub(super) fn ended(&mut self) -> oneshot::Receiver<Arc<SandboxRow>> {
        waits_for(&mut self.until_ended)
    }

    /// Resolves with its row once it runs or has ended.
    pub(super) fn started(&mut self) -> oneshot::Receiver<Arc<SandboxRow>> {
        waits_for(&mut self.until_started)
    }

    /// Resolves at its next monitor, or at its end.
    pub(super) fn hosted(&mut self) -> oneshot::Receiver<()> {
        waits_for(&mut self.until_hosted)
    }

    /// Answers those who wait for RUNNING or the end.
    pub(super) fn answer_started(&mut self) {
        if let Some(row) = &self.row {
            for sender in self.until_started.drain(..) {
                let _ = sender.send(row.clone());
            }
        }
    }

    /// Answers everybody.
    pub(super) fn answer_ended(&mut self) {
        self.answer_started();
        if let Some(row) = &self.row {
            for sender in self.until_ended.drain(..) {
                let _ = sender.send(row.clone());
            }
        }
    }
}

/// One more who waits, in the place of all who do no longer.
fn waits_for<T>(waiting: &mut Vec<oneshot::Sender<T>>) -> oneshot::Receiver<T> {
    waiting.retain(|sender| !sender.is_closed());
    let (sender, told) = oneshot::channel();
    waiting.push(sender);
    told
}
