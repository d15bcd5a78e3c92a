//! What sandboxes take of their host, and what their guests say of themselves: one sample for each question, and nothing
//! between them.

use std::collections::HashMap;
use std::time::Duration;

use chrono::Utc;
use nix::time::{ClockId, clock_gettime};
use sandpen_actors::log_writer::bytes_logged;
use sandpen_actors::supervisor::{OpenGuest, SupervisorError};
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::Status;
use sandpen_types::state_dir::StateDir;
use sandpen_types::stats::{GuestUsage, SandboxUsage, UsageSample};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::{process_usage, tree};

use super::super::error::SandpenError;
use super::Handle;

/// How long a guest may take for its answer, with the way there.
const GUEST_LIMIT: Duration = Duration::from_millis(1200);

/// Which sandboxes are looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatsOptions {
    /// These; all where there are none.
    pub keys: Vec<SandboxKey>,
    /// Of all, those too that have ended.
    pub ended: bool,
}

impl Handle {
    /// What these sandboxes take at this moment, sorted by config and name. A guest that does not answer within a second is
    /// left out, and holds up no other one.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn stats(&self, options: &StatsOptions) -> Result<UsageSample, SandpenError> {
        let mut rows = self.list().await?;
        if let Some(key) = options.keys.iter().find(|key| !rows.iter().any(|row| row.spec.key == **key)) {
            return Err(SupervisorError::NotFound { key: key.clone() }.into());
        }
        rows.retain(|row| match options.keys.is_empty() {
            true => options.ended || !row.state.is_ended(),
            false => options.keys.contains(&row.spec.key),
        });
        rows.sort_by(|a, b| a.spec.key.cmp(&b.spec.key));
        let running = rows.iter().filter(|row| row.state.status() == Status::Running);
        let guests = futures::future::join_all(running.map(|row| self.guest_usage(row))).await;
        let mut guests: HashMap<SandboxKey, GuestUsage> = guests.into_iter().flatten().collect();
        let dir = self.state_dir.clone();
        let look = move || {
            // Behind the guests' answers, for which it may have waited.
            let at = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
            let sandboxes = rows.into_iter().map(|row| sandbox(&dir, &row, guests.remove(&row.spec.key)));
            UsageSample { at, sandboxes: sandboxes.collect() }
        };
        blocking(look).await.map_err(|_| SandpenError::Gone)
    }

    /// What a guest says, if it does.
    async fn guest_usage(&self, row: &SandboxRow) -> Option<(SandboxKey, GuestUsage)> {
        let key = row.spec.key.clone();
        let ask = async {
            let guest = self.supervisor.send(OpenGuest { key: key.clone(), or_helper: false }).await.ok()?.ok()?;
            match guest.usage().await {
                Ok(usage) => Some(usage),
                Err(error) => {
                    tracing::debug!(sandbox = %key, error = error.chain(), "a guest does not say how it is");
                    None
                }
            }
        };
        let usage = tokio::time::timeout(GUEST_LIMIT, ask).await.ok().flatten()?;
        Some((key, usage.bounded(u64::from(row.spec.resources.memory_mib) << 20)))
    }
}

/// What can be seen of a sandbox from outside. Blocking.
fn sandbox(dir: &StateDir, row: &SandboxRow, guest: Option<GuestUsage>) -> SandboxUsage {
    let key = &row.spec.key;
    let is_live = row.state.is_live();
    let uptime = row.started_at.filter(|_| is_live).map(|at| (Utc::now() - at).to_std().unwrap_or_default());
    let disk = dir.disk(&row.spec).and_then(|path| std::fs::symlink_metadata(path).ok());
    SandboxUsage {
        key: key.clone(),
        generation: row.generation,
        state: row.state.status(),
        uptime,
        cpus: row.spec.resources.cpus,
        host: is_live.then(|| process_usage::of_runtime_dir(&dir.runtime(key))).flatten(),
        guest,
        disk_bytes: disk.map(|meta| tree::allocated_by(&meta)),
        log_bytes: bytes_logged(&dir.log(key)).unwrap_or(0),
    }
}
