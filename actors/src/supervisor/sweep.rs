//! What an orchestrator left that died between a sandbox's last state and the end of its clean-up:
//! a waiter with its pipes, or only a directory. No live row leads there, so they are looked for.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use futures::future::join_all;

use crate::database::SandboxRow;
use crate::spec::{ConfigName, SandboxKey, SandboxName};
use crate::state_dir::StateDir;
use crate::waiter::WaitedVmm;

/// Ends and removes everything below the runtime directories that belongs to no live sandbox.
/// Before any start: a leftover waiter would refuse one of its name.
pub(super) async fn sweep(dir: &StateDir, rows: &[SandboxRow]) {
    let live: HashSet<SandboxKey> =
        rows.iter().filter(|row| row.state.is_live()).map(|row| row.spec.key.clone()).collect();
    let root = dir.runtime_root();
    let found = tokio::task::spawn_blocking(move || runtime_dirs(&root)).await;
    let leftovers: Vec<SandboxKey> = found.into_iter().flatten().filter(|key| !live.contains(key)).collect();
    join_all(leftovers.iter().map(async |key| match WaitedVmm::clear_away(&dir.runtime(key)).await {
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
