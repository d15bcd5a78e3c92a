//! One step of a sandbox's row: the state machine applied to the row, and the record of it.
//!
//! Pure. Used by the monitor (all edges of a live sandbox) and by the supervisor (the edges of one
//! that has no monitor: the start request and BACKOFF).

use chrono::{DateTime, Utc};

use crate::database::{RecordTransition, SandboxRow};
use crate::state::{Event, NoSuchEdge, SandboxState, next};

/// The row after `event`, and the record that makes it durable; `None` when the event changes
/// nothing.
///
/// # Errors
/// [`NoSuchEdge`] as [`next`].
pub fn advance(
    row: &SandboxRow,
    event: &Event,
    at: DateTime<Utc>,
) -> Result<Option<(SandboxRow, RecordTransition)>, NoSuchEdge> {
    let state = next(&row.state, event)?;
    if state == row.state {
        return Ok(None);
    }
    let mut after = row.clone();
    after.seq += 1;
    after.updated_at = at;
    match &state {
        SandboxState::Starting => {
            after.generation += 1;
            after.restarts = if matches!(row.state, SandboxState::Backoff { .. }) { row.restarts + 1 } else { 0 };
            after.started_at = None;
            after.ended_at = None;
            after.microvm_pid = None;
        }
        SandboxState::Running => after.started_at = Some(at),
        SandboxState::Stopped { .. } | SandboxState::Failed { .. } => {
            after.ended_at = Some(at);
            after.microvm_pid = None;
        }
        SandboxState::Created | SandboxState::Stopping { .. } | SandboxState::Backoff { .. } => {}
    }
    after.state = state;
    let record = RecordTransition {
        sandbox: after.id,
        seq: after.seq,
        generation: after.generation,
        event: event.name().to_owned(),
        state: after.state.clone(),
        at,
        microvm_pid: after.microvm_pid,
        supervisor_pid: after.supervisor_pid,
        driver: after.driver.clone(),
        restarts: after.restarts,
    };
    Ok(Some((after, record)))
}
