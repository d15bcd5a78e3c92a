//! What a process that serves a microVM has given up, as it tells it itself. Names are stable.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What one process has given up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfinement {
    /// It cannot gain privileges by executing programs.
    pub no_new_privs: bool,
    /// The capabilities that it kept.
    pub capabilities: Vec<String>,
    /// Its resource limits.
    pub rlimits: Rlimits,
    /// Its jail; `None` where there is none.
    #[serde(default)]
    pub jail: Option<Jail>,
    /// Its Landlock ruleset; `None` where there is none.
    pub landlock: Option<Landlock>,
    /// Its list of system calls; `None` where there is none.
    pub seccomp: Option<Seccomp>,
    /// Its cgroup; `None` where there is none.
    pub cgroup: Option<Cgroup>,
    /// For each step that is left out, why.
    pub left_out: BTreeMap<String, String>,
}

/// The limits that hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimits {
    /// Bytes of a core file: 0, since one would hold the guest's memory.
    pub core: u64,
    /// Open files.
    pub open_files: u64,
}

/// What a process in a jail still has: a file system of its own, in which nothing of the host's users is but the
/// directories that it shares, and namespaces of the sandbox's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jail {
    /// The host's uid that it has, the sandbox's own; `None` where it has that of the daemon.
    pub uid: Option<u32>,
    /// Whether it has the host's network.
    pub host_network: bool,
    /// Why it has the host's root as its user, with the capabilities that are named here, and not a user of its own:
    /// a file system on which owners cannot be mapped.
    pub unmapped: Option<String>,
}

/// What of Landlock holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landlock {
    /// The kernel's ABI version.
    pub abi: i32,
    /// Whether TCP can neither connect nor listen.
    pub network_denied: bool,
    /// Whether no process outside gets a signal or is reached at an abstract unix socket.
    pub scoped: bool,
}

/// What kind of list of system calls holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// Everything else ends the process.
    AllowList,
    /// What is on it is refused.
    DenyList,
}

/// The cgroup that holds a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cgroup {
    /// 1 or 2.
    pub version: u8,
    /// Its directories: one, or one for each controller.
    pub paths: Vec<PathBuf>,
}
