//! What a log writer takes (commands) and tells (events).
//!
//! A *position* counts the bytes of a sandbox's whole log since its first start, over rotations;
//! a position that is before the oldest kept file has been rotated away.

use std::os::fd::OwnedFd;

use actix::{Message, Recipient};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sandpen_types::output_stream::OutputStream;

use super::{LogError, LogFollower};

/// Reads `pipe` (the read end of a FIFO) into the log from now on, until its last writer is gone;
/// instead of the one that was attached for this stream before.
///
/// Fails with [`LogError::Attach`] if the pipe cannot be watched, and once [`Close`] was sent.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), LogError>")]
pub struct AttachStream {
    /// Which stream comes out of it.
    pub stream: OutputStream,
    /// The pipe.
    pub pipe: OwnedFd,
}

/// Appends bytes that are already in our memory: all of them in one file, or an error and none (but
/// see [`LogError::PartlyWritten`]). At most 1 MiB, and at most one log file's limit.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Appended, LogError>")]
pub struct WriteChunk {
    /// Which stream they belong to.
    pub stream: OutputStream,
    /// The bytes.
    pub bytes: Bytes,
}

/// Resolves when this generation's streams have at least these many bytes on file or dropped, or when the
/// pipes bring nothing for `idle_limit`, or not all within `limit`, although bytes are missing: the answer says what
/// is there. Bytes that wait for room on the disk are waited for without limit. Fails at once, with
/// [`LogError::TooManyMissing`], where more are missing than can be on their way.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<StreamTotals, LogError>")]
pub struct AwaitBytes {
    /// Wanted bytes of stdout.
    pub stdout: u64,
    /// Wanted bytes of stderr.
    pub stderr: u64,
    /// Most bytes of a stream that can be on their way.
    pub missing_max: u64,
    /// How long no progress may last.
    pub idle_limit: std::time::Duration,
    /// How long it may last in all.
    pub limit: std::time::Duration,
}

/// What the current generation has on file, whatever earlier writers left; fails while the files cannot be read.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<OnFile, LogError>")]
pub struct GetOnFile;

/// Answer of [`GetOnFile`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OnFile {
    /// What there is.
    pub totals: StreamTotals,
    /// Whether the index says so; without it nobody knows which bytes are of which stream.
    pub is_certain: bool,
}

/// Closes the files and opens them again by name, new ones if somebody moved them away.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), LogError>")]
pub struct Reopen;

/// Reads every pipe until it is empty, writes all out (fdatasync), ends every follower, stops.
///
/// With no room on the disk it answers [`LogError::CloseLimit`] after `LogConfig::close_limit`: then
/// the writer goes on as before, and `Close` may be sent again; if its last address is dropped
/// instead, it stops and the bytes stay in the pipes. With [`LogError::NotWrittenOut`] it stops:
/// all is on file, but perhaps not on the disk.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<StreamTotals, LogError>")]
pub struct Close;

/// A reader of this log from a position on.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<LogFollower, LogError>")]
pub struct Follow {
    /// From where.
    pub from: FollowFrom,
}

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowFrom {
    /// The oldest kept byte.
    Oldest,
    /// The first byte of the current generation.
    LatestGeneration,
    /// The first byte of this generation, or the oldest kept one after it.
    Generation(u64),
    /// This position.
    Position(u64),
}

/// Who gets events. Replaces nobody; there may be several.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Subscribe {
    /// For every quantum that was written; missed while the recipient's mailbox is full.
    pub appended: Option<Recipient<Appended>>,
    /// For trouble; once when it starts, and at once if there is some now.
    pub failed: Option<Recipient<LogFailed>>,
}

/// What the current generation has on file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StreamTotals {
    /// Bytes of stdout.
    pub stdout: u64,
    /// Bytes of stderr.
    pub stderr: u64,
    /// Position after the last byte.
    pub position: u64,
    /// Bytes of stdout that were dropped instead ([`LogBacklog::Drop`](sandpen_types::spec::LogBacklog::Drop)).
    pub dropped_stdout: u64,
    /// Bytes of stderr likewise.
    pub dropped_stderr: u64,
}

impl StreamTotals {
    /// Whether so many bytes of each stream came out of the pipes, on file or dropped.
    pub fn reaches(&self, stdout: u64, stderr: u64) -> bool {
        self.stdout.saturating_add(self.dropped_stdout) >= stdout
            && self.stderr.saturating_add(self.dropped_stderr) >= stderr
    }
}

/// A quantum was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct Appended {
    /// Position of its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
    /// Its stream.
    pub stream: OutputStream,
    /// When it was written.
    pub at: DateTime<Utc>,
}

/// The log cannot be written or rotated now. It is tried again; bytes wait in the pipe meanwhile.
#[derive(Debug, Clone, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct LogFailed {
    /// What failed, with its cause.
    pub message: String,
    /// Bytes that are lost for ever (0: they wait in the pipe).
    pub lost_bytes: u64,
}
