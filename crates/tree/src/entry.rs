//! An entry of a tar.

use rustix::fs::Statx;

use crate::sparse::Segment;

/// What a tar says of one path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Below the root: without `.`, `..`, double and trailing slashes; empty for the root itself.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its attributes; those of a hard link say nothing.
    pub meta: Meta,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file, whose contents follow.
    File {
        /// Its bytes, holes included.
        bytes: u64,
        /// Where its data are, in order; what is between them is a hole.
        segments: Vec<Segment>,
    },
    /// One more name of the file with this path.
    HardLink(Vec<u8>),
    /// A symbolic link, and where it leads.
    SymbolicLink(Vec<u8>),
    /// A character device: major and minor number.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
}

/// The attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Meta {
    /// Permissions: twelve bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed: seconds since 1970, and nanoseconds, which count forward.
    pub mtime: (i64, u32),
    /// Extended attributes: names and values.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Meta {
    /// Those of what was looked at, without its extended attributes.
    pub fn of(looked: &Statx) -> Self {
        Self {
            mode: u32::from(looked.stx_mode & 0o7777),
            uid: looked.stx_uid,
            gid: looked.stx_gid,
            mtime: (looked.stx_mtime.tv_sec, looked.stx_mtime.tv_nsec),
            xattrs: Vec::new(),
        }
    }
}
