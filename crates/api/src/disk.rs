//! Disks with names of their own.

use sandpen_types::disk::NamedDisk;
use sandpen_types::spec::DiskName;
use serde::{Deserialize, Serialize};

/// A disk with a name of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskEntry {
    /// Its name.
    pub name: DiskName,
    /// Its size: the most that can be written to it.
    pub bytes: u64,
    /// What it takes of the host's disk.
    pub used_bytes: u64,
    /// The live sandbox that has it, as CONFIG/NAME.
    pub used_by: Option<String>,
}

impl From<NamedDisk> for DiskEntry {
    fn from(disk: NamedDisk) -> Self {
        let NamedDisk { name, bytes, used_bytes, used_by } = disk;
        Self { name, bytes, used_bytes, used_by: used_by.map(|key| key.to_string()) }
    }
}
