//! What bringing rows and processes together found and did.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::SandboxKey;

/// What a reconciliation found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Sandboxes without a monitor whose microVM, or pending restart, goes on.
    pub adopted: Vec<SandboxKey>,
    /// Sandboxes that were live for their rows alone: what is true is recorded now.
    pub resolved: Vec<SandboxKey>,
    /// What belonged to nobody.
    pub leftovers: Vec<Leftover>,
}

/// Something that belonged to nobody, and is gone unless `error` says why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is.
    pub kind: LeftoverKind,
    /// Which one: a path, or a process.
    pub what: String,
    /// The sandbox whose it was.
    pub sandbox: Option<SandboxKey>,
    /// Why it is still there.
    pub error: Option<String>,
}

/// What can be left over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LeftoverKind {
    /// A VMM, waiter or companion, with all below it.
    Process,
    /// A runtime directory with its FIFOs and sockets, and what ran in it.
    RuntimeDir,
    /// Something mounted in a runtime directory.
    Mount,
    /// A disk of a sandbox that is no more, or one that was being made; also another file of the cache that was, and a
    /// volume that was being removed.
    Disk,
    /// A row that was never answered for, or whose removal was not completed; with its log.
    Row,
    /// A cgroup.
    Cgroup,
}

impl fmt::Display for LeftoverKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "process",
            Self::RuntimeDir => "runtime directory",
            Self::Mount => "mount",
            Self::Disk => "disk",
            Self::Row => "row",
            Self::Cgroup => "cgroup",
        })
    }
}
