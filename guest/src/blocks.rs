//! Disks by their serial numbers: in which order the kernel finds them is its own affair. And what is on them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;

/// Where the kernel tells of its disks.
const BLOCKS: &str = "/sys/block";

/// Why a disk is not there.
#[derive(Debug, thiserror::Error)]
pub enum BlocksError {
    /// The list cannot be read.
    #[error("looking for the machine's disks in {BLOCKS}")]
    List(#[source] io::Error),
    /// None has this serial number.
    #[error("there is no disk with the serial number {0:?}")]
    Missing(String),
    /// It cannot be read.
    #[error("reading the superblock of {device}")]
    Read {
        /// The disk.
        device: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A file system on a disk that is only read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileSystem {
    /// A directory of the host, as a disk.
    Ext4,
    /// An image.
    Erofs,
}

impl FileSystem {
    /// As mount(2) calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
        }
    }
}

/// Where the superblocks of both begin.
const SUPERBLOCK: u64 = 1024;
/// What EROFS's begins with (`EROFS_SUPER_MAGIC_V1` in include/uapi/linux/magic.h), little-endian.
const EROFS_MAGIC: u32 = 0xE0F5_E1E2;

/// What is on a disk. One that is none of both is said to be ext4, of which mounting it then says that it is not.
pub fn file_system(device: &str) -> Result<FileSystem, BlocksError> {
    let mut magic = [0; 4];
    let read = File::open(device).and_then(|disk| disk.read_exact_at(&mut magic, SUPERBLOCK));
    read.map_err(|source| BlocksError::Read { device: device.to_owned(), source })?;
    Ok(by_magic(magic))
}

fn by_magic(superblock: [u8; 4]) -> FileSystem {
    if u32::from_le_bytes(superblock) == EROFS_MAGIC { FileSystem::Erofs } else { FileSystem::Ext4 }
}

/// The device of the disk with this serial number, for example `/dev/vdb`.
pub fn find(serial: &str) -> Result<String, BlocksError> {
    for entry in fs::read_dir(BLOCKS).map_err(BlocksError::List)? {
        let entry = entry.map_err(BlocksError::List)?;
        // Only virtio disks have this file.
        let has = fs::read_to_string(entry.path().join("serial")).is_ok_and(|found| found.trim_end() == serial);
        if has && let Some(name) = entry.file_name().to_str() {
            return Ok(format!("/dev/{name}"));
        }
    }
    Err(BlocksError::Missing(serial.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_told_from_a_directorys_disk() {
        assert_eq!(by_magic([0xE2, 0xE1, 0xF5, 0xE0]), FileSystem::Erofs);
        assert_eq!(by_magic([0xE0, 0xF5, 0xE1, 0xE2]), FileSystem::Ext4);
        assert_eq!(by_magic([0; 4]), FileSystem::Ext4);
        let missing = file_system("/nowhere").unwrap_err().to_string();
        assert_eq!(missing, "reading the superblock of /nowhere");
    }
}
