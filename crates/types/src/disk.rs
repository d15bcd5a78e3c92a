//! Disks that outlive their sandboxes.

use crate::spec::{DiskName, SandboxKey};

/// A disk that outlives its sandboxes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedDisk {
    /// Its name.
    pub name: DiskName,
    /// Its size.
    pub bytes: u64,
    /// What it takes of the host's disk.
    pub used_bytes: u64,
    /// The live sandbox that has it.
    pub used_by: Option<SandboxKey>,
}
