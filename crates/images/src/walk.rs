//! A root directory of this host, entry by entry, in the order of names: so that the same directory always makes the same
//! layer.
//!
//! Nothing is followed: each entry is opened from its directory's descriptor (`O_NOFOLLOW`), and what was opened is looked
//! at again. So somebody who changes the directory meanwhile, another guest perhaps, can make the walk fail or find other
//! contents, and never leave it.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};

use serde::{Deserialize, Serialize};

use crate::layer::entry::Meta;
use crate::layer::{ENTRIES_MAX, FILE_MAX, NAME_MAX};

/// Most directories below one another: each takes an open file while it is walked.
pub const DEPTH_MAX: usize = 256;
/// Most bytes of the names of a file's extended attributes, and of a value (`XATTR_LIST_MAX`, `XATTR_SIZE_MAX` of Linux).
const XATTRS_MAX: usize = 64 << 10;
/// What names of attributes begin with that mean something in a guest.
const XATTR_NAMESPACES: [&[u8]; 4] = [b"user.", b"security.", b"system.posix_acl_", b"trusted."];
/// The overlay file system's own: of a directory that is a layer of one.
const OVERLAY_XATTR: &[u8] = b"trusted.overlay.";

/// Whose the files are in a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Owners {
    /// Those that they have here.
    Same,
    /// What is this user's, or this group's, is root's there; the rest as it is here. For an ordinary user, who can make
    /// files of nobody else.
    Root {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
    },
}

impl Owners {
    /// Those of directories that the user of this process has made.
    pub fn of_this_user() -> Self {
        match (rustix::process::geteuid(), rustix::process::getegid()) {
            (uid, _) if uid.is_root() => Self::Same,
            (uid, gid) => Self::Root { uid: uid.as_raw(), gid: gid.as_raw() },
        }
    }

    fn of(self, meta: &Statx) -> (u32, u32) {
        match self {
            Self::Same => (meta.stx_uid, meta.stx_gid),
            Self::Root { uid, gid } => {
                let root = |id: u32, own: u32| if id == own { 0 } else { id };
                (root(meta.stx_uid, uid), root(meta.stx_gid, gid))
            }
        }
    }
}

/// What a walk found.
#[derive(Debug)]
pub enum Found<'a> {
    /// A directory.
    Directory,
    /// A file, open at its beginning, and its bytes.
    File(&'a File, u64),
    /// One more name of what was found with this path.
    HardLink(&'a [u8]),
    /// A symbolic link, and where it leads.
    SymbolicLink(&'a [u8]),
    /// Major and minor number.
    CharacterDevice(u32, u32),
    /// Major and minor number.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket.
    Socket,
}

/// Who takes what is found.
pub trait Sink {
    /// Takes an entry; `path` is below the root, and empty for the root.
    ///
    /// # Errors
    /// What ends the walk.
    fn take(&mut self, path: &[u8], meta: Meta, found: Found<'_>) -> io::Result<()>;
}

/// Why a directory cannot be walked.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// Something cannot be read.
    #[error("reading {path:?}; make it readable, or leave it out")]
    Read {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something has changed meanwhile.
    #[error("{0:?} has changed while it was read; try again when it is still")]
    Changed(PathBuf),
    /// More levels than are walked.
    #[error("{0:?} lies more than {DEPTH_MAX} directories deep")]
    TooDeep(PathBuf),
    /// More than fits.
    #[error("there are more than {ENTRIES_MAX} files below {0:?}")]
    TooMany(PathBuf),
    /// More than a file may have.
    #[error("{0:?} has more than {FILE_MAX} bytes, holes included; none of an image may")]
    TooLarge(PathBuf),
    /// Whoever takes it.
    #[error("taking {path:?} in")]
    Take {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A directory that is being walked.
struct Level {
    directory: OwnedFd,
    /// Names that are left, the next one last.
    names: Vec<CString>,
    /// Bytes of its path, with the slash behind it.
    path: usize,
}

/// Walks all below a directory, on other file systems too unless `stay` is set: then what is mounted in it is an empty
/// directory.
///
/// # Errors
/// [`WalkError`].
pub fn walk(root: impl AsFd, shown: &Path, owners: Owners, stay: bool, sink: &mut dyn Sink) -> Result<(), WalkError> {
    let mut walk = Walk { shown, owners, links: HashMap::new(), count: 0, path: Vec::new(), device: None, stay };
    let own = openat(root, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let own = own.map_err(|errno| walk.unreadable(errno))?;
    let meta = statx(&own, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(|errno| walk.unreadable(errno))?;
    walk.device = Some((meta.stx_dev_major, meta.stx_dev_minor));
    let attributes = walk.meta(&meta, Some(own.as_fd()))?;
    walk.give(sink, attributes, Found::Directory)?;
    let mut levels = vec![walk.level(own)?];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.names.pop() else {
            levels.pop();
            continue;
        };
        walk.path.truncate(level.path);
        if !walk.path.is_empty() {
            walk.path.push(b'/');
        }
        walk.path.extend_from_slice(name.as_bytes());
        if let Some(below) = walk.entry(&level.directory, &name, sink)? {
            if levels.len() >= DEPTH_MAX {
                return Err(WalkError::TooDeep(walk.here()));
            }
            levels.push(walk.level(below)?);
        }
    }
    Ok(())
}

struct Walk<'a> {
    shown: &'a Path,
    owners: Owners,
    /// Files with several names: device and inode, and the first one.
    links: HashMap<(u32, u32, u64), Vec<u8>>,
    count: u64,
    /// Of what is being looked at.
    path: Vec<u8>,
    device: Option<(u32, u32)>,
    stay: bool,
}

impl Walk<'_> {
    fn here(&self) -> PathBuf {
        self.shown.join(std::ffi::OsStr::from_bytes(&self.path))
    }

    fn unreadable(&self, source: impl Into<io::Error>) -> WalkError {
        WalkError::Read { path: self.here(), source: source.into() }
    }

    fn level(&self, directory: OwnedFd) -> Result<Level, WalkError> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&directory).map_err(|errno| self.unreadable(errno))? {
            let name = entry.map_err(|errno| self.unreadable(errno))?.file_name().to_owned();
            if !matches!(name.as_bytes(), b"." | b"..") && name.as_bytes().len() <= NAME_MAX {
                names.push(name);
            }
        }
        names.sort_unstable_by(|left, right| right.cmp(left));
        Ok(Level { directory, names, path: self.path.len() })
    }

    fn give(&mut self, sink: &mut dyn Sink, meta: Meta, found: Found<'_>) -> Result<(), WalkError> {
        self.count += 1;
        if self.count > ENTRIES_MAX {
            return Err(WalkError::TooMany(self.shown.to_owned()));
        }
        sink.take(&self.path, meta, found).map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof => WalkError::Changed(self.here()),
            _ => WalkError::Take { path: self.here(), source },
        })
    }

    /// Gives an entry to the sink; answers a directory that is to be walked.
    fn entry(&mut self, parent: &OwnedFd, name: &CString, sink: &mut dyn Sink) -> Result<Option<OwnedFd>, WalkError> {
        let looked = statx(parent, name, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::BASIC_STATS);
        let looked = looked.map_err(|errno| self.unreadable(errno))?;
        let kind = FileType::from_raw_mode(looked.stx_mode.into());
        let open = |how: OFlags| {
            let how = how | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            openat(parent, name, how, Mode::empty())
        };
        if kind != FileType::Directory && looked.stx_nlink > 1 {
            let key = (looked.stx_dev_major, looked.stx_dev_minor, looked.stx_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                let meta = self.meta(&looked, None)?;
                self.give(sink, meta, Found::HardLink(&first))?;
                return Ok(None);
            }
            self.links.insert(key, self.path.clone());
        }
        match kind {
            FileType::Directory => {
                let opened = open(OFlags::DIRECTORY).map_err(|errno| self.unreadable(errno))?;
                let meta = self.same(&opened, &looked)?;
                let attributes = self.meta(&meta, Some(opened.as_fd()))?;
                self.give(sink, attributes, Found::Directory)?;
                let is_elsewhere = self.device != Some((meta.stx_dev_major, meta.stx_dev_minor));
                return Ok(Some(opened).filter(|_| !(self.stay && is_elsewhere)));
            }
            FileType::RegularFile => {
                // Without waiting, should it be a FIFO by now.
                let opened = open(OFlags::NONBLOCK).map_err(|errno| self.unreadable(errno))?;
                let meta = self.same(&opened, &looked)?;
                if meta.stx_size > FILE_MAX {
                    return Err(WalkError::TooLarge(self.here()));
                }
                let attributes = self.meta(&meta, Some(opened.as_fd()))?;
                self.give(sink, attributes, Found::File(&File::from(opened), meta.stx_size))?;
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(|errno| self.unreadable(errno))?;
                let meta = self.meta(&looked, None)?;
                self.give(sink, meta, Found::SymbolicLink(target.as_bytes()))?;
            }
            other => {
                let (major, minor) = (looked.stx_rdev_major, looked.stx_rdev_minor);
                let found = match other {
                    // How an overlay says that something is not there; no layer has any.
                    FileType::CharacterDevice if (major, minor) == (0, 0) => return Ok(None),
                    FileType::CharacterDevice => Found::CharacterDevice(major, minor),
                    FileType::BlockDevice => Found::BlockDevice(major, minor),
                    FileType::Fifo => Found::Fifo,
                    FileType::Socket => Found::Socket,
                    _ => return Ok(None),
                };
                let meta = self.meta(&looked, None)?;
                self.give(sink, meta, found)?;
            }
        }
        Ok(None)
    }

    /// What was opened, which has to be what was looked at.
    fn same(&self, opened: &OwnedFd, looked: &Statx) -> Result<Statx, WalkError> {
        let meta = statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS);
        let meta = meta.map_err(|errno| self.unreadable(errno))?;
        let identity = |meta: &Statx| (meta.stx_dev_major, meta.stx_dev_minor, meta.stx_ino, meta.stx_mode >> 12);
        if identity(&meta) == identity(looked) { Ok(meta) } else { Err(WalkError::Changed(self.here())) }
    }

    fn meta(&self, meta: &Statx, opened: Option<rustix::fd::BorrowedFd<'_>>) -> Result<Meta, WalkError> {
        let (uid, gid) = self.owners.of(meta);
        let xattrs = opened.map_or(Ok(Vec::new()), xattrs).map_err(|source| self.unreadable(source))?;
        Ok(Meta {
            mode: meta.stx_mode & 0o7777,
            uid,
            gid,
            mtime: meta.stx_mtime.tv_sec,
            mtime_nanos: meta.stx_mtime.tv_nsec,
            xattrs,
        })
    }
}

/// Extended attributes, by name.
fn xattrs(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = Vec::with_capacity(XATTRS_MAX);
    match rustix::fs::flistxattr(&file, rustix::buffer::spare_capacity(&mut names)) {
        Ok(_) => {}
        // A file system without any.
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        Err(errno) => return Err(errno.into()),
    }
    let is_kept = |name: &&[u8]| {
        XATTR_NAMESPACES.iter().any(|namespace| name.starts_with(namespace)) && !name.starts_with(OVERLAY_XATTR)
    };
    let mut xattrs = Vec::new();
    for name in names.split(|byte| *byte == 0).filter(is_kept) {
        let mut value = Vec::with_capacity(XATTRS_MAX);
        match rustix::fs::fgetxattr(&file, name, rustix::buffer::spare_capacity(&mut value)) {
            Ok(_) => xattrs.push((name.to_owned(), value)),
            // It has gone since.
            Err(rustix::io::Errno::NODATA) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    xattrs.sort();
    Ok(xattrs)
}
