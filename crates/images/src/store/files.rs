//! Files and directories, synced to the disk.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use sandpen_types::image::ImageDigest;

use super::StoreError;

/// A file that locks are taken of, made where it is missing.
pub(super) fn open_lock(path: &Path) -> Result<File, StoreError> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options.open(path).map_err(StoreError::io("open", path))
}

/// Takes the file alone if nobody else has it; `None` if somebody has. A signal does not disturb it.
pub(super) fn try_alone(path: &Path) -> Result<Option<File>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return Err(StoreError::io("open", path)(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::WouldBlock) => Ok(None),
        Err(fs::TryLockError::Error(error)) => Err(StoreError::io("lock", path)(error)),
    }
}

/// Syncs a file or directory.
pub(super) fn sync(path: &Path) -> Result<(), StoreError> {
    File::open(path).and_then(|file| file.sync_all()).map_err(StoreError::io("sync", path))
}

/// Writes a file anew, whole or not at all, for our user alone.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), StoreError> {
    sandpen_cache::write(path, 0o600, bytes).map_err(StoreError::io("write", path))
}

/// A file's content; `None` where it is missing.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StoreError::io("read", path)(error)),
    }
}

/// What a directory's files take of the disk, in bytes; nothing where it is missing.
pub(super) fn allocated(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| sandpen_cache::allocated_by(&meta)).sum()
}

/// The names in a directory that are digests, and nothing else.
pub(super) fn digests(directory: &Path) -> Result<Vec<ImageDigest>, StoreError> {
    let entries = fs::read_dir(directory).map_err(StoreError::io("read", directory))?;
    let names = entries.flatten().map(|entry| entry.file_name());
    let mut digests: Vec<_> = names.filter_map(|name| ImageDigest::from_hex(name.to_str()?).ok()).collect();
    digests.sort();
    Ok(digests)
}
