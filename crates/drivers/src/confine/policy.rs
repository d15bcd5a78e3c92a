//! What one process may do, as its driver decides it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::SystemCalls;
use super::cgroup::CgroupPlan;

/// Least soft and hard limit of open files of a VMM that serves no files itself.
pub(super) const FEW_OPEN_FILES: u64 = 1024;

/// What a process may do. Relative paths start in the sandbox's runtime directory. A path that is not
/// there grants nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The process's role under the waiter; names its report.
    pub role: String,
    /// Files and directories that it reads.
    pub read: Vec<PathBuf>,
    /// The same, and what it may execute: its own program with the libraries.
    pub execute: Vec<PathBuf>,
    /// Files that it reads and writes: FIFOs, disks.
    pub modify: Vec<PathBuf>,
    /// Devices that it reads, writes and controls.
    pub devices: Vec<PathBuf>,
    /// Directories in which it may do everything but make device nodes and execute programs: the
    /// root directory, volumes.
    pub own: Vec<PathBuf>,
    /// Whether it has sockets of the internet for the guest, to connect and to listen.
    pub tcp: bool,
    /// Unix sockets that it connects to, or directories of them. Where it names none it makes no unix sockets at all;
    /// which ones it reaches is bounded by Landlock from ABI 9 (Linux 7.1) on only.
    pub connect: Vec<PathBuf>,
    /// Capabilities that it keeps where it runs as root, without their prefix `CAP_`.
    pub capabilities: Vec<String>,
    /// Which system calls it may make.
    pub system_calls: SystemCalls,
    /// The cgroup that it joins, or why none.
    pub cgroup: Result<CgroupPlan, String>,
    /// Most open files; less where the hard limit is lower.
    pub open_files: u64,
    /// Files that a program of its own gets open, for reading, as descriptors from [`FIRST_INHERITED`] on:
    /// what is reached by a path that it will not have.
    pub inherited: Vec<PathBuf>,
}

/// The descriptor of the first of [`Policy::inherited`].
pub const FIRST_INHERITED: i32 = 10;

impl Policy {
    /// A policy that allows no files and no connections.
    pub fn new(role: &str) -> Self {
        Self {
            role: role.to_owned(),
            read: Vec::new(),
            execute: Vec::new(),
            modify: Vec::new(),
            devices: Vec::new(),
            own: Vec::new(),
            tcp: false,
            connect: Vec::new(),
            capabilities: Vec::new(),
            system_calls: SystemCalls::AnyVmm,
            cgroup: Err("none was planned".to_owned()),
            open_files: FEW_OPEN_FILES,
            inherited: Vec::new(),
        }
    }
}
