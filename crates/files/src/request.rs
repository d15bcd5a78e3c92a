//! What a client asks for.
//!
//! Variants are encoded by their position and fields by their order: add new variants at the end only, and change none. A
//! guest that does not know one answers [`Unsupported`](crate::FileErrorKind::Unsupported).

use serde::{Deserialize, Serialize};

use crate::answer::Time;

/// How a file is opened.
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of open(2)")]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// What is written goes to its end, whatever the offset.
    pub append: bool,
    /// It is made where it is not there.
    pub create: bool,
    /// It is emptied.
    pub truncate: bool,
    /// With `create`: it must not be there.
    pub exclusive: bool,
    /// A symbolic link at the end of the path is an error.
    pub no_follow: bool,
}

impl OpenFlags {
    /// To read only.
    pub const READ: Self = Self {
        read: true,
        write: false,
        append: false,
        create: false,
        truncate: false,
        exclusive: false,
        no_follow: false,
    };
}

/// What shall be otherwise; what is `None` stays.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Bytes of a file: cut, or filled up with zeros.
    pub size: Option<u64>,
    /// Permission bits, up to 0o7777.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// When it was last read.
    pub accessed: Option<Time>,
    /// When its content last changed.
    pub modified: Option<Time>,
}

/// One thing to do. All paths are absolute, of at most [`PATH_MAX`](crate::PATH_MAX) bytes, without NUL bytes. What has no
/// other answer named has [`Answer::Done`](crate::Answer::Done); each may have
/// [`Answer::Error`](crate::Answer::Error). A server does them in their order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Opens a file → `Opened`. A directory, a pipe or a socket is refused.
    Open {
        /// Which.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// How.
        flags: OpenFlags,
        /// Permission bits of one that is made.
        mode: u32,
    },
    /// Reads → `Data`, as many bytes as are wanted but at a file's end; none: there is its end.
    ReadAt {
        /// An open file.
        handle: u32,
        /// Where.
        offset: u64,
        /// At most [`DATA_MAX`](crate::DATA_MAX).
        length: u32,
    },
    /// Writes all.
    WriteAt {
        /// An open file.
        handle: u32,
        /// Where.
        offset: u64,
        /// At most [`DATA_MAX`](crate::DATA_MAX) bytes.
        #[serde(with = "serde_bytes")]
        data: Vec<u8>,
    },
    /// Closes a file or directory. What [`Request::Replace`] has opened and was not committed is forgotten.
    Close {
        /// Which.
        handle: u32,
    },
    /// → `Stat`.
    Stat {
        /// Of what.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Whether a symbolic link stands for what it leads to.
        follow: bool,
    },
    /// → `Stat`.
    StatOpen {
        /// Of what is open.
        handle: u32,
    },
    /// Changes attributes, in the order of [`Change`]'s fields, owner before mode.
    Change {
        /// Of what.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Whether a symbolic link stands for what it leads to.
        follow: bool,
        /// To what.
        change: Change,
    },
    /// The same of what is open.
    ChangeOpen {
        /// An open file or directory.
        handle: u32,
        /// To what.
        change: Change,
    },
    /// Opens a directory, to list it → `Opened`.
    OpenDirectory {
        /// Which.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// → `Entries`, some of those that are left; none: that was all. Without `.` and `..`.
    ReadDirectory {
        /// An open directory.
        handle: u32,
    },
    /// Makes a directory.
    MakeDirectory {
        /// Which.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Its permission bits; those above it that are made as well have 0o755.
        mode: u32,
        /// Makes those above it, and is content with one that is there.
        parents: bool,
    },
    /// Removes an empty directory.
    RemoveDirectory {
        /// Which.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Removes anything but a directory.
    Remove {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Removes anything, with all that is in it. Not `/`.
    RemoveTree {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Renames, within a file system.
    Rename {
        /// What.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
        /// Its new path.
        #[serde(with = "serde_bytes")]
        to: Vec<u8>,
        /// Whether it may take the place of what is there.
        replace: bool,
    },
    /// Makes a symbolic link.
    Symlink {
        /// Where it leads: any bytes but NUL.
        #[serde(with = "serde_bytes")]
        target: Vec<u8>,
        /// The link.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// → `Path`: where a symbolic link leads.
    ReadLink {
        /// Which.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Gives a file one more name.
    Link {
        /// Which; a symbolic link stands for itself.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
        /// The name.
        #[serde(with = "serde_bytes")]
        to: Vec<u8>,
    },
    /// → `Path`: without symbolic links, `.` and `..`. It has to be there.
    RealPath {
        /// Of what.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Has all that was written to an open file on its disk.
    Sync {
        /// An open file.
        handle: u32,
    },
    /// → `Space` of a file system.
    Space {
        /// Anything on it.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Begins a file that is to take the place of another one, or is new → `Opened`, for writing. Nobody sees it before
    /// [`Request::Commit`]. A symbolic link stands for what it leads to. It has owner and permission bits of what it takes
    /// the place of, as far as the user may give them.
    Replace {
        /// The path of the other one.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Permission bits, in the place of those of before.
        mode: Option<u32>,
        /// Those of a file that is new.
        new_mode: u32,
    },
    /// Puts what [`Request::Replace`] has begun in its place, once it is on its disk, and closes it.
    Commit {
        /// What that has opened.
        handle: u32,
    },
}
