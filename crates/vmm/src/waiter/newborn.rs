//! A waiter between its start and its record: our child, and nobody else's to reap.
//!
//! ```text
//!   started ─▶ reports that it is recorded ─▶ reaped by its record, at the release
//!          ├─▶ fails ─▶ its end awaited and reaped
//!          └─▶ given up on the way ─▶ a task reaps it when it ends
//! ```
//!
//! Tokio's children are not used: each keeps a descriptor open for as long as it lives, and of these
//! there are thousands.

use std::io;
use std::os::fd::OwnedFd;
use std::process::Child;

use crate::pidfd;

#[derive(Debug)]
pub(super) struct Newborn {
    child: Child,
    /// `None` once it is somebody else's to reap.
    pidfd: Option<OwnedFd>,
}

impl Newborn {
    /// One that was just started.
    pub(super) fn new(mut child: Child) -> io::Result<Self> {
        match pidfd::of_child(&child) {
            Ok(pidfd) => Ok(Self { child, pidfd: Some(pidfd) }),
            Err(error) => {
                // No descriptor to watch it with. It has not been told anything, and ends when its pipe does.
                drop(child.stdin.take());
                child.wait()?;
                Err(error)
            }
        }
    }

    /// Its standard input and output; once.
    pub(super) fn take_pipes(&mut self) -> Option<(OwnedFd, OwnedFd)> {
        Some((self.child.stdin.take()?.into(), self.child.stdout.take()?.into()))
    }

    /// From now on it is found, and reaped, by its record.
    pub(super) fn has_recorded_itself(mut self) {
        self.pidfd = None;
    }

    /// Waits for its end and reaps it: how it ended, for people.
    pub(super) async fn end(mut self) -> String {
        drop((self.child.stdin.take(), self.child.stdout.take()));
        let Some(pidfd) = self.pidfd.take() else { return "unknown".to_owned() };
        let status = match pidfd::ended(&pidfd).await {
            Ok(()) => self.child.try_wait(),
            Err(error) => Err(error),
        };
        match status {
            Ok(Some(status)) => status.to_string(),
            Ok(None) => "still running".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        let Some(pidfd) = self.pidfd.take() else { return };
        // Without a runtime the whole program is about to end, and init reaps.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        drop(runtime.spawn(async move {
            let reaped = match pidfd::ended(&pidfd).await {
                Ok(()) => pidfd::reap(&pidfd),
                Err(error) => Err(error),
            };
            if let Err(error) = reaped {
                tracing::warn!(%error, "a waiter that was given up is not reaped");
            }
        }));
    }
}
