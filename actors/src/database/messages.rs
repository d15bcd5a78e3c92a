//! What the database actor takes. Every message has a reply: a status update is durable
//! (synchronous=FULL) when it is answered `Ok`.

use actix::Message;
use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::sync::watch;

use super::DatabaseError;
use crate::event::{EventRecord, Happening};
use crate::health::HealthState;
use crate::outbox::NewEvent;
use crate::row::{SandboxId, SandboxRow};
use crate::spec::{SandboxKey, SandboxSpec};
use crate::transition::Transition;

/// Makes the row of a sandbox (state CREATED), or puts a new specification into the row of one that
/// is not live. Answers the row.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, DatabaseError>")]
pub struct UpsertSandbox {
    /// The specification.
    pub spec: SandboxSpec,
    /// The supervisor's process.
    pub supervisor_pid: u32,
}

/// Makes the row, or puts the specification into it, and records the start request, both or neither: the row of an
/// ended sandbox is as it was until the next start is on record. Answers the row, which is STARTING. The same twice,
/// as after the death of the actor that had it, begins one start.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, DatabaseError>")]
pub struct BeginStart {
    /// The row.
    pub sandbox: UpsertSandbox,
    /// The driver that was chosen.
    pub driver: String,
    /// The host's boot.
    pub boot_id: Option<String>,
    /// When it was asked for. With the supervisor's process it tells this request from another one of the same
    /// sandbox.
    pub requested_at: DateTime<Utc>,
}

/// One edge of the state machine, made durable. The same sandbox and number twice is recorded once.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RecordTransition(pub Transition);

/// Keeps what a health check says of a sandbox's current start. Nobody waits for it: questions are answered with it
/// at once, and it is durable with what is written next, soon if it is news. What a check says next replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Message)]
#[rtype(result = "()")]
pub struct RecordHealth {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Which start; nothing happens when there is a later one.
    pub generation: u64,
    /// What.
    pub health: HealthState,
    /// Whether its status is another one than before: worth a commit of its own.
    pub is_news: bool,
}

/// One sandbox by its key; `None` when there is no such row.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<SandboxRow>, DatabaseError>")]
pub struct GetSandbox(pub SandboxKey);

/// All sandboxes, oldest first.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<SandboxRow>, DatabaseError>")]
pub struct ListSandboxes;

/// How many sandboxes there are of each state's word; states without any are left out.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<(String, u64)>, DatabaseError>")]
pub struct CountSandboxes;

/// The keys of all rows that are live or in BACKOFF, those that cannot be read otherwise included.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<SandboxKey>, DatabaseError>")]
pub struct ListLiveKeys;

/// The history of one sandbox in order of `seq`.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Transition>, DatabaseError>")]
pub struct ListTransitions(pub SandboxId);

/// Removes the row of a sandbox that is not live, with its history.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RemoveSandbox(pub SandboxId);

/// Answers when everything sent before is durable or has failed, whoever sent it: an actor that takes over from
/// another one sends it before it asks what is durable.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct Flush;

/// Writes everything out, closes the file and ends the actor; SQLite's own files beside it go then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct CloseDatabase;

/// Records what happened; it is durable when this is answered.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RecordEvent(pub NewEvent);

impl RecordEvent {
    /// Something that happens now.
    pub fn now(sandbox: Option<SandboxKey>, happening: Happening) -> Self {
        Self(NewEvent::now(sandbox, happening))
    }
}

/// A page of events in order.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<EventPage, DatabaseError>")]
pub struct ListEvents {
    /// The first number; `None` for the oldest that is kept.
    pub from: Option<u64>,
    /// Only those of this sandbox.
    pub sandbox: Option<SandboxKey>,
    /// At most so many.
    pub limit: u32,
}

/// Answer of [`ListEvents`].
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<EventRecord>,
    /// Where the next page begins.
    pub next: u64,
    /// Whether there was nothing beyond this page when it was read.
    pub is_last: bool,
}

/// Resolves to a channel that changes whenever there may be new events. It ends with the database
/// actor; ask again then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "watch::Receiver<()>")]
pub struct WatchEvents;
