//! Disks: which one is whose, and how they go away. The drivers make them.
//!
//! Who uses a disk is known from the children alone: every live sandbox is one, also after a restart
//! of the orchestrator, before anything can be started.

use std::io;
use std::path::{Path, PathBuf};

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use sandpen_types::disk::NamedDisk;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{ConfigName, DiskName, SandboxKey, SandboxName};
use sandpen_types::state_dir::{DISK_DRAFT_PREFIX, DISK_SUFFIX, StateDir};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::tree;

use super::actor::{Answer, Supervisor};
use super::{ListDisks, RemoveDisk, SupervisorError};

/// Whether a microVM of this row begins with an empty disk of its own: at a start by request, unless that goes on with the
/// disk that is there.
pub(super) fn begins_empty(row: &SandboxRow) -> bool {
    row.restarts == 0 && !row.keeps_disk && row.spec.helper_of.is_none()
}

impl Supervisor {
    /// The live sandbox that has a named disk.
    pub(super) fn disk_user(&self, name: &DiskName) -> Option<&SandboxKey> {
        self.children.iter().find(|(_, child)| child.uses_disk(name)).map(|(key, _)| key)
    }

    /// Refuses a disk that a live sandbox has, or that is being removed.
    pub(super) fn check_disk(&self, name: Option<&DiskName>) -> Result<(), SupervisorError> {
        let Some(name) = name else { return Ok(()) };
        if self.removing_disks.contains(name) {
            return Err(SupervisorError::DiskNotFound { name: name.clone() });
        }
        match self.disk_user(name) {
            Some(user) => Err(SupervisorError::DiskInUse { name: name.clone(), user: user.clone() }),
            None => Ok(()),
        }
    }
}

impl Handler<ListDisks> for Supervisor {
    type Result = Answer<Vec<NamedDisk>>;

    fn handle(&mut self, _: ListDisks, _: &mut Self::Context) -> Self::Result {
        let dir = self.config.state_dir.named_disks();
        let listed = blocking(move || named_disks(&dir)).into_actor(self);
        Box::pin(listed.map(|listed, this, _| {
            let mut disks = listed
                .map_err(|_| SupervisorError::Gone)?
                .map_err(|source| SupervisorError::Disk { action: "listing the disks", source })?;
            for disk in &mut disks {
                disk.used_by = this.disk_user(&disk.name).cloned();
            }
            Ok(disks)
        }))
    }
}

impl Handler<RemoveDisk> for Supervisor {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveDisk { name }: RemoveDisk, _: &mut Self::Context) -> Self::Result {
        if let Err(error) = self.check_disk(Some(&name)) {
            return self.refuse(error);
        }
        // Meanwhile nothing is started with it.
        self.removing_disks.insert(name.clone());
        let path = self.config.state_dir.named_disk(&name);
        let removed = blocking(move || std::fs::remove_file(path)).into_actor(self);
        Box::pin(removed.map(move |removed, this, _| {
            this.removing_disks.remove(&name);
            match removed.map_err(|_| SupervisorError::Gone)? {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Err(SupervisorError::DiskNotFound { name }),
                Err(source) => Err(SupervisorError::Disk { action: "removing a disk", source }),
                Ok(()) => Ok(()),
            }
        }))
    }
}

fn named_disks(dir: &Path) -> io::Result<Vec<NamedDisk>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut disks = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(name) = disk_stem(&entry.file_name()).and_then(|stem| DiskName::new(stem).ok()) else { continue };
        // One that was removed since is not there.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() {
            disks.push(NamedDisk { name, bytes: meta.len(), used_bytes: tree::allocated_by(&meta), used_by: None });
        }
    }
    disks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(disks)
}

fn disk_stem(file_name: &std::ffi::OsStr) -> Option<String> {
    Some(file_name.to_str()?.strip_suffix(DISK_SUFFIX)?.to_owned())
}

/// Removes a sandbox's own disk; fine if it has none. Blocking.
pub(super) fn remove_own(dir: &StateDir, key: &SandboxKey) -> Result<(), SupervisorError> {
    match std::fs::remove_file(dir.sandbox_disk(key)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(SupervisorError::Disk { action: "removing the disk of an earlier run", source: error })
        }
        _ => Ok(()),
    }
}

/// The sandboxes that have a disk of their own. Blocking.
pub(super) fn own(dir: &StateDir) -> Vec<SandboxKey> {
    let mut keys = Vec::new();
    for config in entries(&dir.sandbox_disks()) {
        let Some(config_name) = config.file_name().and_then(|name| name.to_str()) else { continue };
        let Ok(config_name) = ConfigName::new(config_name) else { continue };
        for disk in entries(&config) {
            let name = disk.file_name().and_then(disk_stem).and_then(|stem| SandboxName::new(stem).ok());
            keys.extend(name.map(|name| SandboxKey { config: config_name.clone(), name }));
        }
    }
    keys
}

/// Disks that were being made, or still are. Blocking.
pub(super) fn drafts_of(dir: &StateDir) -> Vec<PathBuf> {
    entries(&dir.sandbox_disks()).iter().chain([&dir.named_disks()]).flat_map(|dir| drafts(dir)).collect()
}

fn drafts(dir: &Path) -> Vec<PathBuf> {
    let is_draft = |path: &PathBuf| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(DISK_DRAFT_PREFIX))
    };
    entries(dir).into_iter().filter(is_draft).collect()
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn whose_a_disk_is_shows_in_its_place_and_name() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let key = |name: &str| SandboxKey::new(SandboxName::new(name).unwrap());
        let named = dir.named_disk(&DiskName::new("kept").unwrap());
        let draft = dir.named_disks().join(".disk-abc");
        let other_draft = dir.sandbox_disks().join("default/.disk-def");
        let foreign = dir.sandbox_disks().join("default/notes.txt");
        for path in [&dir.sandbox_disk(&key("web")), &named, &draft, &other_draft, &foreign] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "x").unwrap();
        }
        assert_eq!(own(&dir), [key("web")]);
        let drafts: HashSet<_> = drafts_of(&dir).into_iter().collect();
        assert_eq!(drafts, HashSet::from([draft, other_draft]));
        let disks = named_disks(&dir.named_disks()).unwrap();
        assert_eq!((disks.len(), disks[0].name.as_str(), disks[0].bytes), (1, "kept", 1));
        assert!(named_disks(&temp.path().join("nothing")).unwrap().is_empty());
        assert!(own(&StateDir::new(temp.path().join("nothing"))).is_empty());
    }
}
