//! A rename of an ended sandbox: its row, its history, its log and its disk have another name from then on.
//!
//! ```text
//!   RenameSandbox ─▶ both names taken ─▶ planned, durable ─▶ files get the new name too (links)
//!                 ─▶ row renamed, durable ─▶ files lose the old name ─▶ forgotten ─▶ names free
//! ```
//!
//! Its files have the name of its row at every moment, so a crash, or a disk that takes nothing more, leaves at most a second
//! name of them. That is taken away at the next reconciliation, and nobody gets it before.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use actix::{ActorFutureExt as _, Handler, ResponseActFuture, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::spec::SandboxKey;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::cache_uses;

use super::actor::{Answer, Supervisor};
use super::admits::{Request, When};
use super::child::Child;
use super::phase::Phase;
use super::{RenameSandbox, SupervisorError};
use crate::database::{
    self, Database, DatabaseError, ForgetRename, GetSandbox, ListUnfinishedRenames, PlanRename, UnfinishedRename,
};
use crate::log_writer::files_of;
use crate::runtime::actor_ref::ActorRef;

impl Handler<RenameSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, request: RenameSandbox, ctx: &mut Self::Context) -> Self::Result {
        let RenameSandbox { from, to } = request.clone();
        if self.shutting_down.is_some() {
            return self.refuse(SupervisorError::ShuttingDown);
        }
        if from == to {
            return self.refuse(SupervisorError::NameTaken { key: to });
        }
        if let Some(helper) = self.helper(&from) {
            return self.once_helper_is_gone(&from, &helper, request, ctx);
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
        // Neither name is anybody else's meanwhile.
        for key in [&from, &to] {
            self.children.insert(key.clone(), Child::new(Phase::Removing));
        }
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        let timings = self.config.timings.clone();
        let (old, new) = (from.clone(), to.clone());
        let renamed = async move {
            // What an earlier one has left of these, this same request perhaps, before its supervisor failed.
            let of_these =
                |rename: &UnfinishedRename| [&rename.key, &rename.other].iter().any(|key| **key == old || **key == new);
            finish(&database, &dir, of_these).await?;
            let renamed = rename(&database, &dir, &old, &new).await?;
            timings.forget(&old);
            Ok(renamed)
        };
        Box::pin(renamed.into_actor(self).map(move |renamed, this, _| {
            for key in [&from, &to] {
                this.children.remove(key);
            }
            renamed
        }))
    }
}

async fn rename(
    database: &ActorRef<Database>,
    dir: &StateDir,
    from: &SandboxKey,
    to: &SandboxKey,
) -> Result<SandboxRow, SupervisorError> {
    let row = database.send(GetSandbox(from.clone())).await??;
    let row = row.ok_or_else(|| SupervisorError::NotFound { key: from.clone() })?;
    if row.spec.remove_on_end {
        return Err(SupervisorError::RemovesItself { key: from.clone() });
    }
    database.send(PlanRename { sandbox: row.id, to: to.clone() }).await?.map_err(refused)?;
    let named = name_too(dir, from, to).await;
    let done = match named {
        Ok(()) => {
            let renaming = database::RenameSandbox { sandbox: row.id, to: to.clone() };
            database.send(renaming).await?.map_err(refused)
        }
        Err(source) => Err(SupervisorError::RenameFiles { key: to.clone(), source }),
    };
    // What is left of it, whether it was done or not; what cannot be cleared away now is later.
    let of_this = |rename: &UnfinishedRename| rename.sandbox == row.id;
    if let Err(error) = finish(database, dir, of_this).await {
        tracing::warn!(%from, %to, error = error_chain(&error), "something of a renamed sandbox has two names for now");
    }
    done?;
    database.send(GetSandbox(to.clone())).await??.ok_or_else(|| SupervisorError::NotFound { key: to.clone() })
}

/// The user's words for a name that the database does not give.
pub(super) fn refused(error: DatabaseError) -> SupervisorError {
    match error {
        DatabaseError::NameTaken { key } => SupervisorError::NameTaken { key },
        DatabaseError::NameReserved { key } => SupervisorError::NameReserved { key },
        error => error.into(),
    }
}

/// Gives all files of a sandbox another name too.
async fn name_too(dir: &StateDir, from: &SandboxKey, to: &SandboxKey) -> io::Result<()> {
    let (dir, from, to) = (dir.clone(), from.clone(), to.clone());
    blocking(move || link_all(&dir, &from, &to)).await.unwrap_or_else(|_| Err(io::Error::other("its thread failed")))
}

fn link_all(dir: &StateDir, from: &SandboxKey, to: &SandboxKey) -> io::Result<()> {
    let mut pairs = vec![(dir.vmm_log(from), dir.vmm_log(to)), (dir.sandbox_disk(from), dir.sandbox_disk(to))];
    let (old_log, new_log) = (dir.log(from), dir.log(to));
    for old in files_of(&old_log) {
        // All of them begin with the log's own name.
        let rest = old.as_os_str().as_encoded_bytes().strip_prefix(old_log.as_os_str().as_encoded_bytes());
        let rest = rest.and_then(|rest| std::str::from_utf8(rest).ok()).unwrap_or_default();
        let mut new = new_log.clone().into_os_string();
        new.push(rest);
        pairs.push((old, new.into()));
    }
    // What is there under the name of no sandbox is not ours to hide.
    if let Some(other) = files_of(&new_log).iter().find(|file| !pairs.iter().any(|(_, new)| new == *file)) {
        return Err(in_the_way(other));
    }
    let mut directories = HashSet::new();
    for (old, new) in pairs {
        if link(&old, &new)? {
            directories.extend(new.parent().map(Path::to_owned));
        }
    }
    // Before the row has that name.
    directories.into_iter().try_for_each(|directory| File::open(directory)?.sync_all())
}

/// Whether there is such a file.
fn link(old: &Path, new: &Path) -> io::Result<bool> {
    let Ok(meta) = fs::symlink_metadata(old) else {
        return if fs::symlink_metadata(new).is_ok() { Err(in_the_way(new)) } else { Ok(false) };
    };
    if let Some(directory) = new.parent() {
        fs::create_dir_all(directory)?;
    }
    match fs::hard_link(old, new) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = fs::symlink_metadata(new)?;
            if (there.dev(), there.ino()) == (meta.dev(), meta.ino()) { Ok(true) } else { Err(in_the_way(new)) }
        }
        linked => linked.map(|()| true),
    }
}

fn in_the_way(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is there already, and no sandbox's", path.display()))
}

impl Supervisor {
    /// Clears away what renames have left that were cut off. One that goes on at this moment has taken its names.
    pub(super) fn finish_left_renames(&self) -> ResponseActFuture<Self, ()> {
        let (database, dir) = (self.config.database.clone(), self.config.state_dir.clone());
        let listed = {
            let database = database.clone();
            async move { database.send(ListUnfinishedRenames).await }
        };
        let cleared = listed.into_actor(self).then(move |listed, this, _| {
            let mut left = listed.map_err(SupervisorError::from).and_then(|left| Ok(left?)).unwrap_or_else(|error| {
                tracing::warn!(error = error_chain(&error), "renames cannot be looked for");
                Vec::new()
            });
            left.retain(|rename| !this.children.contains_key(&rename.other));
            let taken: Vec<_> = left.iter().map(|rename| rename.other.clone()).collect();
            for key in &taken {
                this.children.insert(key.clone(), Child::new(Phase::Removing));
            }
            async move {
                if let Err(error) = clear(&database, &dir, left).await {
                    tracing::warn!(error = error_chain(&error), "renames could not be finished");
                }
                taken
            }
            .into_actor(this)
        });
        Box::pin(cleared.map(|taken, this, _| {
            for key in &taken {
                this.children.remove(key);
            }
        }))
    }
}

/// Takes the second name from the files of these, which the caller has taken, and forgets it.
pub(super) async fn finish(
    database: &ActorRef<Database>,
    dir: &StateDir,
    these: impl Fn(&UnfinishedRename) -> bool,
) -> Result<(), SupervisorError> {
    let mut unfinished = database.send(ListUnfinishedRenames).await??;
    unfinished.retain(these);
    clear(database, dir, unfinished).await
}

async fn clear(
    database: &ActorRef<Database>,
    dir: &StateDir,
    unfinished: Vec<UnfinishedRename>,
) -> Result<(), SupervisorError> {
    if unfinished.is_empty() {
        return Ok(());
    }
    let dir = dir.clone();
    let cleared = move || -> Vec<SandboxId> {
        let cleared = unfinished.into_iter().filter(|rename| match unlink_all(&dir, rename) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(sandbox = %rename.key, %error, "its files have the name {} too for now", rename.other);
                false
            }
        });
        cleared.map(|rename| rename.sandbox).collect()
    };
    for sandbox in blocking(cleared).await.map_err(|_| SupervisorError::Gone)? {
        database.send(ForgetRename(sandbox)).await??;
    }
    Ok(())
}

/// All files of a name.
fn files(dir: &StateDir, name: &SandboxKey) -> impl Iterator<Item = PathBuf> {
    files_of(&dir.log(name)).into_iter().chain([dir.vmm_log(name), dir.sandbox_disk(name)])
}

fn unlink_all(dir: &StateDir, UnfinishedRename { key, other, is_planned, .. }: &UnfinishedRename) -> io::Result<()> {
    let identity = |file: &PathBuf| fs::symlink_metadata(file).ok().map(|meta| (meta.dev(), meta.ino()));
    let own: HashSet<_> = files(dir, key).filter_map(|file| identity(&file)).collect();
    if !is_planned {
        // It uses nothing of the cache until it is started again.
        cache_uses::forget(dir, other, ..);
    }
    // Under a name that was only planned, what is not its own was in the way.
    for file in files(dir, other).filter(|file| !is_planned || identity(file).is_some_and(|file| own.contains(&file))) {
        match fs::remove_file(file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sandpen_types::spec::SandboxName;

    use super::*;

    fn key(name: &str) -> SandboxKey {
        SandboxKey::new(SandboxName::new(name).unwrap())
    }

    #[test]
    fn files_have_both_names_until_one_is_taken_and_nothing_is_overwritten() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let (old, new): (_, SandboxKey) = (key("old"), "shop/new".parse().unwrap());
        let left = |key: &SandboxKey, other: &SandboxKey, is_planned| UnfinishedRename {
            sandbox: 1,
            key: key.clone(),
            other: other.clone(),
            is_planned,
        };
        let names = ["", ".idx", ".1", ".1.idx", ".3", ".3.idx"];
        let log = |key: &SandboxKey, end: &str| format!("{}{end}", dir.log(key).display());
        fs::create_dir_all(dir.logs(&old)).unwrap();
        fs::create_dir_all(dir.sandbox_disk(&old).parent().unwrap()).unwrap();
        for end in names {
            fs::write(log(&old, end), end).unwrap();
        }
        fs::write(dir.vmm_log(&old), "vmm").unwrap();
        fs::write(dir.sandbox_disk(&old), "disk").unwrap();
        // Twice, as after a failure.
        link_all(&dir, &old, &new).unwrap();
        link_all(&dir, &old, &new).unwrap();
        // Not the way it was planned after all, and once more.
        unlink_all(&dir, &left(&old, &new, true)).unwrap();
        assert_eq!(files(&dir, &new).filter(|file| file.exists()).count(), 0);
        link_all(&dir, &old, &new).unwrap();
        unlink_all(&dir, &left(&new, &old, false)).unwrap();
        for end in names {
            assert_eq!(fs::read_to_string(log(&new, end)).unwrap(), end);
            assert!(!Path::new(&log(&old, end)).exists(), "{end}");
        }
        assert_eq!(fs::read_to_string(dir.sandbox_disk(&new)).unwrap(), "disk");
        assert_eq!(fs::read_to_string(dir.vmm_log(&new)).unwrap(), "vmm");
        assert!(!dir.sandbox_disk(&old).exists());
        // Somebody's file in the way.
        for other in [log(&old, ".2"), dir.sandbox_disk(&old).display().to_string(), log(&old, ".idx")] {
            fs::write(&other, "other").unwrap();
            let refused = link_all(&dir, &new, &old).unwrap_err().to_string();
            assert!(refused.contains("is there already"), "{other}: {refused}");
            unlink_all(&dir, &left(&new, &old, true)).unwrap();
            assert_eq!(fs::read_to_string(&other).unwrap(), "other");
            fs::remove_file(other).unwrap();
            assert_eq!(files(&dir, &old).filter(|file| file.exists()).count(), 0);
        }
        assert_eq!(fs::read_to_string(dir.sandbox_disk(&new)).unwrap(), "disk");
    }
}
