//! What takes room on the disk, and the removal of what nothing uses.

use sandpen_actors::supervisor::SupervisorError;
use sandpen_types::disk_usage::{PrunedItem, Reclaim, UsageItem, UsageKind};
use sandpen_types::error_chain::error_chain;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::blocking::blocking;

use super::super::disk_usage::{PruneOptions, of_sandboxes};
use super::super::error::SandpenError;
use super::Handle;

impl Handle {
    /// What takes room on the host's disk, sorted by kind and name.
    ///
    /// # Errors
    /// The database's.
    pub async fn disk_usage(&self) -> Result<Vec<UsageItem>, SandpenError> {
        let rows = self.list().await?;
        let places = self.places();
        blocking(move || places.usage(&rows)).await.map_err(|_| SandpenError::Gone)
    }

    /// Removes what nothing uses, and says what that was. Nothing of a live sandbox is removed, nor of one that is being
    /// started at the same moment.
    ///
    /// # Errors
    /// The database's; what cannot be removed is said of each thing.
    pub async fn prune(&self, options: PruneOptions) -> Result<Vec<PrunedItem>, SandpenError> {
        let usage = self.disk_usage().await?;
        let is_wanted = |item: &UsageItem| match item.reclaim {
            Reclaim::Never => false,
            Reclaim::Always => true,
            Reclaim::WithSandbox => options.sandboxes,
        };
        if options.dry_run {
            return Ok(usage.into_iter().filter(is_wanted).map(|item| PrunedItem { item, error: None }).collect());
        }
        let mut pruned = Vec::new();
        if options.sandboxes {
            pruned = self.prune_sandboxes(&usage).await?;
        }
        // Without those that are gone.
        let rows = self.list().await?;
        let places = self.places();
        pruned.extend(blocking(move || places.prune(&rows)).await.map_err(|_| SandpenError::Gone)?);
        Ok(pruned)
    }

    async fn prune_sandboxes(&self, usage: &[UsageItem]) -> Result<Vec<PrunedItem>, SandpenError> {
        let mut of = of_sandboxes(usage);
        let rows = self.list().await?;
        let ended: Vec<SandboxKey> =
            rows.iter().filter(|row| row.state.is_ended()).map(|row| row.spec.key.clone()).collect();
        let mut pruned = Vec::new();
        for key in ended {
            // One that was started again meanwhile is refused, and stays.
            let error = match self.remove(&key, false).await {
                Ok(()) => None,
                Err(SandpenError::Supervisor(
                    SupervisorError::NotEnded { .. }
                    | SupervisorError::BeingRemoved { .. }
                    | SupervisorError::NotFound { .. },
                )) => continue,
                Err(error) => Some(error_chain(&error)),
            };
            let items = of.remove(&key).unwrap_or_else(|| vec![without_files(&key)]).into_iter();
            pruned.extend(items.map(|item| PrunedItem { item, error: error.clone() }));
        }
        Ok(pruned)
    }
}

/// A sandbox that has left nothing but its row.
fn without_files(key: &SandboxKey) -> UsageItem {
    let (what, sandbox) = (key.to_string(), Some(key.clone()));
    UsageItem { kind: UsageKind::Logs, what, sandbox, bytes: 0, reclaim: Reclaim::WithSandbox }
}
