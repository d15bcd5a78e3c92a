//! Where everything of one state directory lies. Paths are made of checked names only.
//!
//! ```text
//! <state>/                 0700
//!   sandpen.db             SQLite, WAL (0600)
//!   daemon.lock            held by the one orchestrator of this directory
//!   daemon.log             the daemon's own messages
//!   sandpen.sock           HTTP (0600)
//!   ssh_host_key           by which SSH clients know us (0600), made for the first `sandpen ssh-config`
//!   ssh_known_hosts        its public half
//!   bin/                   our helper programs, named by content
//!   cache/                 initramfs files, kernels, images and templates, named by content
//!   cache/uses/<config>/<name>.<generation>  which of them a sandbox uses
//!   logs/<config>/<name>.log[.N], .log[.N].idx, .vmm
//!   jobs/<row>/<job>.log[.N], .log[.N].idx  what the jobs of a sandbox wrote, by the number of its row
//!   run/<config>/<name>/   FIFOs, sockets, exit status of a live microVM
//!   disks/sandbox/<config>/<name>.img  what a sandbox has written over its layers
//!   disks/named/<disk>.img             the same, kept under a name of its own
//!   volumes/<volume>/                  directories of sandboxes that outlive them
//! ```

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::row::SandboxId;
use crate::session::SessionId;
use crate::spec::{DiskName, Rootfs, SandboxKey, SandboxName, SandboxSpec, VolumeName, VolumeSource};

/// The end of a disk's file name.
pub const DISK_SUFFIX: &str = ".img";
/// The beginning of the file name of a disk in the making; no name of a sandbox or disk begins so.
pub const DISK_DRAFT_PREFIX: &str = ".disk-";

/// A state directory by its absolute path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// The name of the lock of the one orchestrator.
    pub const LOCK: &str = "daemon.lock";
    /// The name of the file with the daemon's own messages.
    pub const DAEMON_LOG: &str = "daemon.log";
    /// The name of the database file.
    pub const DATABASE: &str = "sandpen.db";
    /// The names of all files that are opened at a start, and written to; the last ones are SQLite's.
    pub const FILES: [&str; 6] =
        [Self::LOCK, Self::DAEMON_LOG, Self::DATABASE, "sandpen.db-journal", "sandpen.db-shm", "sandpen.db-wal"];
    /// The names of all directories that everything else is made below, the outer ones first.
    pub const DIRECTORIES: [&str; 9] =
        ["bin", "cache", "logs", "jobs", "run", "disks", "disks/sandbox", "disks/named", "volumes"];

    /// Takes an absolute path; makes nothing.
    pub fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.0.join(Self::DATABASE)
    }

    /// The lock of the one orchestrator.
    pub fn lock(&self) -> PathBuf {
        self.0.join(Self::LOCK)
    }

    /// The daemon's own messages.
    pub fn daemon_log(&self) -> PathBuf {
        self.0.join(Self::DAEMON_LOG)
    }

    /// The daemon's HTTP socket.
    pub fn socket(&self) -> PathBuf {
        self.0.join("sandpen.sock")
    }

    /// The key by which SSH clients know the sandboxes of this directory.
    pub fn ssh_host_key(&self) -> PathBuf {
        self.0.join("ssh_host_key")
    }

    /// Its public half, as SSH clients look it up.
    pub fn ssh_known_hosts(&self) -> PathBuf {
        self.0.join("ssh_known_hosts")
    }

    /// Helper programs of ours.
    pub fn bin(&self) -> PathBuf {
        self.0.join("bin")
    }

    /// Files that can be made again.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// The directory of a config's logs.
    pub fn logs(&self, key: &SandboxKey) -> PathBuf {
        self.0.join("logs").join(key.config.as_str())
    }

    /// Which files of the cache a start of a sandbox uses, one a line; they stay while this is there: until the next
    /// start of it, or until it has ended for good.
    pub fn cache_uses(&self, key: &SandboxKey, generation: u64) -> PathBuf {
        self.cache_users().join(key.config.as_str()).join(format!("{}.{generation}", key.name))
    }

    /// Whose such a list is, and of which of its starts, by its file name.
    pub fn cache_user(file_name: &OsStr) -> Option<(SandboxName, u64)> {
        let (name, generation) = file_name.to_str()?.rsplit_once('.')?;
        Some((SandboxName::new(name).ok()?, generation.parse().ok()?))
    }

    /// The directory of these lists.
    pub fn cache_users(&self) -> PathBuf {
        self.cache().join("uses")
    }

    /// A sandbox's current log file.
    pub fn log(&self, key: &SandboxKey) -> PathBuf {
        self.logs(key).join(format!("{}.log", key.name))
    }

    /// What the VMM of a sandbox and its guest's console printed. No name of a sandbox can make a
    /// log of this name: those end with `.log` and more.
    pub fn vmm_log(&self, key: &SandboxKey) -> PathBuf {
        self.logs(key).join(format!("{}.vmm", key.name))
    }

    /// The directory of all logs of jobs.
    pub fn all_jobs(&self) -> PathBuf {
        self.0.join("jobs")
    }

    /// The directory of the logs of a sandbox's jobs. It has the number of the sandbox's row, which a rename leaves as it is.
    pub fn jobs(&self, sandbox: SandboxId) -> PathBuf {
        self.all_jobs().join(sandbox.to_string())
    }

    /// Whose such a directory is, by its name.
    pub fn jobs_owner(directory: &OsStr) -> Option<SandboxId> {
        let text = directory.to_str()?;
        text.parse().ok().filter(|sandbox: &SandboxId| sandbox.to_string() == text)
    }

    /// A job's current log file.
    pub fn job_log(&self, sandbox: SandboxId, job: SessionId) -> PathBuf {
        self.jobs(sandbox).join(format!("{job}.log"))
    }

    /// The directory of all runtime directories.
    pub fn runtime_root(&self) -> PathBuf {
        self.0.join("run")
    }

    /// A live microVM's runtime directory.
    pub fn runtime(&self, key: &SandboxKey) -> PathBuf {
        self.runtime_root().join(key.config.as_str()).join(key.name.as_str())
    }

    /// The directory of all disks that belong to one sandbox each.
    pub fn sandbox_disks(&self) -> PathBuf {
        self.0.join("disks/sandbox")
    }

    /// The disk that belongs to a sandbox and goes with it.
    pub fn sandbox_disk(&self, key: &SandboxKey) -> PathBuf {
        self.sandbox_disks().join(key.config.as_str()).join(format!("{}{DISK_SUFFIX}", key.name))
    }

    /// The directory of all disks with a name.
    pub fn named_disks(&self) -> PathBuf {
        self.0.join("disks/named")
    }

    /// A disk that outlives its sandboxes.
    pub fn named_disk(&self, name: &DiskName) -> PathBuf {
        self.named_disks().join(format!("{name}{DISK_SUFFIX}"))
    }

    /// The directory of all volumes with a name.
    pub fn volumes(&self) -> PathBuf {
        self.0.join("volumes")
    }

    /// A directory that outlives its sandboxes.
    pub fn named_volume(&self, name: &VolumeName) -> PathBuf {
        self.volumes().join(name.as_str())
    }

    /// What a volume is on this host.
    pub fn volume(&self, source: &VolumeSource) -> PathBuf {
        match source {
            VolumeSource::Host(path) => path.clone(),
            VolumeSource::Named(name) => self.named_volume(name),
        }
    }

    /// The disk that a sandbox of this specification writes to; `None` where it writes in place.
    pub fn disk(&self, spec: &SandboxSpec) -> Option<PathBuf> {
        match (&spec.rootfs, &spec.disk.name) {
            (Rootfs::Native(_), _) => None,
            (Rootfs::Overlayfs(_) | Rootfs::Image(_), Some(name)) => Some(self.named_disk(name)),
            (Rootfs::Overlayfs(_) | Rootfs::Image(_), None) => {
                Some(self.sandbox_disk(spec.helper_of.as_ref().unwrap_or(&spec.key)))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_what_is_used_says_whose_it_is() {
        let dir = StateDir::new("/state".into());
        for (name, generation) in [("web", 1), ("web.3", 12), ("a-b", u64::MAX)] {
            let name = SandboxName::new(name).unwrap();
            let list = dir.cache_uses(&SandboxKey::new(name.clone()), generation);
            assert_eq!(StateDir::cache_user(list.file_name().unwrap()), Some((name, generation)));
        }
        for other in [".new", "web", "web.", ".1", "web.x", "web.-1", "we b.1", "web.1.part"] {
            assert_eq!(StateDir::cache_user(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_directory_of_jobs_says_whose_it_is() {
        let dir = StateDir::new("/state".into());
        for sandbox in [1, 12, i64::MAX] {
            assert_eq!(StateDir::jobs_owner(dir.jobs(sandbox).file_name().unwrap()), Some(sandbox));
        }
        for other in ["", "x", "01", "+1", " 1", "1.log", "9223372036854775808"] {
            assert_eq!(StateDir::jobs_owner(OsStr::new(other)), None, "{other}");
        }
    }
}
