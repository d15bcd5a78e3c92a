//! What takes room on the disk, and the removal of what nothing uses.

use std::collections::BTreeMap;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use sandpen_actors::database::{EverySandbox, ListEverySandbox};
use sandpen_actors::supervisor::SupervisorError;
use sandpen_types::disk_usage::{PrunedItem, UsageItem};
use sandpen_types::error_chain::error_chain;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::blocking::blocking;

use super::super::disk_usage::{PruneOptions, order};
use super::super::error::SandpenError;
use super::super::images::AskAgain;
use super::Handle;

/// How long whoever holds the lock of the store of images waits for the database.
const ASK_LIMIT: Duration = Duration::from_secs(10);

impl Handle {
    /// What takes room on the host's disk, sorted by kind and name.
    ///
    /// # Errors
    /// The database's.
    pub async fn disk_usage(&self) -> Result<Vec<UsageItem>, SandpenError> {
        let every = self.every_sandbox().await?;
        let places = self.places();
        blocking(move || places.usage(&every)).await.map_err(|_| SandpenError::Gone)
    }

    /// Removes what nothing uses, and says what that was, sorted by kind and name. Nothing of a live sandbox is removed, nor
    /// of one that is being started at the same moment.
    ///
    /// # Errors
    /// The database's, before anything was removed; what cannot be removed is said of each thing.
    pub async fn prune(&self, options: PruneOptions) -> Result<Vec<PrunedItem>, SandpenError> {
        let every = self.every_sandbox().await?;
        let (places, is_dry) = (self.places(), options.dry_run);
        let planned = blocking(move || places.plan(&every, &options)).await.map_err(|_| SandpenError::Gone)?;
        if is_dry {
            return Ok(planned);
        }
        let mut of_sandboxes: BTreeMap<SandboxKey, Vec<UsageItem>> = BTreeMap::new();
        for PrunedItem { item, .. } in planned {
            if let Some(key) = item.sandbox.clone() {
                of_sandboxes.entry(key).or_default().push(item);
            }
        }
        let mut pruned = self.prune_sandboxes(of_sandboxes).await;
        match self.prune_files().await {
            Ok(files) => pruned.extend(files),
            // What is gone is said all the same.
            Err(error) => pruned.push(self.places().not_looked_at(error_chain(&error))),
        }
        pruned.sort_by(|a, b| order(&a.item, &b.item));
        Ok(pruned)
    }

    async fn prune_sandboxes(&self, of_sandboxes: BTreeMap<SandboxKey, Vec<UsageItem>>) -> Vec<PrunedItem> {
        let mut pruned = Vec::new();
        for (key, items) in of_sandboxes {
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
            pruned.extend(items.into_iter().map(|item| PrunedItem { item, error: error.clone() }));
        }
        pruned
    }

    /// Of the cache and the kernels, by the sandboxes that are there now.
    async fn prune_files(&self) -> Result<Vec<PrunedItem>, SandpenError> {
        let every = self.every_sandbox().await?;
        let (places, again) = (self.places(), self.ask_again());
        blocking(move || places.prune(&every, &again)).await.map_err(|_| SandpenError::Gone)
    }

    /// For threads that may wait: which sandboxes there are by then.
    pub(super) fn ask_again(&self) -> AskAgain {
        let (database, runtime) = (self.database.clone(), tokio::runtime::Handle::try_current());
        Arc::new(move || {
            let (sender, answer) = mpsc::sync_channel(1);
            let asked = database.send(ListEverySandbox);
            runtime.as_ref().ok()?.spawn(async move {
                if let Ok(Ok(every)) = asked.await {
                    let _ = sender.send(every); // nobody waits any longer
                }
            });
            answer.recv_timeout(ASK_LIMIT).ok()
        })
    }

    pub(super) async fn every_sandbox(&self) -> Result<EverySandbox, SandpenError> {
        Ok(self.database.send(ListEverySandbox).await??)
    }
}
