//! Opening and locking the current log file and its index.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::LogError;
use super::index::{Header, Record};
use super::names::{self, index_name};

/// What is known of the current log file, open or not.
#[derive(Debug, Clone, Copy)]
pub(super) struct KnownFile {
    /// Position of its first byte.
    pub base: u64,
    /// Its length.
    pub len: u64,
    /// Device and inode.
    pub identity: (u64, u64),
}

/// For a file that only its owner may use; a link or a FIFO of that name is not followed or waited for.
pub(super) fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    options
}

/// Opens a file for writing; `None` if there is none.
pub(super) fn open_existing(path: &Path) -> Result<Option<File>, LogError> {
    let file = match options().open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) if e.kind() == io::ErrorKind::IsADirectory => return Err(LogError::NotRegular(path.to_owned())),
        Err(e) => return Err(LogError::file("opening", path)(e)),
    };
    let meta = file.metadata().map_err(LogError::file("looking at", path))?;
    if meta.is_file() { Ok(Some(file)) } else { Err(LogError::NotRegular(PathBuf::from(path))) }
}

/// Makes the current file's index anew. An old one is unlinked, not emptied: readers may hold it.
pub(super) fn create_index(log: &Path, header: &Header, records: &[Record]) -> Result<LockedIndex, LogError> {
    let path = index_name(log, 0);
    let make = || options().create_new(true).open(&path);
    let made = match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            names::remove(&path)?;
            make()
        }
        made => made,
    };
    let index = LockedIndex::lock(Arc::new(made.map_err(LogError::file("making", &path))?), log)?;
    let mut bytes = header.encode().to_vec();
    bytes.extend(records.iter().flat_map(Record::encode));
    index.file().write_all_at(&bytes, 0).map_err(LogError::file("writing", &path))?;
    Ok(index)
}

/// Whether another file can be begun, with its index and room for marks, `bytes` in all.
pub(super) fn check_room(directory: &Path, bytes: u64) -> Result<(), LogError> {
    // A file without a name: nothing is left of it.
    let file = options().custom_flags(nix::libc::O_TMPFILE).open(directory);
    match file.map(|file| fallocate(&file, FallocateFlags::empty(), 0, bytes.cast_signed())) {
        Ok(Err(e @ (Errno::ENOSPC | Errno::EDQUOT))) => Err(LogError::file("allocating room in", directory)(e.into())),
        // What else is wrong shows when the file is made.
        _ => Ok(()),
    }
}

/// The current index, locked until this is dropped: a log has one writer at a time. Closing the file would not give
/// the lock back: a follower may hold the same open file for long, and a child of this process has it open too, from
/// its fork to its exec.
#[derive(Debug)]
pub(super) struct LockedIndex(Arc<File>);

impl LockedIndex {
    /// Locks it; [`LogError::Busy`] if another writer has.
    pub fn lock(index: Arc<File>, log: &Path) -> Result<Self, LogError> {
        match index.try_lock() {
            Ok(()) => Ok(Self(index)),
            Err(TryLockError::WouldBlock) => Err(LogError::Busy(log.to_owned())),
            Err(TryLockError::Error(e)) => Err(LogError::file("locking", log)(e)),
        }
    }

    /// The file.
    pub fn file(&self) -> &Arc<File> {
        &self.0
    }
}

impl Drop for LockedIndex {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
