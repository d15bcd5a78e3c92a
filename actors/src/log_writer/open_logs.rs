//! How many logs have their files open, in all of this process: a log that is written now and then keeps them
//! for a while, unless there are many such logs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Descriptors of one log whose files are open: its bytes and its index.
pub const FILES_OF_LOG: u64 = 2;

/// The count, shared by all who write logs.
#[derive(Debug, Clone)]
pub struct OpenLogs {
    open: Arc<AtomicU64>,
    /// How many logs may keep their files open while nothing is written to them.
    comfortable: u64,
}

impl Default for OpenLogs {
    fn default() -> Self {
        Self::within(u64::MAX)
    }
}

impl OpenLogs {
    /// For logs that are to share `files` descriptors.
    pub fn within(files: u64) -> Self {
        Self { open: Arc::default(), comfortable: files / FILES_OF_LOG }
    }

    /// Whether a log without new bytes should close its files at once.
    pub(super) fn are_crowded(&self) -> bool {
        self.open.load(Ordering::Relaxed) > self.comfortable
    }

    /// Counts one more for as long as the answer lives.
    pub(super) fn count(&self) -> OpenLog {
        self.open.fetch_add(1, Ordering::Relaxed);
        OpenLog(Arc::clone(&self.open))
    }
}

/// A log whose files are open.
#[derive(Debug)]
pub(super) struct OpenLog(Arc<AtomicU64>);

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
