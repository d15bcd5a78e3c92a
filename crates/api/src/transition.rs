//! The history of a sandbox.

use chrono::{DateTime, Utc};
use sandpen_types::state::{ExitStatus, Status};
use sandpen_types::transition;
use serde::{Deserialize, Serialize};

use crate::Word;

/// One recorded transition of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Its number, from 1.
    pub seq: u64,
    /// Which start, from 1.
    pub generation: u64,
    /// What happened.
    pub event: String,
    /// The state after it.
    pub state: Word<Status>,
    /// The workload's exit code, where known.
    pub exit_code: Option<i32>,
    /// The signal that ended the workload, where known.
    pub exit_signal: Option<i32>,
    /// Why it failed or is failing.
    pub failure: Option<String>,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The VMM process, while there was one.
    pub microvm_pid: Option<u32>,
    /// The driver.
    pub driver: Option<String>,
}

impl From<&transition::Transition> for Transition {
    fn from(record: &transition::Transition) -> Self {
        let (exit_code, exit_signal) = exit_fields(record.state.exit());
        Self {
            seq: record.seq,
            generation: record.generation,
            event: record.event.clone(),
            state: record.state.status().into(),
            exit_code,
            exit_signal,
            failure: record.state.failure().map(ToString::to_string),
            at: record.at,
            microvm_pid: record.microvm_pid,
            driver: record.driver.clone(),
        }
    }
}

/// Code and signal: at most one of them.
pub(crate) fn exit_fields(exit: Option<ExitStatus>) -> (Option<i32>, Option<i32>) {
    match exit {
        Some(ExitStatus::Code(code)) => (Some(code), None),
        Some(ExitStatus::Signal(signal)) => (None, Some(signal)),
        Some(ExitStatus::Unknown) | None => (None, None),
    }
}
