//! What an orchestrator's death can leave on the host: looked for, and taken away.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, umount2};
use sandpen_types::error_chain::error_chain;
use sandpen_types::reconcile::{Leftover, LeftoverKind};
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::waiter::WaitedVmm;

use super::disks;
use super::orphans::{self, Tagged};
use crate::host::mounts::{self, Mount};

/// What there is of sandboxes beside their rows, live ones included.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Those that have a runtime directory.
    pub(super) runtime_dirs: Vec<SandboxKey>,
    /// Those that have a disk of their own.
    pub(super) disks: Vec<SandboxKey>,
    /// Processes that say whose they are.
    pub(super) processes: Vec<Tagged>,
    /// What is mounted in runtime directories.
    pub(super) mounts: Vec<(SandboxKey, PathBuf)>,
}

impl Found {
    /// Looks everywhere. Blocking.
    pub(super) fn on_host(dir: &StateDir, state_id: &str) -> Self {
        Self {
            runtime_dirs: runtime_dirs(&dir.runtime_root()),
            disks: disks::own(dir),
            processes: orphans::find(state_id),
            mounts: in_runtime_dirs(mounts::now(), &dir.runtime_root()),
        }
    }

    /// Everybody of whom there is what only a live sandbox has.
    pub(super) fn live_keys(&self) -> impl Iterator<Item = &SandboxKey> {
        let processes = self.processes.iter().map(|process| &process.key);
        let mounts = self.mounts.iter().map(|(key, _)| key);
        self.runtime_dirs.iter().chain(processes).chain(mounts)
    }
}

/// Takes a mount away. Blocking.
pub(super) fn unmount(key: &SandboxKey, path: &Path) -> Leftover {
    let error = umount2(path, MntFlags::MNT_DETACH).err().map(|errno| errno.to_string());
    Leftover { kind: LeftoverKind::Mount, what: path.display().to_string(), sandbox: Some(key.clone()), error }
}

/// Ends and removes everything of a runtime directory; `None` when it is gone by now.
pub(super) async fn clear_runtime_dir(dir: &StateDir, key: &SandboxKey) -> Option<Leftover> {
    let path = dir.runtime(key);
    if !tokio::fs::try_exists(&path).await.unwrap_or(true) {
        return None;
    }
    let error = WaitedVmm::clear_away(&path, &dir.bin()).await.err().map(|error| error_chain(&error));
    let what = path.display().to_string();
    Some(Leftover { kind: LeftoverKind::RuntimeDir, what, sandbox: Some(key.clone()), error })
}

/// Ends a process with all below it; `None` when it is gone by now. Blocking.
pub(super) fn end_process(orphan: &Tagged, state_id: &str) -> Option<Leftover> {
    let error = match orphans::end(orphan, state_id) {
        Ok(false) => return None,
        Ok(true) => None,
        Err(error) => Some(error.to_string()),
    };
    let what = format!("process {}", orphan.identity.pid);
    Some(Leftover { kind: LeftoverKind::Process, what, sandbox: Some(orphan.key.clone()), error })
}

/// Removes the disk of a sandbox that is no more; `None` when it is gone by now. Blocking.
pub(super) fn remove_disk(dir: &StateDir, key: &SandboxKey) -> Option<Leftover> {
    remove_file(LeftoverKind::Disk, &dir.sandbox_disk(key), Some(key))
}

/// Removes what is left of disks that were being made. Blocking; before any start.
pub(super) fn remove_drafts(dir: &StateDir) -> Vec<Leftover> {
    disks::drafts_of(dir).iter().filter_map(|path| remove_file(LeftoverKind::Disk, path, None)).collect()
}

/// Whoever has no sandbox that may be started again uses nothing of the cache. Blocking; before any start.
pub(super) fn remove_cache_uses(dir: &StateDir, stay: impl Fn(&SandboxKey) -> bool) {
    for (config, path) in directories(&dir.cache_users()) {
        let config = ConfigName::new(config).ok();
        for list in fs::read_dir(path).into_iter().flatten().flatten() {
            let user = config.clone().zip(StateDir::cache_user(&list.file_name()));
            let key = user.map(|(config, (name, _))| SandboxKey { config, name });
            if !key.as_ref().is_some_and(&stay)
                && let Err(error) = fs::remove_file(list.path())
            {
                tracing::warn!(path = ?list.path(), %error, "what a sandbox that is no more used of the cache stays");
            }
        }
    }
}

fn remove_file(kind: LeftoverKind, path: &Path, sandbox: Option<&SandboxKey>) -> Option<Leftover> {
    let error = match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        removed => removed.err().map(|error| error.to_string()),
    };
    Some(Leftover { kind, what: path.display().to_string(), sandbox: sandbox.cloned(), error })
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
    let entries = match fs::read_dir(path) {
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

/// The mounts in runtime directories, the innermost first.
fn in_runtime_dirs(all: Vec<Mount>, root: &Path) -> Vec<(SandboxKey, PathBuf)> {
    let below = |mount: Mount| {
        let mut parts = mount.point.strip_prefix(root).ok()?.iter().map(|part| part.to_str());
        let config = ConfigName::new(parts.next()??).ok()?;
        let name = SandboxName::new(parts.next()??).ok()?;
        Some((SandboxKey { config, name }, mount.point))
    };
    // Later ones lie over or in earlier ones.
    all.into_iter().rev().filter_map(below).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_uses_of_the_cache_is_forgotten() {
        let temp = tempfile::tempdir().unwrap();
        let dir = StateDir::new(temp.path().to_owned());
        let key = |name: &str| SandboxKey::new(SandboxName::new(name).unwrap());
        let (stays, dots, goes) = (key("web"), key("web.3"), key("job"));
        let lists = [(&stays, 1), (&stays, 12), (&dots, 1), (&goes, 3)].map(|(key, start)| dir.cache_uses(key, start));
        let odd = dir.cache_users().join("default/.new");
        fs::create_dir_all(odd.parent().unwrap()).unwrap();
        for list in lists.iter().chain([&odd]) {
            fs::write(list, "entry\n").unwrap();
        }
        remove_cache_uses(&dir, |key| *key == stays || *key == dots);
        assert_eq!(lists.map(|list| list.exists()), [true, true, true, false]);
        assert!(!odd.exists());
        remove_cache_uses(&StateDir::new(temp.path().join("nothing")), |_| true);
    }

    #[test]
    fn mounts_in_runtime_directories_are_told_from_others() {
        let mountinfo = "\
22 1 0:21 / /proc rw - proc proc rw
30 1 0:30 / /s\\040d/run/default/web/root rw - tmpfs tmpfs rw
31 30 0:31 / /s\\040d/run/default/web/root/sub rw - tmpfs tmpfs rw
32 1 0:32 / /s\\040d/run/default rw - tmpfs tmpfs rw
33 1 0:33 / /s\\040d/run2/default/web rw - tmpfs tmpfs rw
34 1 0:34 / /s\\040d/run/..bad/web rw - tmpfs tmpfs rw
35 1 0:35 / /s\\9 rw - tmpfs tmpfs rw
36 1";
        let found = in_runtime_dirs(mounts::parse(mountinfo), Path::new("/s d/run"));
        let paths: Vec<_> = found.iter().map(|(key, path)| (key.to_string(), path.to_str().unwrap())).collect();
        let key = || "default/web".to_owned();
        assert_eq!(paths, [(key(), "/s d/run/default/web/root/sub"), (key(), "/s d/run/default/web/root")]);
    }
}
