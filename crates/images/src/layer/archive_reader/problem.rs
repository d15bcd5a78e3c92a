//! What comes of an archive: entries, or what is wrong with it.

use std::io;

use sandpen_tree::{NameProblem, PaxProblem, Segment, SparseProblem};

use super::PAX_MAX;
use super::meta::XATTRS_MAX;
use crate::layer::entry::Meta;
use crate::layer::{ENTRIES_MAX, FILE_MAX, PATH_MAX};

/// What is wrong with an archive.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says it itself
pub enum TarProblem {
    #[error("its header's checksum is wrong: it is no tar archive, or damaged")]
    Checksum,
    #[error("its header's {0} is no number")]
    Number(&'static str),
    #[error("the archive ends in the middle of it")]
    Truncated,
    #[error("its name cannot be used: {0}")]
    Name(NameProblem),
    #[error("the target of its hard link cannot be used: {0}")]
    Target(NameProblem),
    #[error("it links to nothing: its target is empty")]
    NoTarget,
    #[error("its symbolic link has a target of more than {PATH_MAX} bytes or with a NUL byte")]
    SymbolicTarget,
    #[error("its extended header is longer than {PAX_MAX} bytes")]
    HeaderTooLong,
    #[error("a second long name before the entry of the first")]
    NestedLongName,
    #[error("a long name without an entry")]
    LongNameAlone,
    #[error("its extended header is malformed: {0}")]
    Pax(PaxProblem),
    #[error("its map of holes is malformed: {0}")]
    Sparse(SparseProblem),
    #[error("it has more than {FILE_MAX} bytes, holes included; none of an image may")]
    FileTooLarge,
    #[error("its type {0:?} is none that is known")]
    Type(char),
    #[error("it is a character device 0/0, which is how an overlay says that something is not there")]
    WhiteoutDevice,
    #[error("its extended attribute {0:?} is the overlay file system's own")]
    OverlayXattr(String),
    #[error("its extended attributes have more than {XATTRS_MAX} bytes")]
    Xattrs,
    #[error("its permissions, owner or device number are out of range")]
    Range,
    #[error("the archive has more than {ENTRIES_MAX} entries")]
    TooMany,
}

/// Why an archive cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The archive is not as it must be.
    #[error("{problem}")]
    Archive {
        /// The entry, as the archive has its name; empty where none is known.
        entry: Vec<u8>,
        /// What.
        problem: TarProblem,
    },
    /// What it is read from, or written to.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TarKind {
    /// A file; its contents follow.
    File(Contents),
    /// A directory.
    Directory,
    /// A hard link to a path of the archive.
    HardLink(Vec<u8>),
    /// A symbolic link.
    SymbolicLink(Vec<u8>),
    /// Major and minor number.
    CharacterDevice(u32, u32),
    /// Major and minor number.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
}

/// The contents of a file in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// Bytes of the file.
    pub bytes: u64,
    /// Its parts that are in the archive, one behind the other; the rest are holes. One for a file without.
    pub segments: Vec<Segment>,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TarEntry {
    /// Checked, below the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Its attributes.
    pub meta: Meta,
}
