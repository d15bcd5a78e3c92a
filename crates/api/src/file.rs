//! Files of a running sandbox on the wire.

use chrono::{DateTime, Utc};
use sandpen_types::spec::ByteString;
use serde::{Deserialize, Serialize};

use crate::ErrorBody;

/// What something in a directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// None of these, or one of a later version.
    #[serde(other)]
    Unknown,
}

/// A file as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// Its name in the directory that was listed, or the path that was asked for.
    pub name: ByteString,
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
    /// Bytes that it has of its file system.
    pub allocated: u64,
    /// Names.
    pub links: u64,
    /// Its number in its file system.
    pub inode: u64,
    /// The number of its file system.
    pub device: u64,
    /// When it was last read.
    pub accessed: DateTime<Utc>,
    /// When its content last changed.
    pub modified: DateTime<Utc>,
    /// When its attributes last changed.
    pub changed: DateTime<Utc>,
    /// Where a symbolic link leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<ByteString>,
}

/// A line of `GET …/files/list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FileLine {
    /// Something in the directory.
    Entry(FileEntry),
    /// It cannot be told whole. The last line.
    Error(ErrorBody),
}

/// Body of `POST …/files/change`: what shall be otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileChange {
    /// Permission bits, up to 0o7777.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
    /// Owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// Bytes: it is cut, or filled up with zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// When it was last read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accessed: Option<DateTime<Utc>>,
    /// When its content last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<DateTime<Utc>>,
}

/// Body of `POST …/files/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRename {
    /// Its path.
    pub from: ByteString,
    /// Its new one.
    pub to: ByteString,
    /// Whether it may take the place of what is there.
    #[serde(default = "yes")]
    pub replace: bool,
}

fn yes() -> bool {
    true
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWritten {
    /// Bytes.
    pub bytes: u64,
}

/// Something happened to what is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FileEvent {
    /// All that happens from now on is told. The first line.
    Watching {},
    /// It is there now.
    Created {
        /// What.
        path: ByteString,
        /// Whether it is a directory.
        directory: bool,
    },
    /// Its content changed.
    Modified {
        /// What.
        path: ByteString,
    },
    /// Somebody who had it open for writing has closed it.
    Closed {
        /// What.
        path: ByteString,
    },
    /// Mode, owner, times or the like changed.
    Attributes {
        /// What.
        path: ByteString,
        /// Whether it is a directory.
        directory: bool,
    },
    /// It is not there any more.
    Removed {
        /// What.
        path: ByteString,
        /// Whether it was a directory.
        directory: bool,
    },
    /// It has another name.
    Renamed {
        /// The one of before.
        from: ByteString,
        /// The one of now.
        to: ByteString,
        /// Whether it is a directory.
        directory: bool,
    },
    /// More happened than could be told.
    Overflow {},
}

/// A line of `GET …/files/watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FileEventLine {
    /// Something happened.
    Event(FileEvent),
    /// Nothing more is told, and why. The last line.
    Error(ErrorBody),
}
