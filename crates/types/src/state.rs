//! The life of a sandbox as a pure state machine: no actor, no I/O, no clock.
//!
//! ```text
//!             StartRequested          WorkloadStarted
//!   CREATED ────────────────▶ STARTING ─────────────▶ RUNNING
//!                              │  │ │                  │  │
//!                  SpawnFailed │  │ │ StopRequested    │  │ StopRequested, WorkloadExited,
//!                    VmmExited │  │ │ NotStarted       │  │ Faulted
//!                              │  │ │ Faulted          │  │
//!                              ▼  │ └────────┬─────────┼──┘
//!       ┌───────────────── FAILED │          ▼         │ VmmExited
//!       │                     ▲ ▲ │       STOPPING     │
//!       │                     │ │ └─────┐    │         │
//!       │                     │ └───────┼────┼─────────┘
//!       │  VmmExited (fault)  │         │    │ VmmExited
//!       │                     └─────────┼────┤
//!       │ BackoffScheduled              │    ▼
//!       ├───────────────────────────────┼─ STOPPED
//!       ▼         StartRequested        │ (from STOPPED, FAILED and BACKOFF)
//!    BACKOFF ───────────────────────────┘
//!       └── StopRequested ──▶ STOPPED
//! ```
//!
//! [`next`] decides every edge. The monitor is the only writer of its sandbox's state; the
//! supervisor applies the edges of a sandbox that has no monitor (BACKOFF).

mod failure_kind;
mod failure_reason;
mod status;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

pub use failure_kind::FailureKind;
pub use failure_reason::FailureReason;
pub use status::{NoSuchStatus, Status};

/// How a workload or a VMM process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It returned this code, 0 to 255.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
    /// Nobody was left who could have seen it.
    Unknown,
}

impl ExitStatus {
    /// What a shell would report: the code, or 128 + the signal; `None` when unknown.
    pub fn shell_code(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(128 + signal),
            Self::Unknown => None,
        }
    }

    /// Whether it is exit code 0.
    pub fn is_success(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::Unknown => f.write_str("unknown exit status"),
        }
    }
}

/// Why a sandbox is STOPPING.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum StopCause {
    /// The workload ended by itself; the microVM is powering off.
    WorkloadEnded,
    /// A user or a program asked.
    Requested,
    /// The orchestrator ends and takes its sandboxes with it.
    OrchestratorEnds,
    /// A user asked for a kill with this signal.
    Killed {
        /// The signal's number.
        signal: i32,
    },
    /// Something broke; the end will be FAILED with this reason.
    Faulted {
        /// What broke.
        reason: FailureReason,
    },
}

/// Who asked for the end of a start: it decides whether the restart policy has a say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppedBy {
    /// A user or a program, with a stop or a kill.
    Request,
    /// The orchestrator, because it ends.
    Shutdown,
}

impl StoppedBy {
    /// The database's word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Shutdown => "shutdown",
        }
    }

    /// The cause of a stop that this one asks for.
    pub fn cause(self) -> StopCause {
        match self {
            Self::Request => StopCause::Requested,
            Self::Shutdown => StopCause::OrchestratorEnds,
        }
    }
}

/// The state of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE", tag = "status")]
pub enum SandboxState {
    /// Known, never started.
    Created,
    /// The VMM process is being made or the guest boots.
    Starting,
    /// The workload runs.
    Running,
    /// The end has begun; `exit` is set as soon as the workload's end is known.
    Stopping {
        /// Why.
        cause: StopCause,
        /// The workload's end, once the guest reported it.
        exit: Option<ExitStatus>,
    },
    /// The workload ended and everything it wrote is on file.
    Stopped {
        /// The workload's end.
        exit: ExitStatus,
    },
    /// It ended in a way that the workload did not choose.
    Failed {
        /// Why.
        reason: FailureReason,
        /// The workload's end, where one is known.
        exit: Option<ExitStatus>,
    },
    /// It ended and is started again later.
    Backoff {
        /// When.
        until: DateTime<Utc>,
    },
}

impl SandboxState {
    /// It without its details.
    pub fn status(&self) -> Status {
        match self {
            Self::Created => Status::Created,
            Self::Starting => Status::Starting,
            Self::Running => Status::Running,
            Self::Stopping { .. } => Status::Stopping,
            Self::Stopped { .. } => Status::Stopped,
            Self::Failed { .. } => Status::Failed,
            Self::Backoff { .. } => Status::Backoff,
        }
    }

    /// Whether a microVM may exist in this state.
    pub fn is_live(&self) -> bool {
        self.status().is_live()
    }

    /// Whether nothing more happens without a new request.
    pub fn is_ended(&self) -> bool {
        self.status().is_ended()
    }

    /// The workload's end, where this state knows it.
    pub fn exit(&self) -> Option<ExitStatus> {
        match self {
            Self::Stopped { exit } => Some(*exit),
            Self::Stopping { exit, .. } | Self::Failed { exit, .. } => *exit,
            _ => None,
        }
    }

    /// Why it failed or is failing, where it is.
    pub fn failure(&self) -> Option<&FailureReason> {
        match self {
            Self::Failed { reason, .. } | Self::Stopping { cause: StopCause::Faulted { reason }, .. } => Some(reason),
            _ => None,
        }
    }
}

/// What can happen to a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked for a start.
    StartRequested,
    /// No VMM process could be made.
    SpawnFailed(FailureReason),
    /// The guest executed the workload.
    WorkloadStarted,
    /// The guest could not execute the workload.
    WorkloadNotStarted {
        /// 126 or 127, as shells do.
        code: i32,
        /// The guest's words.
        message: String,
    },
    /// Somebody asked for the end (`Requested`, `OrchestratorEnds` or `Killed`).
    StopRequested(StopCause),
    /// Something broke; the VMM is being ended.
    Faulted(FailureReason),
    /// The guest reported the workload's end.
    WorkloadExited(ExitStatus),
    /// The VMM process is gone and its pipes are drained.
    VmmExited(ExitStatus),
    /// The restart policy wants another start, later.
    BackoffScheduled {
        /// When.
        until: DateTime<Utc>,
    },
}

impl Event {
    /// A name for messages and tables.
    pub fn name(&self) -> &'static str {
        match self {
            Self::StartRequested => "StartRequested",
            Self::SpawnFailed(_) => "SpawnFailed",
            Self::WorkloadStarted => "WorkloadStarted",
            Self::WorkloadNotStarted { .. } => "WorkloadNotStarted",
            Self::StopRequested(_) => "StopRequested",
            Self::Faulted(_) => "Faulted",
            Self::WorkloadExited(_) => "WorkloadExited",
            Self::VmmExited(_) => "VmmExited",
            Self::BackoffScheduled { .. } => "BackoffScheduled",
        }
    }
}

/// An event that has no edge from a state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{event} is not possible in state {status}")]
pub struct NoSuchEdge {
    /// The state.
    pub status: Status,
    /// The event's name.
    pub event: &'static str,
}

/// The state after `event` in `state`.
///
/// # Errors
/// [`NoSuchEdge`] when the table in `docs/state-machine.md` has no such edge; nothing changes then.
pub fn next(state: &SandboxState, event: &Event) -> Result<SandboxState, NoSuchEdge> {
    use Event as E;
    use SandboxState as S;
    let stopping = |cause: &StopCause, exit: Option<ExitStatus>| S::Stopping { cause: cause.clone(), exit };
    Ok(match (state, event) {
        (S::Created | S::Stopped { .. } | S::Failed { .. } | S::Backoff { .. }, E::StartRequested) => S::Starting,
        (S::Starting, E::SpawnFailed(reason)) => S::Failed { reason: reason.clone(), exit: None },
        (S::Starting, E::WorkloadStarted) => S::Running,
        (S::Starting, E::WorkloadNotStarted { code, message }) => {
            let reason = FailureReason::WorkloadNotStarted { message: message.clone() };
            stopping(&StopCause::Faulted { reason }, Some(ExitStatus::Code(*code)))
        }
        (S::Starting | S::Running, E::StopRequested(cause)) => stopping(cause, None),
        (S::Starting | S::Running, E::Faulted(reason)) => {
            stopping(&StopCause::Faulted { reason: reason.clone() }, None)
        }
        (S::Running, E::WorkloadExited(exit)) => stopping(&StopCause::WorkloadEnded, Some(*exit)),
        (S::Starting | S::Running, E::VmmExited(status)) => {
            S::Failed { reason: FailureReason::VmmLost { status: *status }, exit: None }
        }
        // Stopping: the first cause stays, but for a later kill request; the exit is kept once known.
        (S::Stopping { cause, exit: None }, E::WorkloadExited(exit)) => stopping(cause, Some(*exit)),
        (
            S::Stopping { cause: StopCause::Requested | StopCause::OrchestratorEnds, exit },
            E::StopRequested(cause @ StopCause::Killed { .. }),
        ) => stopping(cause, *exit),
        // A guest that was told to stop before it executed the workload: as if SIGTERM had ended it.
        (S::Stopping { cause, exit: None }, E::WorkloadNotStarted { .. }) => {
            stopping(cause, Some(ExitStatus::Signal(15)))
        }
        // After the end: it came before the restart policy was applied, which has no say then.
        (S::Stopping { .. }, E::WorkloadStarted | E::StopRequested(_) | E::Faulted(_))
        | (S::Stopped { .. } | S::Failed { .. }, E::StopRequested(_)) => state.clone(),
        (S::Stopping { cause: StopCause::Faulted { reason }, exit }, E::VmmExited(_)) => {
            S::Failed { reason: reason.clone(), exit: *exit }
        }
        (S::Stopping { exit: Some(exit), .. }, E::VmmExited(_)) => S::Stopped { exit: *exit },
        (S::Stopping { cause, exit: None }, E::VmmExited(status)) => {
            let exit = match (cause, status) {
                (StopCause::Killed { signal }, _) | (_, ExitStatus::Signal(signal)) => ExitStatus::Signal(*signal),
                // QEMU turns SIGTERM into a clean exit; even so, the workload was killed.
                (_, ExitStatus::Code(_)) => ExitStatus::Signal(9),
                // Nobody saw whether the workload heeded the stop.
                (_, ExitStatus::Unknown) => ExitStatus::Unknown,
            };
            S::Stopped { exit }
        }
        (S::Stopped { .. } | S::Failed { .. }, E::BackoffScheduled { until }) => S::Backoff { until: *until },
        (S::Backoff { .. }, E::StopRequested(_)) => S::Stopped { exit: ExitStatus::Unknown },
        _ => return Err(NoSuchEdge { status: state.status(), event: event.name() }),
    })
}

#[cfg(test)]
mod tests;
