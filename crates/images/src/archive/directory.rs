//! The directory of an OCI layout: every file is opened by a descriptor, name by name, and no link is followed.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{ArchiveError, BlobReader};

#[derive(Debug)]
pub(super) struct LayoutDirectory(OwnedFd);

impl LayoutDirectory {
    pub(super) fn new(directory: OwnedFd) -> Self {
        Self(directory)
    }

    /// The file of this name.
    pub(super) fn find(&self, path: &str) -> Result<Option<BlobReader>, ArchiveError> {
        let (directories, name) = path.rsplit_once('/').map_or((None, path), |(before, name)| (Some(before), name));
        let mut inner: Option<OwnedFd> = None;
        for part in directories.into_iter().flat_map(|before| before.split('/')) {
            let above = inner.as_ref().unwrap_or(&self.0).as_fd();
            match open(above, part, path, FileType::Directory)? {
                Some(directory) => inner = Some(directory),
                None => return Ok(None),
            }
        }
        let Some(file) = open(inner.as_ref().unwrap_or(&self.0).as_fd(), name, path, FileType::RegularFile)? else {
            return Ok(None);
        };
        let file = File::from(file);
        let end = file.metadata().map_err(|error| ArchiveError::io(path, error))?.len();
        Ok(Some(BlobReader { file: Arc::new(file), at: 0, end }))
    }
}

/// Opens one name, if it is of this kind. Its kind is asked for first, for opening a device can do something.
fn open(above: BorrowedFd<'_>, name: &str, path: &str, kind: FileType) -> Result<Option<OwnedFd>, ArchiveError> {
    let io = |errno: Errno| ArchiveError::io(path, errno.into());
    if matches!(name, "" | "." | "..") {
        return Err(ArchiveError::Outside { path: path.to_owned() });
    }
    let check = |found: FileType| {
        let found = match found {
            found if found == kind => return Ok(()),
            FileType::Symlink => "a link",
            FileType::Directory => "a directory",
            FileType::RegularFile => "below a file",
            _ => "a device, a pipe or a socket",
        };
        Err(ArchiveError::NotFile { path: path.to_owned(), found })
    };
    match rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => check(FileType::from_raw_mode(stat.st_mode))?,
        Err(Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(io(errno)),
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let opened = match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Err(Errno::LOOP) => return check(FileType::Symlink).map(|()| None),
        opened => opened.map_err(io)?,
    };
    check(FileType::from_raw_mode(rustix::fs::fstat(&opened).map_err(io)?.st_mode))?;
    Ok(Some(opened))
}
