//! What one process may do, as its driver decides it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::SystemCalls;
use super::cgroup::CgroupPlan;
use super::jail::JailPlan;
use crate::real_directory::{self, Identity};

/// Least soft and hard limit of open files of a VMM that serves no files itself.
pub(super) const FEW_OPEN_FILES: u64 = 1024;

/// What a process may do. Relative paths start in the sandbox's runtime directory. A path that is not
/// there grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The process's role under the waiter; names its report.
    pub role: String,
    /// The jail that it enters, or why none.
    pub jail: Result<JailPlan, String>,
    /// Files and directories that it reads.
    pub read: Vec<PathBuf>,
    /// The same, and what it may execute: its own program with the libraries.
    pub execute: Vec<PathBuf>,
    /// Files that it reads and writes: FIFOs.
    pub modify: Vec<PathBuf>,
    /// Devices that it reads, writes and controls.
    pub devices: Vec<PathBuf>,
    /// Directories that it serves to a guest, in which it may do everything but make device nodes and execute
    /// programs: the root directory, volumes. In the jail they are at [`share_path`].
    pub shares: Vec<SharedTree>,
    /// Whether it has sockets of the internet for the guest, to connect and to listen.
    pub tcp: bool,
    /// Capabilities that it keeps where it runs as root, without their prefix `CAP_`.
    pub capabilities: Vec<String>,
    /// Which system calls it may make.
    pub system_calls: SystemCalls,
    // Flags that came later are not said where they do not hold: a daemon and a helper of different ages go together.
    /// Whether the guest's memory is a private copy of a file that others have too: holes of whole
    /// [`REPORT_BYTES`](crate::qemu::args::REPORT_BYTES) are not punched into files, but said to be.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub private_memory: bool,
    /// The cgroup that it joins, or why none.
    pub cgroup: Result<CgroupPlan, String>,
    /// Most open files; less where the hard limit is lower.
    pub open_files: u64,
    /// How many descriptors it gets from its waiter, from
    /// [`FIRST_DESCRIPTOR`](sandpen_vmm::waiter::FIRST_DESCRIPTOR) on.
    pub handed_over: u32,
    /// Files that it gets open, as descriptors from [`FIRST_INHERITED`] on: what is reached by a path that it will
    /// not have.
    pub inherited: Vec<Inherited>,
}

/// A directory that a process serves to a guest, or a file alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedTree {
    /// The directory on the host, absolute and without links; or the file.
    pub directory: PathBuf,
    /// Whether it is a file, which is served in a directory of nothing else, as [`VOLUME_FILE`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_file: bool,
    /// Whether nothing in it can be changed.
    pub read_only: bool,
    /// The directory that was looked at, if one was.
    pub identity: Option<Identity>,
}

/// Why a directory is not served.
#[derive(Debug, thiserror::Error)]
pub enum SharedTreeError {
    /// It cannot be opened, or a part of its path is a link.
    #[error("opening it without following links")]
    Open(#[from] std::io::Error),
    /// Another one has its path now.
    #[error("it was replaced by another one while its sandbox was started; try again")]
    Replaced,
}

impl SharedTree {
    /// Opens the directory as a place (`O_PATH`): the one that was looked at, or none. Blocking, for microseconds.
    ///
    /// # Errors
    /// [`SharedTreeError`].
    pub(crate) fn open(&self) -> Result<OwnedFd, SharedTreeError> {
        let open = if self.is_file { real_directory::open_file_place } else { real_directory::open_place };
        let place = open(&self.directory)?;
        match self.identity {
            Some(looked_at) if real_directory::identity(&place)? != looked_at => Err(SharedTreeError::Replaced),
            _ => Ok(place),
        }
    }
}

/// A file that a process gets open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inherited {
    /// The file, or what one in memory is called.
    pub path: PathBuf,
    /// Whether it is open for writing too.
    pub write: bool,
    /// What is in it, where it is a file in memory, which nobody can change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

/// The option of our hidden subcommands for a policy, as JSON.
pub const POLICY: &str = "--policy";

/// The descriptor of the first of [`Policy::inherited`]: behind all sockets.
pub const FIRST_INHERITED: i32 = 32;

/// Where the directory of one of [`Policy::shares`] is in the jail.
pub fn share_path(number: usize) -> PathBuf {
    Path::new("/shares").join(number.to_string())
}

/// The path by which a process opens what it has under this descriptor once more.
pub fn descriptor_path(descriptor: i32) -> PathBuf {
    Path::new("/proc/self/fd").join(descriptor.to_string())
}

impl Policy {
    /// A policy that allows no files and no connections.
    pub fn new(role: &str) -> Self {
        Self {
            role: role.to_owned(),
            jail: Err("none was planned".to_owned()),
            read: Vec::new(),
            execute: Vec::new(),
            modify: Vec::new(),
            devices: Vec::new(),
            shares: Vec::new(),
            tcp: false,
            capabilities: Vec::new(),
            system_calls: SystemCalls::AnyVmm,
            private_memory: false,
            cgroup: Err("none was planned".to_owned()),
            open_files: FEW_OPEN_FILES,
            handed_over: 0,
            inherited: Vec::new(),
        }
    }

    /// Adds a file that the process gets open: its descriptor.
    pub fn inherit(&mut self, path: &Path, write: bool) -> i32 {
        self.inherit_file(Inherited { path: path.to_owned(), write, content: None })
    }

    /// Adds a file in memory that the process gets open for reading: its descriptor.
    pub fn inherit_content(&mut self, name: &str, content: String) -> i32 {
        self.inherit_file(Inherited { path: name.into(), write: false, content: Some(content) })
    }

    /// The descriptor of the next file that is added.
    pub fn next_inherited(&self) -> i32 {
        (FIRST_INHERITED..).nth(self.inherited.len()).unwrap_or(i32::MAX)
    }

    fn inherit_file(&mut self, file: Inherited) -> i32 {
        let descriptor = self.next_inherited();
        self.inherited.push(file);
        descriptor
    }

    /// The paths of [`Policy::shares`] once the process is confined.
    pub fn share_paths(&self) -> impl Iterator<Item = PathBuf> {
        let is_jailed = self.jail.is_ok();
        let shares = self.shares.iter().enumerate();
        shares.map(move |(number, share)| if is_jailed { share_path(number) } else { share.directory.clone() })
    }

    /// The descriptors of [`Policy::inherited`].
    pub(super) fn inherited_descriptors(&self) -> impl Iterator<Item = (i32, &Inherited)> {
        (FIRST_INHERITED..).zip(&self.inherited)
    }
}
