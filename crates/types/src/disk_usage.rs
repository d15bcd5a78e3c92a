//! What takes room on the host's disk, what of it nothing uses, and what was removed of that.
//!
//! A new kind of thing is one more [`UsageKind`], and one more list where usage is looked for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::spec::SandboxKey;

/// What takes room, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageKind {
    /// What sandboxes, their VMMs and guests' consoles wrote, with the indexes.
    Logs,
    /// What sandboxes have written over their layers; goes with them.
    SandboxDisks,
    /// The same under a name of its own; kept until `disk rm`.
    NamedDisks,
    /// Directories of sandboxes with names of their own; kept until `volume rm` or `volume prune`.
    Volumes,
    /// Machines that booted once, which others are restored from.
    Templates,
    /// File systems made of directories.
    RootImages,
    /// Images that were loaded or imported; those with names are kept until `image rm` or `image prune`.
    Images,
    /// Their layers, also those that came in part.
    ImageLayers,
    /// Copies of kernels that sandboxes were started with.
    KernelCopies,
    /// What guests boot with beside a kernel, and whatever else can be made again.
    Cache,
    /// Files that were being made when their maker died, or still are.
    Drafts,
    /// Installed kernels.
    Kernels,
    /// The database.
    Database,
    /// FIFOs, sockets and records of live microVMs.
    Runtime,
    /// Our helper programs, and the daemon's own log.
    Program,
}

impl UsageKind {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Logs,
        Self::SandboxDisks,
        Self::NamedDisks,
        Self::Volumes,
        Self::Templates,
        Self::RootImages,
        Self::Images,
        Self::ImageLayers,
        Self::KernelCopies,
        Self::Cache,
        Self::Drafts,
        Self::Kernels,
        Self::Database,
        Self::Runtime,
        Self::Program,
    ];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::SandboxDisks => "sandbox_disks",
            Self::NamedDisks => "named_disks",
            Self::Volumes => "volumes",
            Self::Templates => "templates",
            Self::RootImages => "root_images",
            Self::Images => "images",
            Self::ImageLayers => "image_layers",
            Self::KernelCopies => "kernel_copies",
            Self::Cache => "cache",
            Self::Drafts => "drafts",
            Self::Kernels => "kernels",
            Self::Database => "database",
            Self::Runtime => "runtime",
            Self::Program => "program",
        }
    }
}

impl fmt::Display for UsageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What frees something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reclaim {
    /// Nothing but whoever owns it: it is in use, or kept on purpose.
    Never,
    /// Any pruning: nothing uses it.
    Always,
    /// One that removes ended sandboxes: it belongs to one.
    WithSandbox,
}

/// One thing that takes room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageItem {
    /// What it is.
    pub kind: UsageKind,
    /// Which one: a path, or a sandbox's name.
    pub what: String,
    /// The sandbox that it belongs to.
    pub sandbox: Option<SandboxKey>,
    /// What it takes of the host's disk, in bytes: holes of files count nothing.
    pub bytes: u64,
    /// What frees it.
    pub reclaim: Reclaim,
}

/// One thing that was to be removed; it is gone unless `error` says why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PrunedItem {
    /// What it was.
    pub item: UsageItem,
    /// Why it is still there.
    pub error: Option<String>,
}
