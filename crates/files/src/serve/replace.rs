//! Files that take the place of others, whole or not at all.
//!
//! ```text
//!   begun: no name, or a temporary one beside ──▶ written ──▶ committed: on the disk, and then in its place
//!                                                    └── dropped: gone
//! ```
//!
//! Where the file system can, it has no name until it is whole, so that whatever ends this process leaves nothing behind.

use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

use super::{Fault, files};
use crate::error::FileErrorKind;
use crate::path::{join, split};

/// As many symbolic links as the system follows.
const LINKS_MAX: usize = 40;
/// So many names may be taken.
const NAMES_TRIED: u32 = 1000;

/// Permission bits until those are known that it is to have.
const PRIVATE: Mode = Mode::RUSR.union(Mode::WUSR);

/// A file that is being written.
pub(super) struct Replacement {
    file: OwnedFd,
    directory: OwnedFd,
    name: Vec<u8>,
    /// The name that it has for now.
    temporary: Option<Vec<u8>>,
    /// Set when it is in its place.
    is_committed: bool,
}

impl Replacement {
    pub(super) fn begin(path: &[u8], mode: Option<u32>, new_mode: u32) -> Result<Self, Fault> {
        let (path, there) = followed(path)?;
        let (parent, name) = split(&path).ok_or(Fault(FileErrorKind::IsDirectory))?;
        if path.ends_with(b"/") {
            return Err(Fault(FileErrorKind::IsDirectory));
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(parent, flags, Mode::empty())?;
        if let Some(there) = &there {
            match FileType::from_raw_mode(there.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => return Err(Fault(FileErrorKind::IsDirectory)),
                _ => return Err(Fault(FileErrorKind::NotFile)),
            }
            // A rename would ask the directory only.
            rustix::fs::accessat(&directory, name, Access::WRITE_OK, AtFlags::EACCESS)?;
        }
        let (file, temporary) = begin_in(&directory)?;
        let begun = Self { file, directory, name: name.to_vec(), temporary, is_committed: false };
        let bits = mode.unwrap_or_else(|| there.as_ref().map_or(new_mode, |there| there.st_mode));
        begun.be_like(there.as_ref(), bits)?;
        Ok(begun)
    }

    /// Owner and permission bits.
    fn be_like(&self, there: Option<&rustix::fs::Stat>, bits: u32) -> Result<(), Fault> {
        let mut bits = bits & 0o7777;
        if let Some(there) = there {
            let own = rustix::fs::fstat(&self.file)?;
            // Who may not give it away still may write it.
            let is_given = |uid, gid| rustix::fs::fchown(&self.file, uid, gid).is_ok();
            if there.st_gid != own.st_gid && !is_given(None, Some(Gid::from_raw(there.st_gid))) {
                bits &= !0o2000;
            }
            if there.st_uid != own.st_uid && !is_given(Some(Uid::from_raw(there.st_uid)), None) {
                bits &= !0o4000;
            }
        }
        Ok(rustix::fs::fchmod(&self.file, files::mode(bits))?)
    }

    /// One with a temporary name, whatever the file system can.
    #[cfg(test)]
    pub(super) fn begin_named(directory: OwnedFd, name: &[u8]) -> Result<Self, Fault> {
        let (file, temporary) = begin_named_in(&directory)?;
        Ok(Self { file, directory, name: name.to_vec(), temporary: Some(temporary), is_committed: false })
    }

    /// Has it on the disk, and then in its place.
    pub(super) fn commit(&mut self) -> Result<(), Fault> {
        rustix::fs::fsync(&self.file)?;
        let temporary = match self.temporary.take() {
            Some(temporary) => temporary,
            None => named(|name| self.link(name)).map(|(name, ())| name)?,
        };
        let renamed = rustix::fs::renameat(&self.directory, &temporary, &self.directory, &self.name);
        if let Err(errno) = renamed {
            // What dropping it removes.
            self.temporary = Some(temporary);
            return Err(errno.into());
        }
        self.is_committed = true;
        // Some file systems cannot; it is in its place.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(directory) = rustix::fs::openat(&self.directory, ".", flags, Mode::empty()) {
            let _ = rustix::fs::fsync(directory);
        }
        Ok(())
    }

    /// Gives what has no name one.
    fn link(&self, name: &[u8]) -> Result<(), Errno> {
        let proc = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        match rustix::fs::linkat(CWD, &proc, &self.directory, name, AtFlags::SYMLINK_FOLLOW) {
            // Where nothing is mounted there.
            Err(Errno::NOENT) => rustix::fs::linkat(&self.file, "", &self.directory, name, AtFlags::EMPTY_PATH),
            linked => linked,
        }
    }
}

impl AsFd for Replacement {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let (Some(temporary), false) = (&self.temporary, self.is_committed) {
            // Nobody is left who could be told.
            let _ = rustix::fs::unlinkat(&self.directory, temporary, AtFlags::empty());
        }
    }
}

/// A new file in a directory, with a temporary name where it has to have one.
fn begin_in(directory: &OwnedFd) -> Result<(OwnedFd, Option<Vec<u8>>), Fault> {
    match rustix::fs::openat(directory, ".", OFlags::RDWR | OFlags::CLOEXEC | OFlags::TMPFILE, PRIVATE) {
        Ok(file) => return Ok((file, None)),
        // Each of them may be how a file system says that it cannot.
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::NOENT | Errno::INVAL | Errno::NOSYS) => {}
        Err(errno) => return Err(errno.into()),
    }
    let (file, name) = begin_named_in(directory)?;
    Ok((file, Some(name)))
}

fn begin_named_in(directory: &OwnedFd) -> Result<(OwnedFd, Vec<u8>), Fault> {
    let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::CREATE | OFlags::EXCL;
    let (name, file) = named(|name| rustix::fs::openat(directory, name, flags, PRIVATE))?;
    Ok((file, name))
}

/// Makes something of a name that nobody has.
fn named<T>(make: impl Fn(&[u8]) -> Result<T, Errno>) -> Result<(Vec<u8>, T), Fault> {
    for number in 0..NAMES_TRIED {
        let name = format!(".sandpen-{}-{number}", std::process::id()).into_bytes();
        match make(&name) {
            Ok(made) => return Ok((name, made)),
            Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::EXIST.into())
}

/// A path that is no symbolic link any more, and what is there.
fn followed(path: &[u8]) -> Result<(Vec<u8>, Option<rustix::fs::Stat>), Fault> {
    let mut path = path.to_vec();
    for _ in 0..=LINKS_MAX {
        let there = match rustix::fs::lstat(&path) {
            Ok(there) => there,
            Err(Errno::NOENT) => return Ok((path, None)),
            Err(errno) => return Err(errno.into()),
        };
        if FileType::from_raw_mode(there.st_mode) != FileType::Symlink {
            return Ok((path, Some(there)));
        }
        let target = rustix::fs::readlink(&path, Vec::new())?.into_bytes();
        path = match split(&path) {
            Some((parent, _)) if target.first() != Some(&b'/') => join(parent, &target),
            _ => target,
        };
    }
    Err(Errno::LOOP.into())
}
