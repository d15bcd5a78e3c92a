//! All that is known of a sandbox, as the database has it.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::health::HealthState;
use crate::spec::SandboxSpec;
use crate::state::{SandboxState, StoppedBy};

/// A sandbox's row number; never used again after a removal.
pub type SandboxId = i64;

/// A row of `sandboxes`, decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxRow {
    /// Row number.
    pub id: SandboxId,
    /// The specification of the latest start; shared by all who have the row.
    pub spec: Arc<SandboxSpec>,
    /// The state after the latest transition.
    pub state: SandboxState,
    /// Number of the latest transition, from 1.
    pub seq: u64,
    /// Counts the starts, from 1; 0 before the first.
    pub generation: u64,
    /// Starts by the restart policy since the last start by request.
    pub restarts: u32,
    /// Those of them since the last healthy run.
    pub restarts_in_a_row: u32,
    /// Whether the last start by request goes on with the sandbox's disk.
    pub keeps_disk: bool,
    /// Who asked for the end of this start, if somebody did.
    pub stopped_by: Option<StoppedBy>,
    /// What its health check last said in this start.
    pub health: Option<HealthState>,
    /// The host's boot at the latest transition.
    pub boot_id: Option<String>,
    /// The driver's name, once one was chosen.
    pub driver: Option<String>,
    /// The VMM process, while there is one.
    pub microvm_pid: Option<u32>,
    /// The process whose supervisor looks after it.
    pub supervisor_pid: u32,
    /// When the row was made.
    pub created_at: DateTime<Utc>,
    /// When the latest generation became RUNNING.
    pub started_at: Option<DateTime<Utc>>,
    /// When the latest generation ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When the row was last changed.
    pub updated_at: DateTime<Utc>,
}

impl SandboxRow {
    /// The generation of the latest start by request; those after it are restarts by the policy.
    pub fn first_generation(&self) -> u64 {
        self.generation.saturating_sub(u64::from(self.restarts))
    }
}
