//! What can go wrong with a log.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandpen_types::output_stream::OutputStream;
use sandpen_vmm::blocking::WorkLost;

/// A failure of a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{action} {path:?}")]
    File {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Something that is not a regular file has a name that the log needs.
    #[error("{0:?} is in the way of the log: it is not a regular file; move it elsewhere")]
    NotRegular(PathBuf),
    /// Another log writer holds the log.
    #[error("the log {0:?} is being written by somebody else")]
    Busy(PathBuf),
    /// The pipe cannot be watched.
    #[error("watching the pipe of {stream}")]
    Attach {
        /// The stream it carries.
        stream: OutputStream,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A chunk that can never be written in one piece; nothing of it was.
    #[error("a chunk of {len} bytes is too large: send it in pieces of at most {max}")]
    ChunkTooLarge {
        /// Its length in bytes.
        len: usize,
        /// The most that is taken.
        max: usize,
    },
    /// Only the first part of a chunk is on file, and it could not be taken back: go on after it.
    #[error("only the first {written} of {len} bytes could be written to {path:?}")]
    PartlyWritten {
        /// Bytes on file, counted and told to followers.
        written: u64,
        /// Length of the chunk in bytes.
        len: usize,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The log could not take what waits in the pipes in time; it waits there still.
    #[error("the log could not be closed within {limit:?}: output still waits in the pipes")]
    CloseLimit {
        /// How long it was tried.
        limit: Duration,
        /// Why it was not written; `None` if bytes kept coming.
        #[source]
        source: Option<Arc<LogError>>,
    },
    /// All output is in the file, but the system could not say that the disk holds it.
    #[error("the closed log may not survive a power failure")]
    NotWrittenOut(#[source] Arc<LogError>),
    /// The log writer is closing and takes nothing new.
    #[error("the log is being closed")]
    Closed,
    /// The log writer went away without closing the log; follow again from this position.
    #[error("the log writer is gone; follow again from position {position}")]
    WriterGone {
        /// Position after the last byte that was read.
        position: u64,
    },
    /// A stream lacks more bytes than pipes and queues hold.
    #[error("{missing} bytes of {stream} were reported that never came, and no more than {most} can be on their way")]
    TooManyMissing {
        /// The stream.
        stream: OutputStream,
        /// Bytes reported and not there.
        missing: u64,
        /// Most bytes on their way.
        most: u64,
    },
    /// The runtime of the reader ended, or a read panicked.
    #[error("reading the log was cut off")]
    ReadCutOff(#[source] WorkLost),
}

impl LogError {
    /// For `map_err`.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { action, path, source }
    }
}
