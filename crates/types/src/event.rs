//! Events: what happened to sandboxes and to the orchestrator, in one order, for whoever looks on.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::fault::Fault;
use crate::health::HealthStatus;
use crate::spec::SandboxKey;
use crate::state::SandboxState;

/// An entry of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredEvent {
    /// Its number: 1, 2, 3 … in one state directory.
    pub seq: u64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// The sandbox, which may be removed by now; `None` for what is not of one sandbox.
    pub sandbox: Option<SandboxKey>,
    /// What happened: a word and its details. A later version's are handed on as they are.
    pub kind: String,
    /// The details: a JSON object.
    pub detail: serde_json::Value,
}

impl StoredEvent {
    /// What happened, as a type; `None` for what this version does not know.
    pub fn known_kind(&self) -> Option<EventKind> {
        EventKind::read(&self.kind, &self.detail)
    }
}

/// What happened. To add one: a variant here; its words go to `docs/http-api.md`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "detail", rename_all = "snake_case")]
pub enum EventKind {
    /// An edge of the state machine; written by the database itself.
    Transition {
        /// Its number within the sandbox's own history.
        transition: u64,
        /// Which start, from 1.
        generation: u64,
        /// The event's name.
        event: String,
        /// The state after it.
        state: SandboxState,
        /// Why it failed or is failing, one line.
        reason: Option<String>,
        /// The VMM process, while there is one.
        microvm_pid: Option<u32>,
        /// The driver's name.
        driver: Option<String>,
        /// Starts by the restart policy since the last start by request.
        restarts: u32,
    },
    /// The sandbox has another name from now on; written by the database itself, under both.
    Renamed {
        /// The old one, as CONFIG/NAME.
        from: String,
        /// The new one.
        to: String,
    },
    /// The sandbox's row is gone; written by the database itself.
    Removed {
        /// How often it had been started.
        generation: u64,
    },
    /// A health check says something else than before; written by the database itself.
    HealthChanged {
        /// In a word.
        status: HealthStatus,
        /// Failures in a row that count.
        failures: u32,
        /// How the last failure ended, and the last of what it wrote.
        output: String,
    },
    /// The VMM process does not do what it was asked, because a signal has suspended it.
    VmmSuspended {
        /// The process.
        pid: u32,
    },
    /// A sandbox needed more files of its shared directories at once than this host's limit of open files allows.
    FilesLimitMet {},
    /// A sandbox's machine had too little memory, and its kernel has ended a process.
    OutOfMemory {
        /// In which start, from 1.
        generation: u64,
        /// The process's name, as the guest says; empty where it does not know.
        process: String,
    },
    /// An orchestrator took the state directory.
    OrchestratorStarted {
        /// Its process.
        pid: u32,
        /// Its version.
        version: String,
    },
    /// It ended in order.
    OrchestratorStopped {
        /// Its process.
        pid: u32,
        /// Whether the sandboxes were ended too.
        sandboxes_ended: bool,
    },
    /// Rows and processes were brought together.
    Reconciled {
        /// Sandboxes whose microVM or pending restart goes on.
        adopted: u64,
        /// Sandboxes whose microVM had ended meanwhile.
        resolved: u64,
        /// What belonged to nobody and was removed.
        #[serde(default)]
        removed: u64,
    },
    /// An actor failed and another one took its place.
    ActorRestarted {
        /// For example `monitor`.
        actor: String,
        /// How it failed.
        reason: String,
    },
    /// A sandbox's log cannot be written; its bytes wait in the pipes, or are dropped.
    LogFailed {
        /// Why, one line with causes.
        message: String,
    },
    /// Output was dropped while the log could not be written, as the sandbox's specification wants it.
    LogDropped {
        /// Bytes of stdout.
        stdout: u64,
        /// Bytes of stderr.
        stderr: u64,
    },
    /// It can be written again.
    LogRecovered {},
    /// Something is wrong with the host.
    FaultBegan {
        /// What.
        fault: Fault,
        /// Where it was met first, one line with causes.
        message: String,
    },
    /// It is over.
    FaultEnded {
        /// What.
        fault: Fault,
        /// How long it lasted, in milliseconds.
        lasted_ms: u64,
    },
    /// The host's clock was set.
    ClockJumped {
        /// By so much, in milliseconds; negative: back.
        by_ms: i64,
    },
}

impl EventKind {
    /// From the two columns; `None` for what this version does not know.
    pub fn read(kind: &str, detail: &serde_json::Value) -> Option<Self> {
        serde_json::from_value(serde_json::json!({ "kind": kind, "detail": detail })).ok()
    }

    /// The word, and the details in JSON, as they are stored.
    ///
    /// # Errors
    /// A detail that JSON cannot hold.
    pub fn columns(&self) -> Result<(String, String), serde_json::Error> {
        #[derive(Deserialize)]
        struct Columns {
            kind: String,
            #[serde(default)]
            detail: serde_json::Map<String, serde_json::Value>,
        }
        let Columns { kind, detail } = serde_json::from_value(serde_json::to_value(self)?)?;
        Ok((kind, serde_json::to_string(&detail)?))
    }
}
