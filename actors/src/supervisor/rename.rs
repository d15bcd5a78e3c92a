//! A rename of an ended sandbox: its row, its history, its log and its disk have another name from then on.
//!
//! ```text
//!   RenameSandbox ─▶ both names taken ─▶ row, durable, knows the old name ─▶ files move ─▶ row forgets it ─▶ names free
//!                                                       └── a crash, a disk that refuses: the next orchestrator
//! ```

use std::fs;
use std::io;
use std::path::Path;

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::cache_uses;

use super::actor::{Answer, Supervisor};
use super::admits::{Request, When};
use super::child::Child;
use super::phase::Phase;
use super::{RenameSandbox, SupervisorError};
use crate::database::{self, DatabaseError, FinishRename, GetSandbox, UnfinishedRename};
use crate::log_writer::{LogError, move_files};

impl Handler<RenameSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, request: RenameSandbox, ctx: &mut Self::Context) -> Self::Result {
        let RenameSandbox { from, to } = request.clone();
        if from == to {
            return self.refuse(SupervisorError::NameTaken { key: to });
        }
        for key in [&from, &to] {
            match self.admit(key, Request::Rename) {
                Ok(When::Now) => {}
                Ok(When::OnceReleased | When::OnceHosted) => return self.once_released(key, request, ctx),
                Err(refusal) => {
                    let refused = match *key == to {
                        true => SupervisorError::NameTaken { key: to.clone() },
                        false => refusal.error(from.clone(), self.status(&from), Request::Rename),
                    };
                    return self.refuse(refused);
                }
            }
        }
        self.rename_ended(from, to)
    }
}

impl Supervisor {
    fn rename_ended(&mut self, from: SandboxKey, to: SandboxKey) -> Answer<SandboxRow> {
        // Neither name is anybody's until the last file has moved.
        for key in [&from, &to] {
            self.children.insert(key.clone(), Child::new(Phase::Removing));
        }
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        let timings = self.config.timings.clone();
        let (old, new) = (from.clone(), to.clone());
        let renamed = async move {
            let found = database.send(GetSandbox(old.clone())).await??;
            let row = found.ok_or_else(|| SupervisorError::NotFound { key: old.clone() })?;
            if row.spec.remove_on_end {
                return Err(SupervisorError::RemovesItself { key: old });
            }
            let renaming = database::RenameSandbox { sandbox: row.id, to: new.clone() };
            database.send(renaming).await?.map_err(|error| match error {
                DatabaseError::NameTaken { key } => SupervisorError::NameTaken { key },
                error => error.into(),
            })?;
            timings.forget(&old);
            let rename = UnfinishedRename { sandbox: row.id, from: old, to: new.clone() };
            let moved = blocking(move || move_all(&dir, &rename)).await.map_err(|_| SupervisorError::Gone)?;
            moved.map_err(|source| SupervisorError::RenameFiles { key: new.clone(), source })?;
            database.send(FinishRename(row.id)).await??;
            database.send(GetSandbox(new.clone())).await??.ok_or(SupervisorError::NotFound { key: new })
        };
        Box::pin(renamed.into_actor(self).map(move |renamed, this, _| {
            for key in [&from, &to] {
                this.children.remove(key);
            }
            renamed
        }))
    }
}

/// Gives everything of a sandbox its new name. What has it already stays; nothing is overwritten. Blocking.
fn move_all(dir: &StateDir, UnfinishedRename { from, to, .. }: &UnfinishedRename) -> Result<(), LogError> {
    move_files(&dir.log(from), &dir.log(to))?;
    for (old, new) in [(dir.vmm_log(from), dir.vmm_log(to)), (dir.sandbox_disk(from), dir.sandbox_disk(to))] {
        move_file(&old, &new).map_err(|source| LogError::File { action: "renaming", path: old, source })?;
    }
    // It uses nothing of the cache until it is started again.
    cache_uses::forget(dir, from, ..);
    Ok(())
}

fn move_file(old: &Path, new: &Path) -> io::Result<()> {
    if fs::symlink_metadata(new).is_ok() || fs::symlink_metadata(old).is_err() {
        return Ok(());
    }
    if let Some(directory) = new.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::rename(old, new)
}

/// Finishes what an orchestrator that died has begun; those whose files are where they belong. Blocking; before any start.
pub(super) fn finish(dir: &StateDir, renames: Vec<UnfinishedRename>) -> Vec<FinishRename> {
    let finished = renames.into_iter().filter(|rename| match move_all(dir, rename) {
        Ok(()) => true,
        Err(error) => {
            let UnfinishedRename { from, to, .. } = rename;
            tracing::warn!(%from, %to, error = error_chain(&error), "files of a renamed sandbox still have its old name");
            false
        }
    });
    finished.map(|rename| FinishRename(rename.sandbox)).collect()
}
