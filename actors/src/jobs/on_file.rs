//! A job's log: hosted, asked what is there, written to and closed; whatever fails for the moment is tried again, and told
//! once.
//!
//! ```text
//!   Hosting ─▶ Open ─ written to ↻ a full disk: tried again ─▶ Closed
//!      ▲        └ its writer panicked: another one ─┐
//!      └────────────────────────────────────────────┘
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use actix::{Addr, MailboxError};
use bytes::{Buf as _, Bytes};
use sandpen_types::backoff::Pauses;
use sandpen_types::error_chain::error_chain;
use sandpen_types::event::EventKind;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionId, SessionOffsets};
use sandpen_types::spec::{LogBacklog, LogLimits};
use tokio::sync::watch;

use super::KeeperConfig;
use crate::host::fault_of::fault_of_causes;
use crate::log_writer::{Close, GetOnFile, LogConfig, LogError, LogWriter, OnFile, WriteChunk};
use crate::runtime::hosting::{DownReason, host_on};
use crate::telemetry::counters::Counter;
use crate::telemetry::faults::Place;

/// Most bytes that are written at once.
const PIECE_MAX: usize = 64 << 10;

/// So often a log may be somebody else's before that is told.
const BUSY_TRIES: u32 = 4;

/// The log writer is gone: another one is hosted, and says what is on file.
#[derive(Debug)]
pub(super) struct LogLost;

impl From<MailboxError> for LogLost {
    fn from(_: MailboxError) -> Self {
        Self
    }
}

/// Where a job's output is to be read.
#[derive(Debug, Clone)]
pub(super) enum LogState {
    /// Its log writer is about to be there.
    Hosting,
    /// From its log writer.
    Open(Addr<LogWriter>),
    /// From its files alone.
    Closed,
}

/// See the module.
pub(super) struct JobLog {
    config: Arc<KeeperConfig>,
    path: PathBuf,
    /// Whether nobody has written to it before.
    is_new: bool,
    writer: Addr<LogWriter>,
    state: watch::Sender<LogState>,
    /// In a row.
    failures: u32,
    /// Whether somebody was told of these.
    is_told: bool,
}

impl JobLog {
    /// Hosts its writer.
    pub(super) fn open(config: Arc<KeeperConfig>, id: SessionId, is_new: bool, state: watch::Sender<LogState>) -> Self {
        let path = config.log(id);
        let writer = host(&config, path.clone(), is_new);
        state.send_replace(LogState::Open(writer.clone()));
        Self { config, path, is_new, writer, state, failures: 0, is_told: false }
    }

    /// Another writer, in the place of one that is gone.
    pub(super) async fn open_again(&mut self) {
        self.state.send_replace(LogState::Hosting);
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(Pauses::STORAGE.after(self.failures)).await;
        self.is_new = false;
        self.writer = host(&self.config, self.path.clone(), false);
        self.state.send_replace(LogState::Open(self.writer.clone()));
    }

    /// How much of each stream is on file; `None` where nobody knows which bytes are of which.
    pub(super) async fn offsets(&mut self) -> Result<Option<SessionOffsets>, LogLost> {
        loop {
            match self.writer.send(GetOnFile).await? {
                Ok(OnFile { totals, is_certain }) => {
                    self.works();
                    let offsets = SessionOffsets { stdout: totals.stdout, stderr: totals.stderr };
                    return Ok(is_certain.then_some(offsets));
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    /// Writes all of it; waits for as long as the disk takes nothing.
    pub(super) async fn append(&mut self, stream: OutputStream, mut bytes: Bytes) -> Result<(), LogLost> {
        let limit = usize::try_from(self.config.row.spec.log.max_bytes).unwrap_or(PIECE_MAX);
        while !bytes.is_empty() {
            let count = bytes.len().min(PIECE_MAX).min(limit.max(1));
            let piece = WriteChunk { stream, bytes: bytes.slice(..count) };
            match self.writer.send(piece).await? {
                Ok(_) => {
                    bytes.advance(count);
                    self.works();
                }
                Err(LogError::Closed) => return Err(LogLost),
                Err(error) => {
                    if let LogError::PartlyWritten { written, .. } = &error {
                        bytes.advance(usize::try_from(*written).unwrap_or(count).min(count));
                    }
                    self.pause(&error).await;
                }
            }
        }
        Ok(())
    }

    /// Closes it, written out to the disk: from now on its files are all that there is.
    pub(super) async fn close(&mut self) -> Result<(), LogLost> {
        loop {
            match self.writer.send(Close).await? {
                // All is on file in the latter case too, and the writer has told why.
                Ok(_) | Err(LogError::NotWrittenOut(_)) => break,
                Err(error) => self.pause(&error).await,
            }
        }
        self.works();
        self.state.send_replace(LogState::Closed);
        Ok(())
    }

    /// Tells a failure if it is the first one, and waits.
    async fn pause(&mut self, error: &LogError) {
        let message = error_chain(error);
        let faults = &self.config.faults;
        faults.count(Counter::LogRetries);
        if let Some(fault) = fault_of_causes(error) {
            faults.raise(Place::Log(self.path.clone()), fault, &message);
        }
        // The writer of a keeper that failed may have it for a moment still.
        if !self.is_told && (self.failures >= BUSY_TRIES || !matches!(error, LogError::Busy(_))) {
            self.is_told = true;
            faults.count(Counter::LogFailures);
            tracing::warn!(log = ?self.path, error = message, "the log of a job cannot be written; its output waits in the guest");
            let failed = EventKind::LogFailed { message };
            faults.tell_of_sandbox(Some(&self.config.row.spec.key), failed);
        }
        self.failures = self.failures.saturating_add(1);
        tokio::time::sleep(Pauses::STORAGE.after(self.failures)).await;
    }

    fn works(&mut self) {
        self.failures = 0;
        if std::mem::take(&mut self.is_told) {
            tracing::info!(log = ?self.path, "the log of a job can be written again");
            let faults = &self.config.faults;
            faults.clear(&Place::Log(self.path.clone()));
            faults.tell_of_sandbox(Some(&self.config.row.spec.key), EventKind::LogRecovered {});
        }
    }
}

impl Drop for JobLog {
    fn drop(&mut self) {
        self.config.faults.clear(&Place::Log(self.path.clone()));
    }
}

fn host(config: &KeeperConfig, path: PathBuf, is_new: bool) -> Addr<LogWriter> {
    let key = &config.row.spec.key;
    let limits = config.row.spec.log;
    let log = LogConfig {
        begins_generation: is_new,
        open_logs: config.open_logs.clone(),
        sandbox: Some(key.clone()),
        faults: config.faults.clone(),
        // What cannot be written waits in the guest, whatever the workload's own output does.
        ..LogConfig::new(path, LogLimits { backlog: LogBacklog::Block, ..limits }, 1)
    };
    let (faults, of) = (config.faults.clone(), key.clone());
    let on_down = move |reason| {
        if reason == DownReason::Panicked {
            faults.count(Counter::LogWriterRestarts);
            let (actor, reason) = ("log_writer".to_owned(), "it panicked".to_owned());
            faults.tell_of_sandbox(Some(&of), EventKind::ActorRestarted { actor, reason });
        }
    };
    host_on(&config.log_arbiter, move || LogWriter::new(log), on_down)
}
