//! Names: directories, and what is called how.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{CWD, FileType, RenameFlags};
use rustix::io::Errno;

use super::{Fault, files};
use crate::error::{FileError, FileErrorKind};

/// Permission bits of the directories above one that is made.
const PARENT_MODE: u32 = 0o755;

fn as_path(path: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(path))
}

pub(super) fn make_directory(path: &[u8], mode: u32, parents: bool) -> Result<(), Fault> {
    let mode = files::mode(mode);
    if !parents {
        return Ok(rustix::fs::mkdir(path, mode)?);
    }
    // From the top: what is there stays, and what is missing is made.
    let ends = (1..=path.len()).filter(|end| path.get(*end).is_none_or(|byte| *byte == b'/'));
    for end in ends.filter(|end| path[end - 1] != b'/') {
        let is_last = path[end..].iter().all(|byte| *byte == b'/');
        let made = rustix::fs::mkdir(&path[..end], if is_last { mode } else { files::mode(PARENT_MODE) });
        match made {
            Ok(()) => {}
            // Of a read-only file system nobody hears that it exists, nor where one may not write.
            Err(errno) => match rustix::fs::stat(&path[..end]) {
                Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {}
                Ok(_) => return Err(Fault(FileErrorKind::NotDirectory)),
                Err(_) => return Err(errno.into()),
            },
        }
    }
    Ok(())
}

pub(super) fn remove_tree(path: &[u8]) -> Result<(), Fault> {
    let (found, root) = (rustix::fs::lstat(path)?, rustix::fs::lstat("/")?);
    if (found.st_dev, found.st_ino) == (root.st_dev, root.st_ino) {
        // As the system says it, but before all that is in it is gone.
        return Err(Errno::BUSY.into());
    }
    if FileType::from_raw_mode(found.st_mode) == FileType::Directory {
        return Ok(std::fs::remove_dir_all(as_path(path))?);
    }
    Ok(rustix::fs::unlink(path)?)
}

pub(super) fn rename(from: &[u8], to: &[u8], replace: bool) -> Result<(), Fault> {
    if replace {
        return Ok(rustix::fs::rename(from, to)?);
    }
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot do both in one step; what is wrong with the paths themselves is said again.
        Err(Errno::INVAL) if matches!(rustix::fs::lstat(to), Err(Errno::NOENT)) => Ok(rustix::fs::rename(from, to)?),
        renamed => Ok(renamed?),
    }
}

/// Says it of the path that it is true of.
pub(super) fn of_rename(error: FileError, from: &[u8]) -> FileError {
    let is_missing = error.kind == FileErrorKind::NotFound && rustix::fs::lstat(from).is_err();
    if is_missing { FileError { path: from.to_vec(), ..error } } else { error }
}

pub(super) fn real_path(path: &[u8]) -> Result<Vec<u8>, Fault> {
    Ok(std::fs::canonicalize(as_path(path))?.into_os_string().into_vec())
}
