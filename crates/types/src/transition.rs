//! One step of a sandbox's row: the state machine applied to the row, and the record of it.
//!
//! Pure. Used by the monitor (all edges of a live sandbox) and by the supervisor (the edges of one
//! that has no monitor: the start request and BACKOFF).

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::row::{SandboxId, SandboxRow};
use crate::state::{Event, NoSuchEdge, SandboxState, StopCause, StoppedBy, next};

/// One edge of the state machine, as it is recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transition {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Its number: the row's `seq` + 1.
    pub seq: u64,
    /// Which start.
    pub generation: u64,
    /// The event's name.
    pub event: String,
    /// The state after it.
    pub state: SandboxState,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The VMM process, while there is one.
    pub microvm_pid: Option<u32>,
    /// The process whose supervisor looks after it.
    pub supervisor_pid: u32,
    /// The driver's name.
    pub driver: Option<String>,
    /// Starts by the restart policy since the last start by request.
    pub restarts: u32,
    /// Those of them since the last healthy run.
    pub restarts_in_a_row: u32,
    /// Who asked for the end of this start, if somebody did.
    pub stopped_by: Option<StoppedBy>,
    /// The host's boot at this transition.
    pub boot_id: Option<String>,
}

/// The row after `event`, and the record that makes it durable; `None` when the event changes
/// nothing. `ran` is for how long the workload has run until it ended, where somebody has measured it; else the
/// row's times say.
///
/// # Errors
/// [`NoSuchEdge`] as [`next`].
pub fn advance(
    row: &SandboxRow,
    event: &Event,
    at: DateTime<Utc>,
    ran: Option<Duration>,
) -> Result<Option<(SandboxRow, Transition)>, NoSuchEdge> {
    let state = next(&row.state, event)?;
    let stopped_by = stopped_by(row.stopped_by, event);
    if state == row.state && stopped_by == row.stopped_by {
        return Ok(None);
    }
    let mut after = row.clone();
    after.stopped_by = stopped_by;
    after.seq += 1;
    after.updated_at = at;
    match &state {
        SandboxState::Starting => {
            after.generation += 1;
            let is_restart = matches!(row.state, SandboxState::Backoff { .. });
            let count = |restarts: u32| if is_restart { restarts.saturating_add(1) } else { 0 };
            after.restarts = count(row.restarts);
            after.restarts_in_a_row = count(row.restarts_in_a_row);
            after.started_at = None;
            after.ended_at = None;
            after.microvm_pid = None;
            after.health = None;
        }
        SandboxState::Running => after.started_at = Some(at),
        SandboxState::Stopped { .. } | SandboxState::Failed { .. } if !row.state.is_ended() => {
            after.ended_at = Some(at);
            after.microvm_pid = None;
            let ran = row.started_at.and_then(|from| ran.or_else(|| (at - from).to_std().ok()));
            if row.state.is_live() && ran.is_some_and(|ran| ran >= row.spec.restart_backoff.healthy_after) {
                after.restarts_in_a_row = 0;
            }
        }
        _ => {}
    }
    after.state = state;
    let record = Transition {
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
        stopped_by: after.stopped_by,
        restarts_in_a_row: after.restarts_in_a_row,
        boot_id: after.boot_id.clone(),
    };
    Ok(Some((after, record)))
}

/// Who asked for the end of this start, after `event`. A request weighs more than the orchestrator's
/// own end: it is meant for good.
fn stopped_by(before: Option<StoppedBy>, event: &Event) -> Option<StoppedBy> {
    match event {
        Event::StopRequested(StopCause::OrchestratorEnds) => before.or(Some(StoppedBy::Shutdown)),
        Event::StopRequested(_) => Some(StoppedBy::Request),
        Event::StartRequested | Event::BackoffScheduled { .. } => None,
        _ => before,
    }
}

#[cfg(test)]
mod tests;
