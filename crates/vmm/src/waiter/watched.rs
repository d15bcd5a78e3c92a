//! Watching a VMM for its end: by what its waiter records, and where that is killed, by another one in its place.
//!
//! ```text
//!   watched ─┬ `ended` closed ─▶ record read ──────────────────────────▶ ended, status known
//!      ▲     └ waiter killed ─┬ another one started ─┐
//!      └──────────────────────┼──────────────────────┘
//!                             ├ none yet: the VMM itself is watched meanwhile
//!                             └ VMM gone too ──────────────────────────▶ ended, status unknown
//! ```

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use sandpen_types::backoff::Pauses;
use sandpen_types::error_chain::error_chain;
use sandpen_types::state::ExitStatus;
use sandpen_waiter::process_identity::ProcessIdentity;
use sandpen_waiter::records::RecordedEnd;
use sandpen_waiter::wire::{ENDED_FIFO, PROCESSES_FILE, VMM_ROLE, WAITER_ROLE};
use tokio::net::unix::pipe::Receiver;

use super::error::blocking;
use super::fifo::open_fifo_read;
use super::{WaiterError, launch, runtime_dir};
use crate::pidfd;
use crate::spare_descriptors;

/// Pauses before a waiter that could not be started is started again. The first ones are
/// short: one that is being killed closes its files one after the other, the one with the lock not the first.
const TAKE_UP_PAUSES: Pauses = Pauses::new(Duration::from_millis(1), Duration::from_mins(1));

/// How the VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitedEnd {
    /// Its status; unknown if its waiter was killed before it: only a parent is told.
    pub status: ExitStatus,
    /// When.
    pub at: DateTime<Utc>,
    /// The companion whose death ended it.
    pub companion_lost: Option<String>,
}

/// A VMM with what its records say of it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) dir: PathBuf,
    bin_dir: PathBuf,
    pub(super) pid: u32,
    /// `None` when it was gone already. Its descriptor is opened where it is needed: thousands of them at rest
    /// would be too many.
    vmm: Option<ProcessIdentity>,
    /// The read end of the `ended` FIFO; `None` when the waiter was gone already. Whoever waits for the
    /// end has it, so that one of them alone starts another waiter.
    pub(super) ended: tokio::sync::Mutex<Option<Receiver>>,
    end: OnceLock<WaitedEnd>,
}

impl Watched {
    /// What the records say. Blocks on the disk; must run within a tokio runtime.
    pub(super) fn find(dir: PathBuf, bin_dir: PathBuf) -> Result<Self, WaiterError> {
        let record = runtime_dir::read_processes(&dir)?.ok_or(WaiterError::Gone)?;
        let identity = |role: &str| {
            let damaged = || WaiterError::Record { path: dir.join(PROCESSES_FILE) };
            runtime_dir::identities(&record)
                .find(|(known, _)| *known == role)
                .map(|(_, identity)| identity)
                .ok_or_else(damaged)
        };
        // With a zombie nothing begins any more.
        let open = |role: &str, identity: &ProcessIdentity| {
            let opened = pidfd::open(identity).and_then(|pidfd| match pidfd {
                Some(pidfd) => Ok((!pidfd::has_ended(&pidfd)?).then_some(pidfd)),
                None => Ok(None),
            });
            opened.map_err(|source| WaiterError::Process { role: role.to_owned(), source })
        };
        let vmm_identity = identity(VMM_ROLE)?;
        let waiter = open(WAITER_ROLE, &identity(WAITER_ROLE)?)?;
        let pid = vmm_identity.pid;
        let vmm = open(VMM_ROLE, &vmm_identity)?.map(|_| vmm_identity);
        if waiter.is_none() && vmm.is_none() && runtime_dir::read_exit(&dir)?.is_none() {
            return Err(WaiterError::Gone);
        }
        let ended = if waiter.is_some() { Some(open_ended(&dir)?) } else { None };
        let ended = tokio::sync::Mutex::new(ended);
        Ok(Self { dir, bin_dir, pid, vmm, ended, end: OnceLock::new() })
    }

    /// Whether the VMM process is gone, so that [`Watched::ended`] is about to resolve.
    ///
    /// # Errors
    /// What the kernel said.
    pub(super) fn has_ended(&self) -> io::Result<bool> {
        spare_descriptors::with(|| self.open_vmm()?.map_or(Ok(true), pidfd::has_ended))
    }

    /// The VMM process, if it is not gone: by its identity, never by its pid alone.
    pub(super) fn open_vmm(&self) -> io::Result<Option<OwnedFd>> {
        self.vmm.as_ref().map_or(Ok(None), pidfd::open)
    }

    /// Resolves when the VMM has ended and that is on record; at once if it did before. To be awaited
    /// on the runtime of the launch or adoption. A waiter that is killed meanwhile is replaced.
    pub(super) async fn ended(self: &Arc<Self>) -> WaitedEnd {
        let mut failures = 0;
        loop {
            if let Some(end) = self.end.get() {
                return end.clone();
            }
            {
                let ended = self.ended.lock().await;
                if let Some(ended) = &*ended {
                    self.recorded_or_abandoned(ended).await;
                }
            }
            if self.read_end().await {
                continue;
            }
            if self.has_ended().unwrap_or(false) {
                // Its waiter was killed, and it has ended since.
                let _ = self.end.set(WaitedEnd { status: ExitStatus::Unknown, at: Utc::now(), companion_lost: None });
            } else if !self.take_up().await {
                failures += 1;
                tokio::select! {
                    () = self.vmm_ended() => {}
                    () = tokio::time::sleep(TAKE_UP_PAUSES.after(failures)) => {}
                }
            }
        }
    }

    /// Starts a waiter in the place of one that was killed; false when there is none.
    pub(super) async fn take_up(self: &Arc<Self>) -> bool {
        let this = self.clone();
        // A task of its own: what is begun is ended, whatever becomes of the caller.
        let taken_up = tokio::spawn(async move {
            let mut ended = this.ended.lock().await;
            if launch::take_up(&this.dir, &this.bin_dir).await?.is_some() {
                let dir = this.dir.clone();
                *ended = Some(blocking(move || open_ended(&dir)).await?);
                tracing::warn!(pid = this.pid, dir = ?this.dir, "a waiter was killed; another one has taken its place");
                return Ok(true);
            }
            Ok::<_, WaiterError>(false)
        });
        match taken_up.await {
            Ok(Ok(taken_up)) => taken_up,
            Ok(Err(error)) => {
                let error = error_chain(&error);
                tracing::warn!(pid = self.pid, error, "a waiter was killed, and no other one can be started yet");
                false
            }
            Err(_) => false,
        }
    }

    /// Resolves when the VMM process has ended.
    async fn vmm_ended(&self) {
        let vmm = match self.open_vmm() {
            Ok(Some(vmm)) => vmm,
            Ok(None) => return,
            Err(error) => {
                // No descriptor left, say; whoever waits looks again.
                tracing::warn!(pid = self.pid, %error, "a VMM cannot be watched");
                return std::future::pending().await;
            }
        };
        if let Err(error) = pidfd::ended(&vmm).await {
            tracing::warn!(pid = self.pid, %error, "waiting for a VMM in a thread");
            block_until_readable(vmm.as_fd()).await;
        }
    }

    /// Resolves when the waiter has closed the `ended` FIFO or is gone.
    async fn recorded_or_abandoned(&self, ended: &Receiver) {
        // Past tokio, which reads only what epoll announced: a FIFO without a writer from the
        // beginning is never announced.
        if nix::unistd::read(ended, &mut [0]) == Ok(0) {
            return;
        }
        loop {
            let result = match ended.readable().await {
                Ok(()) => ended.try_read(&mut [0; 64]),
                Err(error) => Err(error),
            };
            match result {
                Ok(0) => return,
                Ok(_) => {} // nobody of ours writes to it
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(pid = self.pid, %error, "waiting for a waiter in a thread");
                    return block_until_readable(ended.as_fd()).await;
                }
            }
        }
    }

    /// Takes the exit record in; false when there is none.
    pub(super) async fn read_end(&self) -> bool {
        let dir = self.dir.clone();
        let record = match blocking(move || runtime_dir::read_exit(&dir)).await {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "the VMM's end cannot be read");
                None
            }
        };
        let Some(record) = record else { return self.end.get().is_some() };
        let status = match record.end {
            RecordedEnd::Code(code) => ExitStatus::Code(code),
            RecordedEnd::Signal(signal) => ExitStatus::Signal(signal),
            RecordedEnd::Unknown => ExitStatus::Unknown,
        };
        let at = DateTime::from_timestamp_micros(record.at_micros).unwrap_or_else(Utc::now);
        let _ = self.end.set(WaitedEnd { status, at, companion_lost: record.lost });
        true
    }
}

/// Opens the FIFO whose end is the news of a recorded end. Must run within a tokio runtime.
fn open_ended(dir: &Path) -> Result<Receiver, WaiterError> {
    let path = dir.join(ENDED_FIFO);
    let ended = open_fifo_read(&path).and_then(Receiver::from_owned_fd);
    ended.map_err(|source| WaiterError::File { action: "opening", path, source })
}

/// The way out when no descriptor can be registered any more.
async fn block_until_readable(fd: BorrowedFd<'_>) {
    let Ok(fd) = fd.try_clone_to_owned() else { return };
    let wait = move || {
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        while nix::poll::poll(&mut polled, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
    };
    // It may wait for days: never on this thread, even where there is no other one.
    if tokio::task::spawn_blocking(wait).await.is_err() {
        std::future::pending::<()>().await;
    }
}
