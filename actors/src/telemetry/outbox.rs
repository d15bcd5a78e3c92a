//! Events on their way to the database: told at once, recorded when that is possible.
//!
//! ```text
//!   faults, logs, monitors ──tell──▶ [at most 256 wait] ──▶ recorder ──▶ database
//!                                     └ more: dropped, and the teller hears it
//! ```
//!
//! Telling never waits. What is told of a full disk is written when there is room again, with the time at which
//! it began. Who records is nothing that is known here: [`WaitingEvents`] is handed to it.

use chrono::{DateTime, Utc};
use sandpen_types::event::EventKind;
use sandpen_types::spec::SandboxKey;
use tokio::sync::{mpsc, oneshot};

/// So many events wait for being recorded.
pub(crate) const WAITING_EVENTS: usize = 256;

/// An event that is not on record yet.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// When it happened.
    pub at: DateTime<Utc>,
    /// To which sandbox, if to one.
    pub sandbox: Option<SandboxKey>,
    /// What happened.
    pub kind: EventKind,
}

impl NewEvent {
    /// Something that happens now.
    pub fn now(sandbox: Option<SandboxKey>, kind: EventKind) -> Self {
        Self { at: Utc::now(), sandbox, kind }
    }
}

/// Too many events wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxFull;

/// What a recorder is given, in order.
#[derive(Debug)]
pub enum Outgoing {
    /// An event to record.
    Event(Box<NewEvent>),
    /// To be answered when all events before it are recorded.
    Flush(oneshot::Sender<()>),
}

/// The recorder's end.
#[derive(Debug)]
pub struct WaitingEvents(mpsc::Receiver<Outgoing>);

impl WaitingEvents {
    /// The next one; `None` when nobody is left to tell anything.
    pub async fn next(&mut self) -> Option<Outgoing> {
        self.0.recv().await
    }

    #[cfg(test)]
    pub(crate) fn try_next(&mut self) -> Option<Outgoing> {
        self.0.try_recv().ok()
    }
}

/// The tellers' end; by `default()` nobody records.
#[derive(Debug, Default)]
pub struct Outbox(Option<mpsc::Sender<Outgoing>>);

impl Outbox {
    /// Both ends.
    pub fn new() -> (Self, WaitingEvents) {
        let (sender, waiting) = mpsc::channel(WAITING_EVENTS);
        (Self(Some(sender)), WaitingEvents(waiting))
    }

    /// Tells one.
    ///
    /// # Errors
    /// Too many wait, or the recorder has ended: it is dropped.
    pub fn tell(&self, event: NewEvent) -> Result<(), OutboxFull> {
        let Some(sender) = &self.0 else { return Ok(()) };
        sender.try_send(Outgoing::Event(Box::new(event))).map_err(|_| OutboxFull)
    }

    /// Resolves when what was told so far is recorded, or nobody records any more.
    pub async fn flushed(&self) {
        let (done, recorded) = oneshot::channel();
        if let Some(sender) = &self.0
            && sender.send(Outgoing::Flush(done)).await.is_ok()
        {
            // Dropped with the recorder.
            let _ = recorded.await;
        }
    }
}
