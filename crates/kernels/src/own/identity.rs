//! Which content a file has, as far as its metadata tell.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::time::{SystemTime, UNIX_EPOCH};

/// Tells two contents of a path apart without reading them: a write or a replacement changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity([i64; 5], u64, u64);

impl Identity {
    /// Of a file that was looked at.
    pub(super) fn of(meta: &Metadata) -> Self {
        let times = [meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()];
        Self([times[0], times[1], times[2], times[3], meta.size().cast_signed()], meta.dev(), meta.ino())
    }

    /// Whether the last change is a while ago: the clock of inodes ticks every some milliseconds.
    pub(super) fn is_settled(&self) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs().cast_signed();
        self.0[2] < now - 1
    }
}
