//! Opening and locking the current log file and its index.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::LogError;
use super::index::{Header, Record};
use super::names::{self, index_name};

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
pub(super) fn create_index(log: &Path, header: &Header, records: &[Record]) -> Result<File, LogError> {
    let path = index_name(log, 0);
    let make = || options().create_new(true).open(&path);
    let made = match make() {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
            names::remove(&path)?;
            make()
        }
        made => made,
    };
    let index = made.map_err(LogError::file("making", &path))?;
    lock(&index, log)?;
    let mut bytes = header.encode().to_vec();
    bytes.extend(records.iter().flat_map(Record::encode));
    index.write_all_at(&bytes, 0).map_err(LogError::file("writing", &path))?;
    Ok(index)
}

/// Gives the lock of an index back at its end. Closing the file is not enough: a child of this process has
/// it open too, from its fork to its exec.
#[derive(Debug)]
pub(super) struct Unlock<'a>(pub &'a File);

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

/// One writer at a time: the lock is on the current index, until [`Unlock`].
pub(super) fn lock(index: &File, log: &Path) -> Result<(), LogError> {
    match index.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(LogError::Busy(log.to_owned())),
        Err(TryLockError::Error(e)) => Err(LogError::file("locking", log)(e)),
    }
}
