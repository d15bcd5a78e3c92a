//! The life of one job, from its begin, or from where an earlier keeper left it, to its end on record.
//!
//! ```text
//!   asked for ─▶ Opening ─┬ the guest has it ─────┐
//!                         ├ nobody knows ─────────┤          found on record ─▶ (the same way in)
//!                         └ refused ─▶ forgotten  ▼
//!              ┌───────────────────────────▶ Attaching ─┬ the guest has none, and never had ─▶ forgotten
//!              │ the way to the guest is lost    │      ├ the guest has none any more ──────┐
//!              │                                 ▼      └ the microVM is gone ──────────────┤ gone
//!              └───────────────────────────── Taking ── its end ─▶ log closed ─▶ on record ◀┘
//! ```

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::MailboxError;
use bytes::Buf as _;
use chrono::Utc;
use sandpen_types::backoff::Pauses;
use sandpen_types::error_chain::error_chain;
use sandpen_types::session::{SessionEnd, SessionOffsets, SessionSpec};
use sandpen_vmm::sessions::{Attachment, SessionError, SessionEvent, SessionRequest};
use tokio::sync::watch;

use super::KeeperConfig;
use super::input::JobInput;
use super::on_file::{JobLog, LogLost, LogState};
use super::way::Way;
use crate::database::{DatabaseError, EndJob, JobRow, MarkJobBegun, RemoveJobs};
use crate::telemetry::counters::Counter;

/// Pauses between tries to reach a guest's sessions.
const REACH_PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(5));
/// Pause before the database is asked again for what it could not do.
const RECORD_PAUSE: Duration = Duration::from_secs(1);
/// How long a microVM that is gone may bring nothing: its last bytes are at hand then.
const CLOSING_LIMIT: Duration = Duration::from_secs(10);
/// Ways in a row to the sessions of a microVM that is gone that may bring nothing.
const CLOSING_TRIES: u32 = 3;
/// How long a session may take to hear that its end is had; it is forgotten later without.
const FORGET_LIMIT: Duration = Duration::from_secs(5);

/// What came of the begin: whether it has ended already, or why the guest has none.
pub(super) type Opened = Option<Result<bool, SessionError>>;

/// See the module.
pub(super) struct Job {
    pub(super) row: JobRow,
    pub(super) config: Arc<KeeperConfig>,
    pub(super) way: watch::Receiver<Way>,
    pub(super) input: JobInput,
    pub(super) log: watch::Sender<LogState>,
    /// What it is to run, where it has not begun.
    pub(super) opening: Option<SessionSpec>,
    pub(super) opened: watch::Sender<Opened>,
}

/// Why there is no way to a session, and will be none.
enum Absent {
    /// The guest has none of that number.
    Unknown,
    /// The microVM is gone.
    Gone,
}

/// How one way to a session ended.
enum Taken {
    /// With the session; what is left of the way hears that its end is had.
    Ended(SessionEnd, Attachment),
    /// It was told of none, and never will be.
    Gone,
    /// The session goes on.
    Lost,
}

impl Job {
    /// Until its end is on record, or it is found that there never was such a job.
    pub(super) async fn live(mut self) {
        let is_new = self.opening.is_some();
        if let Some(spec) = self.opening.take()
            && self.open(spec).await.is_break()
        {
            self.log.send_replace(LogState::Closed);
            return;
        }
        let mut log = JobLog::open(self.config.clone(), self.row.id, is_new, self.log.clone());
        while let Err(LogLost) = self.keep(&mut log).await {
            log.open_again().await;
        }
    }

    /// Has the guest begin it. Breaks off where the guest will not.
    async fn open(&mut self, spec: SessionSpec) -> ControlFlow<()> {
        // Whether anybody is there to be its client is our concern, and that may change.
        let spec = SessionSpec { detached: true, ..spec };
        let opening = self.way.borrow().sessions_now().map(|sessions| sessions.open(self.row.id, spec));
        let opened = match opening {
            Ok(opening) => opening.await,
            Err(error) => Err(error),
        };
        let is_refused = matches!(&opened, Err(error) if !matches!(error, SessionError::Unreachable(_)));
        if is_refused {
            self.forget().await;
        } else if opened.is_ok() {
            // Before anybody hears of it: whoever does finds it on record, whatever comes.
            self.mark_begun().await;
        }
        self.opened.send_replace(Some(opened.map(|info| info.end.is_some())));
        if is_refused { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// From what is on file to the end on record.
    async fn keep(&mut self, log: &mut JobLog) -> Result<(), LogLost> {
        let mut had = log.offsets().await?;
        let mut failures = 0;
        let (end, way) = loop {
            // What is on file, or what the guest keeps where these do not go together.
            let (attachment, from) = match self.attach(had).await {
                Ok(attached) => attached,
                Err(Absent::Unknown) if !self.row.is_begun => {
                    self.forget().await;
                    return log.close().await;
                }
                Err(Absent::Unknown | Absent::Gone) => break (SessionEnd::Gone, None),
            };
            self.mark_begun().await;
            // Where nobody knew whether it had begun.
            self.opened.send_if_modified(|opened| {
                let is_new = !matches!(opened, Some(Ok(_)));
                if is_new {
                    *opened = Some(Ok(false));
                }
                is_new
            });
            let mut at = from.unwrap_or(attachment.info.kept_from);
            let before = at;
            let taken = self.take(attachment, &mut at, log).await;
            had = Some(at);
            match taken? {
                Taken::Ended(end, way) => break (end, Some(way)),
                Taken::Gone => break (SessionEnd::Gone, None),
                Taken::Lost => failures = if at == before { failures + 1 } else { 0 },
            }
            if failures > CLOSING_TRIES && self.way.borrow().is_closing {
                break (SessionEnd::Gone, None);
            }
            self.pause(failures).await;
        };
        log.close().await?;
        self.record_end(end).await;
        if let Some(way) = way {
            // Without it the guest forgets the session when it needs the room.
            let _ = tokio::time::timeout(FORGET_LIMIT, way.requests.send(SessionRequest::TakenEnd)).await;
        }
        Ok(())
    }

    /// Becomes the client of its session, from these offsets on or from where its guest keeps bytes, or tells why there is none.
    async fn attach(&mut self, from: Option<SessionOffsets>) -> Result<(Attachment, Option<SessionOffsets>), Absent> {
        let (mut from, mut failures) = (from, 0_u32);
        loop {
            let way = self.way.borrow_and_update().clone();
            // Nothing of the guest is kept while its answer is waited for, but for what the call itself keeps.
            let attaching = way.sessions().map(|sessions| sessions.map(|sessions| sessions.attach(self.row.id, from)));
            let attached = match attaching {
                Some(Ok(attaching)) => tokio::select! {
                    attached = attaching => attached,
                    // Another monitor, or the microVM's end: asked anew.
                    () = changed(&mut self.way) => continue,
                },
                Some(Err(error)) => Err(error),
                None if way.is_closing => return Err(Absent::Gone),
                None => {
                    changed(&mut self.way).await;
                    continue;
                }
            };
            match attached {
                Ok(attachment) => return Ok((attachment, from)),
                Err(SessionError::NotFound(_)) => return Err(Absent::Unknown),
                Err(error @ (SessionError::NotKept { .. } | SessionError::Ahead { .. })) if from.is_some() => {
                    // Somebody else has changed the files: what the guest keeps counts.
                    tracing::warn!(job = %self.row.id, %error, "the log of a job does not go with what its guest keeps");
                    from = None;
                }
                Err(_) if way.is_closing => return Err(Absent::Gone),
                Err(error) => {
                    tracing::debug!(job = %self.row.id, %error, "the session of a job cannot be reached");
                    failures = failures.saturating_add(1);
                    self.pause(failures).await;
                }
            }
        }
    }

    /// Takes what comes, and keeps `had` behind all that is on file.
    async fn take(
        &mut self,
        mut way: Attachment,
        had: &mut SessionOffsets,
        log: &mut JobLog,
    ) -> Result<Taken, LogLost> {
        self.input.attached(way.info.stdin);
        let mut heard = Instant::now();
        loop {
            while let Some(request) = self.input.next() {
                // Whoever takes none any more has an event that says why.
                let _ = way.requests.send(request).await;
            }
            let is_closing = self.way.borrow_and_update().is_closing;
            let event = tokio::select! {
                event = way.events.recv() => event,
                () = self.input.written() => continue,
                () = changed(&mut self.way) => {
                    heard = Instant::now();
                    continue;
                }
                () = tokio::time::sleep_until((heard + CLOSING_LIMIT).into()), if is_closing => {
                    return Ok(Taken::Gone);
                }
            };
            let Some(event) = event else { return Ok(Taken::Lost) };
            match event {
                SessionEvent::Output { stream, offset, mut bytes } => {
                    let at = *had.of(stream);
                    if offset > at {
                        tracing::warn!(job = %self.row.id, offset, at, "bytes of a job were left out; it is attached again");
                        return Ok(Taken::Lost);
                    }
                    bytes.advance(usize::try_from(at - offset).unwrap_or(usize::MAX).min(bytes.len()));
                    let count = bytes.len() as u64;
                    log.append(stream, bytes).await?;
                    *had.of(stream) = at + count;
                    let _ = way.requests.send(SessionRequest::Taken(*had)).await;
                }
                SessionEvent::InputWindow { received, limit } => self.input.window(received, limit),
                SessionEvent::InputClosed => self.input.close(),
                // Its end comes with the end of all.
                SessionEvent::StreamEnded { .. } => {}
                SessionEvent::Ended(end) => return Ok(Taken::Ended(end, way)),
                SessionEvent::Replaced | SessionEvent::Left => {
                    tracing::warn!(job = %self.row.id, "another client took the session of a job; it is taken back");
                    return Ok(Taken::Lost);
                }
                SessionEvent::Refused(error) => {
                    tracing::warn!(job = %self.row.id, %error, "the session of a job refused what its keeper said");
                    return Ok(Taken::Lost);
                }
            }
            heard = Instant::now();
        }
    }

    /// Waits a while, or until there is another way.
    async fn pause(&mut self, failures: u32) {
        let pause = tokio::time::sleep(REACH_PAUSES.after(failures));
        tokio::select! {
            () = pause => {}
            () = changed(&mut self.way) => {}
        }
    }

    async fn mark_begun(&mut self) {
        if std::mem::replace(&mut self.row.is_begun, true) {
            return;
        }
        let begun = MarkJobBegun { sandbox: self.row.sandbox, id: self.row.id };
        let database = self.config.database.clone();
        self.record(|| database.send(begun)).await;
    }

    async fn record_end(&self, end: SessionEnd) {
        let (sandbox, id, at) = (self.row.sandbox, self.row.id, Utc::now());
        let end = EndJob { sandbox, id, at, end };
        self.record(|| self.config.database.send(end.clone())).await;
    }

    /// There never was such a job.
    async fn forget(&self) {
        let removed = RemoveJobs { sandbox: self.row.sandbox, ids: vec![self.row.id] };
        self.record(|| self.config.database.send(removed.clone())).await;
    }

    /// Tries until it is durable.
    async fn record<F>(&self, write: impl Fn() -> F)
    where
        F: Future<Output = Result<Result<(), DatabaseError>, MailboxError>>,
    {
        loop {
            let error = match write().await {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error_chain(&error),
                Err(error) => error_chain(&error),
            };
            tracing::warn!(job = %self.row.id, error, "what became of a job is not durable yet");
            self.config.faults.count(Counter::DatabaseRetries);
            tokio::time::sleep(RECORD_PAUSE).await;
        }
    }
}

/// Waits for another way. Of a keeper that has gone none comes, and its jobs' lives end with it.
async fn changed(way: &mut watch::Receiver<Way>) {
    if way.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
