//! The lines of `GET /v1/events`: one JSON object each.

use chrono::{DateTime, Utc};
use sandpen_types::event::{EventKind, StoredEvent};
use serde::{Deserialize, Serialize};

use crate::ErrorBody;

/// `Content-Type` of the stream.
pub const EVENTS_CONTENT_TYPE: &str = "application/x-ndjson";

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct EventEntry {
    /// Its number, from 1 in one state directory; numbers that are missing are of events that are no longer kept.
    pub seq: u64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The sandbox's config; null for what is not of one sandbox.
    pub config_file: Option<String>,
    /// The sandbox's name; null for what is not of one sandbox.
    pub name: Option<String>,
    /// What happened, as a word.
    pub kind: String,
    /// Its details, an object.
    pub detail: serde_json::Value,
}

impl EventEntry {
    /// What happened, as a type; `None` for what this version does not know.
    pub fn known_kind(&self) -> Option<EventKind> {
        EventKind::read(&self.kind, &self.detail)
    }
}

impl From<StoredEvent> for EventEntry {
    fn from(record: StoredEvent) -> Self {
        let StoredEvent { seq, at, sandbox, kind, detail } = record;
        let (config_file, name) = sandbox.map(|key| (key.config.to_string(), key.name.to_string())).unzip();
        Self { seq, at, config_file, name, kind, detail }
    }
}

/// What a line can be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EventLine {
    /// An event.
    Event(EventEntry),
    /// The last line of a stream that cannot go on.
    Error(ErrorBody),
}
