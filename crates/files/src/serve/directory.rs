//! What is in a directory, some of it at a time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use super::{Fault, files};
use crate::DATA_MAX;
use crate::answer::{Entry, FileKind};

/// More bytes than an entry has encoded, but for its name and target.
const ENTRY_BYTES: usize = 160;
/// Most bytes of an entry's name and target.
const NAMES_BYTES: usize = 255 + crate::PATH_MAX;

/// An open directory.
pub(super) struct Directory {
    fd: OwnedFd,
    entries: Dir,
}

impl Directory {
    pub(super) fn open(path: &[u8]) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { entries: Dir::read_from(&fd)?, fd })
    }

    /// Entries that fit into an answer; none when there are no more.
    pub(super) fn next_page(&mut self) -> Result<Vec<Entry>, Fault> {
        let (mut page, mut bytes) = (Vec::new(), 0);
        while bytes + ENTRY_BYTES + NAMES_BYTES <= DATA_MAX {
            let Some(found) = self.entries.read() else { break };
            let found = match found {
                Ok(found) => found,
                // What there is comes first.
                Err(_) if !page.is_empty() => break,
                Err(errno) => return Err(errno.into()),
            };
            let name = found.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => files::of(&stat),
                // Removed meanwhile.
                Err(Errno::NOENT) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let target = (stat.kind == FileKind::Symlink)
                .then(|| rustix::fs::readlinkat(&self.fd, name, Vec::new()).ok())
                .flatten()
                .map(std::ffi::CString::into_bytes);
            let entry = Entry { name: name.to_vec(), stat, target };
            bytes += ENTRY_BYTES + entry.name.len() + entry.target.as_ref().map_or(0, Vec::len);
            page.push(entry);
        }
        Ok(page)
    }
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
