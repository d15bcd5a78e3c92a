//! What a guest answers.
//!
//! Variants are encoded by their position and fields by their order: add new variants at the end only, and change none.

use serde::{Deserialize, Serialize};

use crate::error::FileError;

/// A moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Time {
    /// Seconds since 1970; before it, less than 0.
    pub seconds: i64,
    /// And so many billionths of one, less than a whole one.
    pub nanos: u32,
}

/// What something in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A device of bytes.
    CharDevice,
    /// A device of blocks.
    BlockDevice,
    /// None of these.
    Unknown,
}

/// What a file is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, up to 0o7777.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// Names.
    pub links: u64,
    /// Its number in its file system.
    pub inode: u64,
    /// The number of its file system.
    pub device: u64,
    /// Bytes that it has of its file system.
    pub allocated: u64,
    /// When it was last read.
    pub accessed: Time,
    /// When its content last changed.
    pub modified: Time,
    /// When its attributes last changed.
    pub changed: Time,
}

/// Something in a directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Any bytes but NUL and `/`.
    #[serde(with = "serde_bytes")]
    pub name: Vec<u8>,
    /// What it is like; a symbolic link is itself.
    pub stat: Stat,
    /// Where a symbolic link leads.
    #[serde(with = "serde_bytes")]
    pub target: Option<Vec<u8>>,
}

/// What a file system has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Space {
    /// Bytes of a block.
    pub block: u64,
    /// Blocks.
    pub blocks: u64,
    /// Those that are free.
    pub free: u64,
    /// Those that are free to any user.
    pub available: u64,
    /// Files that can be.
    pub files: u64,
    /// Those that can still be made.
    pub files_free: u64,
    /// Those that any user can still make.
    pub files_available: u64,
    /// Its number.
    pub id: u64,
    /// Bytes of a name.
    pub name_max: u64,
    /// Whether nothing can be written.
    pub read_only: bool,
    /// Whether setuid bits do nothing.
    pub no_setuid: bool,
}

/// See [`Request`](crate::Request).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Nothing was done, or not all of it.
    Error(FileError),
    /// It is done.
    Done,
    /// It is open under this number.
    Opened {
        /// The number, never one that something is open under.
        handle: u32,
    },
    /// Bytes of a file.
    Data(#[serde(with = "serde_bytes")] Vec<u8>),
    /// What it is like.
    Stat(Stat),
    /// What is in a directory.
    Entries(Vec<Entry>),
    /// A path.
    Path(#[serde(with = "serde_bytes")] Vec<u8>),
    /// What a file system has.
    Space(Space),
}
