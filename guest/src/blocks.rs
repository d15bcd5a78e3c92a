//! Disks by their serial numbers: in which order the kernel finds them is its own affair.

use std::fs;
use std::io;

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
