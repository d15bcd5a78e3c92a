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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ExitStatus;

    /// As it goes over the wire, and is shown by `sandpen jobs --json`.
    #[test]
    fn a_job_in_json() {
        let asked_at = DateTime::UNIX_EPOCH;
        let running = JobInfo {
            id: SessionId::new(0x00ab_cdef_0123_4567).unwrap(),
            label: "make".to_owned(),
            asked_at,
            terminal: false,
            stdin: true,
            bytes: 12,
            ended_at: None,
            end: None,
        };
        let json = r#"{"id":"00abcdef01234567","label":"make","asked_at":"1970-01-01T00:00:00Z","terminal":false,"stdin":true,"bytes":12"#;
        assert_eq!(serde_json::to_string(&running).unwrap(), format!("{json}}}"));
        let end = Some(SessionEnd::Exited(ExitStatus::Code(3)));
        let ended = JobInfo { ended_at: Some(asked_at), end, ..running.clone() };
        let rest = r#","ended_at":"1970-01-01T00:00:00Z","end":{"exited":{"code":3}}}"#;
        assert_eq!(serde_json::to_string(&ended).unwrap(), format!("{json}{rest}"));
        for job in [running, ended] {
            assert_eq!(serde_json::from_str::<JobInfo>(&serde_json::to_string(&job).unwrap()).unwrap(), job);
        }
    }
}
