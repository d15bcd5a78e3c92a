//! Whether the runtime directory is still there: without it nobody finds this waiter, or can ever release it.
//!
//! What tells of it is dnotify (`fcntl(2)`, `F_NOTIFY`), and not inotify, of which a user may have 128 instances: there
//! are thousands of waiters. What counts is the name of the FIFO that commands come by, not that of the directory,
//! which may be moved with all that is above it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;

use crate::sys;

/// Hears of what is removed from the working directory.
pub(crate) struct Removals {
    /// The kernel tells of it for as long as this is open.
    _directory: File,
    signals: OwnedFd,
}

impl Removals {
    /// Begins. Children that are made after that would miss a signal.
    pub(crate) fn watch() -> io::Result<Self> {
        let directory = File::open(".")?;
        let signals = sys::signal_removals(&directory)?;
        Ok(Self { _directory: directory, signals })
    }

    /// Readable when something was removed.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }

    /// Takes what is there to read.
    pub(crate) fn take(&self) {
        sys::take_signals(&self.signals);
    }
}

/// Whether an open file has no name any more.
pub(crate) fn is_removed(file: &File) -> bool {
    file.metadata().is_ok_and(|meta| meta.nlink() == 0)
}
