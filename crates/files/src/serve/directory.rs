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
const NAMES_BYTES: usize = crate::NAME_MAX + crate::PATH_MAX;

/// An open directory.
pub(super) struct Directory {
    fd: OwnedFd,
    entries: Dir,
    /// Why nothing more can be read. Whoever asks on is told so again: it is not its end.
    failed: Option<Errno>,
}

impl Directory {
    pub(super) fn open(path: &[u8]) -> Result<Self, Fault> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { entries: Dir::read_from(&fd)?, fd, failed: None })
    }

    /// Entries that fit into an answer; none when there are no more.
    pub(super) fn next_page(&mut self) -> Result<Vec<Entry>, Fault> {
        let Self { fd, entries, failed } = self;
        Ok(page(failed, || next_entry(fd, entries))?)
    }
}

/// What there is comes first, and then why there is no more.
fn page(
    failed: &mut Option<Errno>,
    mut next: impl FnMut() -> Result<Option<Entry>, Errno>,
) -> Result<Vec<Entry>, Errno> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while failed.is_none() && bytes + ENTRY_BYTES + NAMES_BYTES <= DATA_MAX {
        match next() {
            Ok(Some(entry)) => {
                bytes += ENTRY_BYTES + entry.name.len() + entry.target.as_ref().map_or(0, Vec::len);
                page.push(entry);
            }
            Ok(None) => break,
            Err(errno) => *failed = Some(errno),
        }
    }
    match *failed {
        Some(errno) if page.is_empty() => Err(errno),
        _ => Ok(page),
    }
}

fn next_entry(directory: &OwnedFd, entries: &mut Dir) -> Result<Option<Entry>, Errno> {
    while let Some(found) = entries.read() {
        let found = found?;
        let name = found.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => files::of(&stat),
            // Removed meanwhile.
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        let target = (stat.kind == FileKind::Symlink)
            .then(|| rustix::fs::readlinkat(directory, name, Vec::new()).ok())
            .flatten()
            .map(std::ffi::CString::into_bytes);
        return Ok(Some(Entry { name: name.to_vec(), stat, target }));
    }
    Ok(None)
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_in_the_middle_is_not_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let stat = files::of(&rustix::fs::stat(dir.path()).unwrap());
        let entry = Entry { name: b"a".to_vec(), stat, target: None };
        // As a directory of rustix does it: one failure, and nothing more.
        let mut read = [Ok(Some(entry.clone())), Err(Errno::IO)].into_iter();
        let (mut failed, mut next) = (None, || read.next().unwrap_or(Ok(None)));
        assert_eq!(page(&mut failed, &mut next), Ok(vec![entry]));
        for _ in 0..2 {
            assert_eq!(page(&mut failed, &mut next), Err(Errno::IO));
        }
    }
}
