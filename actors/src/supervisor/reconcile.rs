//! The first thing a supervisor does: bringing rows and processes together.
//!
//! Live rows lead to their microVMs, which are adopted. An orchestrator that died between a sandbox's
//! last state and the end of its clean-up left a waiter with its pipes, or only a directory: no live
//! row leads there, so they are looked for.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actix::{ActorFutureExt as _, Context, Handler, WrapFuture as _};
use chrono::Utc;
use futures::future::join_all;

use super::actor::{Answer, Supervisor};
use super::disks;
use super::restart::{Occasion, row_wants_restart};
use super::{Reconcile, ReconcileReport, SupervisorError};
use crate::database::{ListLiveKeys, ListSandboxes, SandboxRow};
use crate::spec::{ConfigName, SandboxKey, SandboxName};
use crate::state::SandboxState;
use crate::state_dir::StateDir;
use crate::waiter::WaitedVmm;

/// Whether an orchestrator died in the middle of making this row (nothing of its request was ever
/// answered) or of removing it.
fn is_to_go(row: &SandboxRow) -> bool {
    row.state == SandboxState::Created || (row.spec.remove_on_end && row.state.is_ended())
}

impl Handler<Reconcile> for Supervisor {
    type Result = Answer<ReconcileReport>;

    fn handle(&mut self, _: Reconcile, _: &mut Self::Context) -> Self::Result {
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        // Only before the first start: later, what has no row yet may just be in the making.
        let first = !std::mem::replace(&mut self.reconciled, true) && self.children.is_empty();
        let rows = async move {
            let rows = database.send(ListSandboxes).await??;
            if first {
                let live: HashSet<_> = database.send(ListLiveKeys).await??.into_iter().collect();
                sweep(&dir, &live).await;
                let swept = tokio::task::spawn_blocking(move || {
                    disks::sweep(&dir, &rows, &live);
                    rows
                });
                return swept.await.map_err(|_| SupervisorError::Gone);
            }
            Ok::<_, SupervisorError>(rows)
        };
        let removed = rows.into_actor(self).then(move |rows, this, _| {
            let parted = rows.map(|rows| rows.into_iter().partition::<Vec<_>, _>(|row| first && is_to_go(row)));
            let parted = parted.map(|(to_go, rows)| {
                let removals: Vec<_> = to_go.iter().map(|row| this.remove_everything(row)).collect();
                (removals, rows)
            });
            let removed = async move {
                let (removals, rows) = parted?;
                for error in join_all(removals).await.into_iter().filter_map(Result::err) {
                    tracing::warn!(error = crate::driver::error_chain(&error), "removing what an earlier run left");
                }
                Ok::<_, SupervisorError>(rows)
            };
            removed.into_actor(this)
        });
        Box::pin(removed.map(move |rows, this, ctx| Ok(this.reconcile(rows?, first, ctx))))
    }
}

impl Supervisor {
    /// Finds every row that an earlier orchestrator left live or in BACKOFF.
    /// With `first` the restart policy is asked about those that ended: an orchestrator may have died
    /// before it did, or have ended them itself, or the host was restarted.
    fn reconcile(&mut self, rows: Vec<SandboxRow>, first: bool, ctx: &mut Context<Self>) -> ReconcileReport {
        let mut report = ReconcileReport::default();
        for row in rows {
            let key = row.spec.key.clone();
            if self.children.contains_key(&key) {
                continue;
            }
            match row.state {
                SandboxState::Backoff { until } => {
                    self.children.entry(key.clone()).or_default();
                    let pause = (until - Utc::now()).to_std().unwrap_or_default();
                    let mut row = row;
                    row.supervisor_pid = self.config.supervisor_pid;
                    row.boot_id.clone_from(&self.boot_id);
                    self.note_row(&Arc::new(row));
                    self.schedule(&key, pause, ctx);
                    report.adopted.push(key);
                }
                _ if row.state.is_live() => {
                    self.adopt(row, ctx);
                    report.adopted.push(key);
                }
                _ if first && row_wants_restart(&row, self.occasion(&row)) => {
                    self.come_back(row, ctx);
                    report.adopted.push(key);
                }
                _ => {}
            }
        }
        report
    }
}

impl Supervisor {
    fn occasion(&self, row: &SandboxRow) -> Occasion {
        match (&row.boot_id, &self.boot_id) {
            (Some(then), Some(now)) if then != now => Occasion::HostRestarted,
            _ => Occasion::OrchestratorStarted,
        }
    }

    /// BACKOFF for a row that ended under an earlier orchestrator.
    fn come_back(&mut self, mut row: SandboxRow, ctx: &mut Context<Self>) {
        row.supervisor_pid = self.config.supervisor_pid;
        if row.stopped_by.is_some() {
            row.restarts_in_a_row = 0;
        }
        let child = self.children.entry(row.spec.key.clone()).or_default();
        child.row = Some(Arc::new(row.clone()));
        self.back_off(row, ctx);
    }
}

/// Ends and removes everything below the runtime directories that belongs to no live sandbox.
/// Before any start: a leftover waiter would refuse one of its name.
async fn sweep(dir: &StateDir, live: &HashSet<SandboxKey>) {
    let root = dir.runtime_root();
    let found = tokio::task::spawn_blocking(move || runtime_dirs(&root)).await;
    let leftovers: Vec<SandboxKey> = found.into_iter().flatten().filter(|key| !live.contains(key)).collect();
    join_all(leftovers.iter().map(async |key| match WaitedVmm::clear_away(&dir.runtime(key), &dir.bin()).await {
        Ok(()) => tracing::info!(sandbox = %key, "cleaned up after an ended microVM"),
        Err(error) => {
            let error = crate::driver::error_chain(&error);
            tracing::warn!(sandbox = %key, error, "an ended microVM cannot be cleaned up after");
        }
    }))
    .await;
}

/// The sandboxes that have a runtime directory. What has no proper name is not ours.
fn runtime_dirs(root: &Path) -> Vec<SandboxKey> {
    let mut keys = Vec::new();
    for (config, path) in directories(root) {
        let Ok(config) = ConfigName::new(config) else { continue };
        for (name, _) in directories(&path) {
            if let Ok(name) = SandboxName::new(name) {
                keys.push(SandboxKey { config: config.clone(), name });
            }
        }
    }
    keys
}

fn directories(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(?path, %error, "looking for what an earlier run left");
            }
            return Vec::new();
        }
    };
    let directories = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    directories.filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry.path()))).collect()
}
