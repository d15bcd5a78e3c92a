//! What can be wrong with an entry that is made, and what ends all.

use std::io;
use std::path::PathBuf;

use rustix::io::Errno;

use super::place::DestinationProblem;
use crate::reader::StreamError;
use crate::report::Shown;

/// Why a stream was not unpacked to its end. What was made until then is there, each file whole.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// The stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The destination.
    #[error("{path:?} cannot be the destination")]
    Destination {
        /// As it was asked for.
        path: PathBuf,
        /// The cause.
        #[source]
        problem: DestinationProblem,
    },
    /// It holds what nobody asked for.
    #[error("the stream has {}, which is not what was asked for; nothing was made of it", Shown(name))]
    Outside {
        /// The entry's name.
        name: Vec<u8>,
    },
    /// Its first entry is missing.
    #[error("the stream has no entries")]
    NoEntries,
    /// The disk.
    #[error("{path:?} cannot be written, and nothing more after it")]
    Write {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The kernel.
    #[error("this kernel has no openat2 (Linux 5.6 has it), without which nothing can be unpacked safely")]
    Kernel,
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("it cannot be made")]
    Make(#[source] io::Error),
    #[error("a directory is there, and only a directory can be copied onto one")]
    DirectoryThere,
    #[error("something is there that is no directory, and a directory cannot take its place")]
    NoDirectoryThere,
    #[error("something on its way is no directory; symbolic links are not followed")]
    Way(#[source] io::Error),
    #[error("something is mounted there, which cannot be replaced; write into it with `cat` in the sandbox")]
    Mounted(#[source] io::Error),
    #[error("it is another name of {}, which is no file of this copy", Shown(.0))]
    NotCopied(Vec<u8>),
    #[error("{}, of which it is another name, was replaced meanwhile", Shown(.0))]
    Replaced(Vec<u8>),
    #[error("it is a device or a FIFO, and none are made on this side")]
    Special,
    #[error("its owner, permissions, time or attributes cannot be set")]
    Attributes(#[source] io::Error),
    #[error("the directories above it have more attributes than are kept at once")]
    TooManyAttributes,
}

/// What there is to know of an entry.
#[derive(Debug, thiserror::Error)]
pub(super) enum Note {
    #[error("it could not be given its owner, and belongs to whoever copied it")]
    Owner,
    #[error("its file system keeps no extended attributes, and it has lost them")]
    Attributes,
}

/// What goes wrong with an entry, or with all.
#[derive(Debug)]
pub(super) enum Trouble {
    Entry(Problem),
    /// The disk.
    Disk(io::Error),
    All(UnpackError),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Entry(problem)
    }
}

impl From<StreamError> for Trouble {
    fn from(error: StreamError) -> Self {
        Self::All(error.into())
    }
}

/// Sorts a failure: a disk on which nothing more can be written ends all.
pub(super) fn trouble(source: impl Into<io::Error>, problem: fn(io::Error) -> Problem) -> Trouble {
    let source = source.into();
    match Errno::from_io_error(&source) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::IO | Errno::ROFS | Errno::NOMEM | Errno::MFILE | Errno::NFILE) => {
            Trouble::Disk(source)
        }
        Some(Errno::NOSYS) => Trouble::All(UnpackError::Kernel),
        _ => Trouble::Entry(problem(source)),
    }
}
