//! Jobs: sessions that the orchestrator itself is the client of. Their output goes to logs of their own, and their end is on
//! record.
//!
//! ```text
//!   asked for, on record ──▶ running: its output goes on file ──▶ ended, on record ──▶ one of the oldest ended: removed
//!        └── refused: there never was one
//! ```

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::session::{SessionEnd, SessionId};

/// So many ended jobs of a sandbox are kept, with their logs: the newest. The oldest ones beyond that are removed.
pub const ENDED_JOBS_KEPT: usize = 64;

/// A job as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobInfo {
    /// Which: its session in the guest has the same number.
    pub id: SessionId,
    /// What it runs, at most [`LABEL_MAX`](crate::session::LABEL_MAX) bytes, of any content.
    pub label: String,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has a standard input that can be written to.
    pub stdin: bool,
    /// Bytes that it has written so far, of both streams, those included that were rotated away.
    pub bytes: u64,
    /// When its end was heard of; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    /// Its end; none while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<SessionEnd>,
}
