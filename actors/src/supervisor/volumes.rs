//! Volumes with names: whose they are, and how they go away. A start makes them where they are missing.
//!
//! A volume is its sandboxes' until they are removed: an ended one may be started again and expects to find what it wrote.

use std::io;
use std::path::{Path, PathBuf};

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{SandboxKey, SandboxSpec, VolumeName, VolumeSource};
use sandpen_types::state_dir::StateDir;
use sandpen_types::volume::NamedVolume;
use sandpen_vmm::blocking::blocking;

use super::actor::{Answer, Supervisor};
use super::{ListVolumes, RemoveVolume, SupervisorError};
use crate::database::ListSandboxes;

/// The beginning of the name of a directory that is on its way out; no name of a volume begins so.
const LEAVING_PREFIX: &str = ".removed-";

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
        match names(spec).find(|name| self.removing_volumes.contains(name)) {
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
        if !self.removing_volumes.insert(name.clone()) {
            return self.refuse(SupervisorError::VolumeLeaves { name });
        }
        let (dir, database) = (self.config.state_dir.clone(), self.config.database.clone());
        let rows =
            async move { database.send(ListSandboxes).await.map_err(|_| SupervisorError::Gone)?.map_err(Into::into) };
        let leaving = name.clone();
        let removed = rows.into_actor(self).then(move |rows: Result<Vec<_>, SupervisorError>, this, _| {
            let unused = rows.and_then(|rows| match this.volume_users(&leaving, &rows).into_iter().next() {
                Some(user) => Err(SupervisorError::VolumeInUse { name: leaving.clone(), user }),
                None => Ok(()),
            });
            async move {
                unused?;
                let removed = blocking(move || remove(&dir, &leaving)).await;
                removed.map_err(|_| SupervisorError::Gone)?
            }
            .into_actor(this)
        });
        Box::pin(removed.map(move |removed, this, _| {
            this.removing_volumes.remove(&name);
            removed
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

/// Removes a volume with all that is in it: out of the way at once, then piece by piece. Blocking.
fn remove(dir: &StateDir, name: &VolumeName) -> Result<(), SupervisorError> {
    let failed = |source| SupervisorError::Volume { action: "removing a volume", source };
    let leaving = dir.volumes().join(format!("{LEAVING_PREFIX}{name}"));
    // What an orchestrator that died has left of another one of this name.
    remove_tree(&leaving).map_err(failed)?;
    match std::fs::rename(dir.named_volume(name), &leaving) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SupervisorError::VolumeNotFound { name: name.clone() });
        }
        renamed => renamed.map_err(failed)?,
    }
    remove_tree(&leaving).map_err(failed)
}

fn remove_tree(path: &Path) -> io::Result<()> {
    // It follows no link, also not one that is put there meanwhile.
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
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
        std::fs::create_dir(dir.volumes().join(".removed-b")).unwrap();
        std::fs::write(dir.volumes().join(".removed-b/old"), "x").unwrap();
        assert_eq!(named_volumes(&dir.volumes()).unwrap(), [name("a"), name("b")]);
        assert_eq!(leaving(&dir), [dir.volumes().join(".removed-b")]);
        remove(&dir, &name("b")).unwrap();
        assert_eq!(named_volumes(&dir.volumes()).unwrap(), [name("a")]);
        assert!(leaving(&dir).is_empty() && outside.join("file").exists());
        assert!(matches!(remove(&dir, &name("b")), Err(SupervisorError::VolumeNotFound { .. })));
    }
}
