//! Volumes with names: whose they are, and how they go away. A start makes them where they are missing.
//!
//! A volume is its sandboxes' until they are removed: an ended one may be started again and expects to find what it wrote.
//!
//! ```text
//!   RemoveVolume ─▶ name taken ─▶ nobody has it ─▶ renamed: gone for everybody ─▶ name free, answered
//!                                                     └─▶ deleted by a thread (tree_removals.rs), also after a restart
//! ```
//! A name that is taken is taken for the supervisors that follow as well: it is the rename's until that is done, whoever
//! lives then.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{SandboxKey, SandboxSpec, VolumeName, VolumeSource};
use sandpen_types::state_dir::StateDir;
use sandpen_types::volume::NamedVolume;
use sandpen_vmm::blocking::blocking;

use super::actor::{Answer, Supervisor};
use super::{ListVolumes, RemoveVolume, SupervisorError};
use crate::database::{ListEverySandbox, ListSandboxes};

/// The beginning of the name of a directory that is on its way out; no name of a volume begins so.
const LEAVING_PREFIX: &str = ".removed-";

/// The names that are taken by removals.
#[derive(Clone, Default)]
pub(super) struct LeavingVolumes(Arc<Mutex<HashSet<VolumeName>>>);

/// One of them, until it is dropped.
struct Leaving {
    all: LeavingVolumes,
    name: VolumeName,
}

impl LeavingVolumes {
    fn names(&self) -> MutexGuard<'_, HashSet<VolumeName>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a name; `None` where it is taken.
    fn take(&self, name: &VolumeName) -> Option<Leaving> {
        self.names().insert(name.clone()).then(|| Leaving { all: self.clone(), name: name.clone() })
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.all.names().remove(&self.name);
    }
}

/// The names of a sandbox's volumes.
pub(super) fn names(spec: &SandboxSpec) -> impl Iterator<Item = &VolumeName> {
    spec.volumes.iter().filter_map(|volume| match &volume.source {
        VolumeSource::Named(name) => Some(name),
        VolumeSource::Host(_) => None,
    })
}

impl Supervisor {
    /// Refuses a volume that is being removed.
    pub(super) fn check_volumes(&self, spec: &SandboxSpec) -> Result<(), SupervisorError> {
        let leaving = self.leaving_volumes.names();
        match names(spec).find(|name| leaving.contains(name)) {
            Some(name) => Err(SupervisorError::VolumeLeaves { name: name.clone() }),
            None => Ok(()),
        }
    }

    /// Who has it, of those that live or are about to, and of these rows.
    fn volume_users(&self, name: &VolumeName, rows: &[SandboxRow]) -> Vec<SandboxKey> {
        let live = self.children.iter().filter(|(_, child)| child.uses_volume(name)).map(|(key, _)| key);
        let of_rows = rows.iter().filter(|row| names(&row.spec).any(|of_row| of_row == name)).map(|row| &row.spec.key);
        let mut users: Vec<_> = live.chain(of_rows).cloned().collect();
        users.sort();
        users.dedup();
        users
    }
}

impl Handler<ListVolumes> for Supervisor {
    type Result = Answer<Vec<NamedVolume>>;

    fn handle(&mut self, _: ListVolumes, _: &mut Self::Context) -> Self::Result {
        let (dir, database) = (self.config.state_dir.volumes(), self.config.database.clone());
        let listed = async move {
            let rows = database.send(ListSandboxes).await.map_err(|_| SupervisorError::Gone)??;
            let names = blocking(move || named_volumes(&dir)).await.map_err(|_| SupervisorError::Gone)?;
            let failed = |source| SupervisorError::Volume { action: "listing the volumes", source };
            Ok((names.map_err(failed)?, rows))
        };
        Box::pin(listed.into_actor(self).map(|listed: Result<_, SupervisorError>, this, _| {
            let (names, rows) = listed?;
            let volume = |name| NamedVolume { used_by: this.volume_users(&name, &rows), name };
            Ok(names.into_iter().map(volume).collect())
        }))
    }
}

impl Handler<RemoveVolume> for Supervisor {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveVolume { name }: RemoveVolume, _: &mut Self::Context) -> Self::Result {
        // From here on nothing is started with it.
        let Some(leaving) = self.leaving_volumes.take(&name) else {
            return self.refuse(SupervisorError::VolumeLeaves { name });
        };
        let (dir, database) = (self.config.state_dir.clone(), self.config.database.clone());
        let rows = async move {
            let every = database.send(ListEverySandbox).await.map_err(|_| SupervisorError::Gone)??;
            match every.left_out {
                0 => Ok(every.rows),
                unreadable => Err(SupervisorError::VolumeUsersUnknown { name, unreadable }),
            }
        };
        Box::pin(rows.into_actor(self).then(move |rows: Result<Vec<_>, SupervisorError>, this, _| {
            let unused = rows.and_then(|rows| match this.volume_users(&leaving.name, &rows).into_iter().next() {
                Some(user) => Err(SupervisorError::VolumeInUse { name: leaving.name.clone(), user }),
                None => Ok(()),
            });
            let tree_removals = this.tree_removals.clone();
            async move {
                unused?;
                // The name goes along: also where this supervisor ends meanwhile, nothing is started with it.
                let removed = blocking(move || {
                    tree_removals.delete([set_aside(&dir, &leaving.name)?]);
                    Ok(())
                });
                removed.await.map_err(|_| SupervisorError::Gone)?
            }
            .into_actor(this)
        }))
    }
}

fn named_volumes(dir: &Path) -> io::Result<Vec<VolumeName>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().to_str().and_then(|name| VolumeName::new(name).ok());
        names.extend(name.filter(|_| entry.file_type().is_ok_and(|kind| kind.is_dir())));
    }
    names.sort();
    Ok(names)
}

/// Gives a volume a name that nobody looks for, which is answered. Blocking.
fn set_aside(dir: &StateDir, name: &VolumeName) -> Result<PathBuf, SupervisorError> {
    let failed = |source| SupervisorError::Volume { action: "removing a volume", source };
    let mut number = 0_u64;
    // Earlier ones of this name may still be on their way out. The name is ours alone, so nobody takes the number.
    let aside = loop {
        let aside = dir.volumes().join(format!("{LEAVING_PREFIX}{name}-{number}"));
        match std::fs::symlink_metadata(&aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => break aside,
            there => {
                there.map_err(failed)?;
            }
        }
        number += 1;
    };
    match std::fs::rename(dir.named_volume(name), &aside) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(SupervisorError::VolumeNotFound { name: name.clone() })
        }
        renamed => renamed.map(|()| aside).map_err(failed),
    }
}

/// Volumes that were being removed. Blocking.
pub(super) fn leaving(dir: &StateDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.volumes()).into_iter().flatten().flatten();
    let is_leaving = |name: &std::ffi::OsStr| name.to_str().is_some_and(|name| name.starts_with(LEAVING_PREFIX));
    entries.filter(|entry| is_leaving(&entry.file_name())).map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_goes_with_all_that_is_in_it_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let name = |name: &str| VolumeName::new(name).unwrap();
        assert!(named_volumes(&dir.volumes()).unwrap().is_empty());
        let outside = temp.path().join("outside");
        for path in [&dir.named_volume(&name("b")).join("deep/er"), &dir.named_volume(&name("a")), &outside] {
            std::fs::create_dir_all(path).unwrap();
        }
        std::fs::write(outside.join("file"), "x").unwrap();
        std::os::unix::fs::symlink(&outside, dir.named_volume(&name("b")).join("link")).unwrap();
        std::fs::write(dir.volumes().join("notes.txt"), "x").unwrap();
        std::fs::create_dir(dir.volumes().join(".removed-b-0")).unwrap();
        std::fs::write(dir.volumes().join(".removed-b-0/old"), "x").unwrap();
        assert_eq!(named_volumes(&dir.volumes()).unwrap(), [name("a"), name("b")]);
        assert_eq!(leaving(&dir), [dir.volumes().join(".removed-b-0")]);
        // What is left of another one of that name stays apart.
        let aside = set_aside(&dir, &name("b")).unwrap();
        assert_eq!(aside, dir.volumes().join(".removed-b-1"));
        assert!(aside.join("deep/er").exists() && dir.volumes().join(".removed-b-0/old").exists());
        assert_eq!(named_volumes(&dir.volumes()).unwrap(), [name("a")]);
        for path in leaving(&dir) {
            sandpen_vmm::tree::remove(&path, &|| true).unwrap();
        }
        assert!(leaving(&dir).is_empty() && outside.join("file").exists());
        assert!(matches!(set_aside(&dir, &name("b")), Err(SupervisorError::VolumeNotFound { .. })));
    }

    #[test]
    fn a_name_is_taken_until_its_removal_is_done_whoever_lives_then() {
        let first = LeavingVolumes::default();
        let name = VolumeName::new("a").unwrap();
        let leaving = first.take(&name).unwrap();
        let next = first.clone();
        drop(first);
        assert!(next.take(&name).is_none() && next.names().contains(&name));
        drop(leaving);
        assert!(next.take(&name).is_some());
    }
}
