//! Whether a directory's disk takes more: asked before a start, so that new work is refused before old
//! work lacks room.

use std::io;
use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use sandpen_types::fault::Fault;

use crate::host::fault_of::fault_of_io;

/// The reserve where nobody says another one…
pub const RESERVE_DEFAULT: u64 = 64 << 20;
/// …and its largest share of a small disk: a twentieth.
const SMALL_DISK_PART: u64 = 20;

/// Why a directory takes no new work.
#[derive(Debug, thiserror::Error)]
pub enum NoRoom {
    /// Too little is free.
    #[error(
        "the disk of {dir:?} is nearly full: {free_mib} MiB are free, and {reserve_mib} MiB are kept for the sandboxes that are there; free some space, or set another --reserve of the daemon"
    )]
    Space {
        /// The directory.
        dir: PathBuf,
        /// What is free, in MiB.
        free_mib: u64,
        /// The reserve, in MiB.
        reserve_mib: u64,
    },
    /// No more files.
    #[error("the disk of {dir:?} is full: it has no room for more files (inodes); remove some")]
    Files {
        /// The directory.
        dir: PathBuf,
    },
    /// It cannot be written at all.
    #[error("the state directory {dir:?} cannot be written; look into the kernel's messages (dmesg) and `mount`")]
    Write {
        /// The directory.
        dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl NoRoom {
    /// What is wrong with the host.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Space { .. } | Self::Files { .. } => Fault::DiskFull,
            Self::Write { source, .. } => fault_of_io(source),
        }
    }
}

/// Whether `dir` takes new work: something can be written, and more than `reserve` bytes are free; `None`
/// for [`RESERVE_DEFAULT`], or less on a small disk. Blocks on the disk.
///
/// # Errors
/// Why not.
pub fn check(dir: &Path, reserve: Option<u64>) -> Result<(), NoRoom> {
    let failed = |source| NoRoom::Write { dir: dir.to_owned(), source };
    let disk = statvfs(dir).map_err(|errno| failed(errno.into()))?;
    let bytes = |blocks: u64| blocks.saturating_mul(disk.fragment_size());
    let reserve = reserve.unwrap_or_else(|| RESERVE_DEFAULT.min(bytes(disk.blocks()) / SMALL_DISK_PART));
    let free = bytes(disk.blocks_available());
    if free < reserve {
        return Err(NoRoom::Space { dir: dir.to_owned(), free_mib: free >> 20, reserve_mib: reserve >> 20 });
    }
    // File systems without a table of inodes say that there are none at all.
    if disk.files() > 0 && disk.files_available() == 0 {
        return Err(NoRoom::Files { dir: dir.to_owned() });
    }
    try_to_write(dir).map_err(failed)
}

/// Makes a file without a name, writes to it, and lets it go. A file system that an error made
/// read-only says so only then.
///
/// # Errors
/// What the system says.
pub fn try_to_write(dir: &Path) -> io::Result<()> {
    io::Write::write_all(&mut tempfile::tempfile_in(dir)?, b"sandpen")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_larger_than_the_disk_is_never_free() {
        let dir = tempfile::tempdir().unwrap();
        check(dir.path(), Some(0)).unwrap();
        let refused = check(dir.path(), Some(u64::MAX)).unwrap_err();
        assert!(matches!(refused, NoRoom::Space { .. }), "{refused}");
        assert_eq!(refused.fault(), Fault::DiskFull);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_directory_that_is_not_there_cannot_be_written() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(matches!(check(&missing, None), Err(NoRoom::Write { dir, .. }) if dir == missing));
    }
}
