//! One sandbox's log on disk: [`LogWriter`] moves the workload's output from its pipes into files,
//! rotates them, and lets any number of [`LogFollower`]s read them.
//!
//! ```text
//!                       bytes wait                 a tick brought nothing
//!   [at rest, in epoll] ──────────▶ [paced: move, sleep 1 ms] ──────────▶ [at rest]
//!                                     │        ▲      │   ▲
//!                        a full pipe: │        │ yes  │   │ it works again
//!                           at once   ▼        │      ▼   │
//!                               [move, yield] ─┘   [backing off: bytes wait in the pipe]
//!   with `LogBacklog::Drop`, backing off: read and dropped, counted and marked in the index
//!   Close: every pipe to its end ─▶ written out ─▶ followers end ─▶ stopped
//! ```
//!
//! Bytes go from pipe to file by `splice` at an explicit offset: they never are in our memory, so a
//! SIGKILL loses and doubles none. The file formats, and what happens when the disk is full or a
//! rename fails, are in `docs/logs.md`. File work blocks: log writers live on arbiters of their own.

mod actor;
mod await_bytes;
mod chunks;
mod close;
mod discard;
mod error;
mod files;
mod follower;
mod generation;
mod index;
mod index_writer;
mod messages;
mod names;
mod open_logs;
mod pump;
mod recover;
mod segment;
mod shared_segments;
mod store;
mod tail;
mod take_over;
#[cfg(test)]
mod tests;
mod times;

use std::path::PathBuf;
use std::time::Duration;

pub use actor::LogWriter;
pub use error::LogError;
pub use follower::{LogChunk, LogFollower};
pub use generation::position_of_generation;
pub use messages::*;
pub use names::{files_of, remove_files};
pub use open_logs::{FILES_OF_LOG, OpenLogs};
pub use tail::{bytes_logged, dropped_bytes, position_of_tail, position_of_tail_before};
pub use times::{EndOfTime, position_since, position_until};

use sandpen_types::spec::{LogLimits, SandboxKey};
use sandpen_vmm::start_timings::StartTimings;

use crate::telemetry::faults::Faults;

/// What a [`LogWriter`] needs to know.
#[derive(Debug, Clone)]
pub struct LogConfig {
    /// The current log file; rotated files and indexes lie beside it. Its directory is made if
    /// it is missing.
    pub path: PathBuf,
    /// When it is rotated, and how many rotated files are kept.
    pub limits: LogLimits,
    /// Which start of the sandbox writes. The same number as the last writer's goes on with its
    /// counters; `u64::MAX` is reserved.
    pub generation: u64,
    /// Whether this writer is the first one of its generation: what it has on file is all that there is then, also
    /// where the files of earlier ones are damaged.
    pub begins_generation: bool,
    /// How long [`Close`] tries before it answers [`LogError::CloseLimit`].
    pub close_limit: Duration,
    /// After how long without a byte the files are closed.
    pub idle_close: Duration,
    /// How many logs have their files open.
    pub open_logs: OpenLogs,
    /// Whose log it is, in events.
    pub sandbox: Option<SandboxKey>,
    /// Hears of trouble, and counts.
    pub faults: Faults,
    /// With [`LogBacklog::Drop`](sandpen_types::spec::LogBacklog::Drop): a write that takes longer counts as a disk that is
    /// too slow.
    pub slow_write: Duration,
    /// Where the first byte is noted.
    pub timings: StartTimings,
}

impl LogConfig {
    /// Closes within 10 s, and files after 30 s without a byte; 100 ms are a slow write.
    pub fn new(path: PathBuf, limits: LogLimits, generation: u64) -> Self {
        Self {
            path,
            limits,
            generation,
            begins_generation: false,
            close_limit: Duration::from_secs(10),
            idle_close: Duration::from_secs(30),
            open_logs: OpenLogs::default(),
            sandbox: None,
            faults: Faults::default(),
            slow_write: Duration::from_millis(100),
            timings: StartTimings::default(),
        }
    }
}
