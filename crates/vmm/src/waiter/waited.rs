//! The orchestrator's handle on a waiter and its processes.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandpen_types::start_step::StartStep;
use sandpen_waiter::wire::{COMMANDS_FIFO, Report, VMM_ROLE, WAITER_ROLE, WaiterSpec, encode};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;

use super::check::check;
use super::error::blocking;
use super::fifo::open_fifo_write;
use super::watched::{WaitedEnd, Watched};
use super::{WaiterError, launch, runtime_dir};
use crate::pidfd;
use crate::spare_descriptors;
use crate::start_timings::StartTimings;

/// How long a waiter that has the lock may take until it has recorded its processes.
const STARTING_LIMIT: Duration = Duration::from_secs(10);
/// How long a waiter may take to end after `release`; then it is killed.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Launches that are under way at the same time: enough for the processors of a large host while each also waits for
/// a disk.
const LAUNCHES_AT_ONCE: usize = 8;
/// How long a launch waits for others at most.
const TURN_LIMIT: Duration = Duration::from_secs(2);

/// A VMM under its waiter. Dropping it leaves both running, to be adopted.
#[derive(Debug, Clone)]
pub struct WaitedVmm(Arc<Watched>);

impl WaitedVmm {
    /// Starts a waiter with all its processes; resolves when every program was executed. Makes the
    /// runtime directory, or takes one that [`super::prepare_runtime_dir`] made; where the waiter program
    /// cannot be run from memory, installs it in `bin_dir`. Dropped before it resolves, it may leave processes to
    /// adopt.
    ///
    /// # Errors
    /// [`WaiterError::Start`] when a program cannot be executed, [`WaiterError::Live`] when
    /// something runs in the directory; nothing is left running or on disk then.
    pub async fn launch(
        runtime_dir: &Path,
        bin_dir: &Path,
        spec: WaiterSpec,
        timings: &StartTimings,
    ) -> Result<Self, WaiterError> {
        Self::launch_unless(&CancellationToken::new(), runtime_dir, bin_dir, spec, timings).await
    }

    /// As [`WaitedVmm::launch`], unless `cancel` is cancelled while it waits for its turn behind other launches; what
    /// is prepared in the runtime directory stays then.
    ///
    /// # Errors
    /// Also [`WaiterError::Cancelled`].
    pub async fn launch_unless(
        cancel: &CancellationToken,
        runtime_dir: &Path,
        bin_dir: &Path,
        spec: WaiterSpec,
        timings: &StartTimings,
    ) -> Result<Self, WaiterError> {
        check(&spec)?;
        let encoded =
            encode(&spec).ok_or_else(|| WaiterError::Invalid("arguments and environment are too large".into()))?;
        let Some(_turn) = cancel.run_until_cancelled(turn()).await else { return Err(WaiterError::Cancelled) };
        let (dir, bin, new) = (runtime_dir.to_owned(), bin_dir.to_owned(), spec.clone());
        let mut child = blocking(move || launch::spawn_new(&dir, &bin, &new)).await?;
        timings.mark(StartStep::WaiterStarted);

        match launch::converse(&mut child, &encoded).await {
            Some(Report::Ready) => timings.mark(StartStep::VmmStarted),
            report => return Err(launch::failed(runtime_dir, &spec, child, report).await),
        }
        let (dir, bin) = (runtime_dir.to_owned(), bin_dir.to_owned());
        match blocking(move || Watched::find(dir, bin)).await {
            Ok(watched) => {
                child.has_recorded_itself();
                Ok(Self(Arc::new(watched)))
            }
            Err(error) => {
                // It runs, but cannot be watched (no descriptor left, say): take it back.
                let path = runtime_dir.join(COMMANDS_FIFO);
                if matches!(blocking(move || command(&path, "release\n")).await, Ok(true)) {
                    launch::failed(runtime_dir, &spec, child, None).await;
                }
                Err(error)
            }
        }
    }

    /// Finds what an earlier orchestrator launched in this directory: running, or ended with its
    /// record. Where its waiter was killed, another one (of `bin_dir`) takes its place.
    ///
    /// # Errors
    /// [`WaiterError::Gone`] when neither is left; the directory is removed then.
    pub async fn adopt(runtime_dir: &Path, bin_dir: &Path) -> Result<Self, WaiterError> {
        let deadline = tokio::time::Instant::now() + STARTING_LIMIT;
        loop {
            let (dir, bin) = (runtime_dir.to_owned(), bin_dir.to_owned());
            let found = match blocking(move || Watched::find(dir, bin)).await {
                Err(WaiterError::Gone) => None,
                found => Some(Self(Arc::new(found?))),
            };
            if let Some(found) = &found
                && (found.0.ended.lock().await.is_some()
                    || found.0.has_ended().unwrap_or(true)
                    || found.0.take_up().await)
            {
                return Ok(found.clone());
            }
            let dir = runtime_dir.to_owned();
            // A waiter whose launcher died is about to record its processes.
            let starting = blocking(move || {
                let held = runtime_dir::is_held(&dir)?;
                if !held && found.is_none() {
                    runtime_dir::end_and_remove(&dir)?;
                }
                Ok((held, found))
            });
            match starting.await? {
                (true, _) if tokio::time::Instant::now() < deadline => {}
                // Watched without a waiter: better than not at all.
                (_, Some(found)) => return Ok(found),
                (_, None) => return Err(WaiterError::Gone),
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends whatever is left in this directory, of no use to anybody any more, and removes it.
    ///
    /// # Errors
    /// What could not be told, ended or removed.
    pub async fn clear_away(runtime_dir: &Path, bin_dir: &Path) -> Result<(), WaiterError> {
        match Self::adopt(runtime_dir, bin_dir).await {
            Ok(left) => left.release().await,
            Err(WaiterError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The VMM process.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether the VMM process is gone, so that [`WaitedVmm::ended`] is about to resolve.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.0.has_ended()
    }

    /// Resolves when the VMM has ended and that is on record; at once if it did before. To be awaited
    /// on the runtime of the launch or adoption. A waiter that is killed meanwhile is replaced.
    pub async fn ended(&self) -> WaitedEnd {
        self.0.ended().await
    }

    /// Sends a signal to the VMM process; no error when it is already gone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        pidfd::check_signal(signal)?;
        spare_descriptors::with(|| self.0.open_vmm()?.map_or(Ok(()), |vmm| pidfd::send_signal(vmm, signal)))
    }

    /// Kills the VMM process of a runtime directory, known by its records alone: for a host that lacks what it takes
    /// to watch it. Blocks for a few small files; fine where there is none.
    ///
    /// # Errors
    /// What the kernel said, or a damaged record.
    pub fn kill(runtime_dir: &Path) -> Result<(), WaiterError> {
        let watching = |source| WaiterError::Process { role: VMM_ROLE.to_owned(), source };
        let record = spare_descriptors::with(|| match runtime_dir::read_processes(runtime_dir) {
            Err(WaiterError::File { source, .. }) => Err(source),
            read => Ok(read),
        });
        let Some(record) = record.map_err(watching)?? else { return Ok(()) };
        let vmm = runtime_dir::identities(&record).find(|(role, _)| *role == VMM_ROLE);
        let Some((_, vmm)) = vmm else { return Ok(()) };
        let killed = spare_descriptors::with(|| {
            pidfd::open(&vmm)?.map_or(Ok(()), |vmm| pidfd::send_signal(vmm, nix::libc::SIGKILL))
        });
        killed.map_err(watching)
    }

    /// Drops the waiter's hold on one of its FIFOs, so that its reader sees the end when the other
    /// writers have closed it.
    ///
    /// # Errors
    /// [`WaiterError::Gone`] when the waiter is gone (and its hold with it).
    pub async fn close_fifo(&self, name: &str) -> Result<(), WaiterError> {
        let (path, line) = (self.0.dir.join(COMMANDS_FIFO), format!("close {name}\n"));
        if blocking(move || command(&path, &line)).await? { Ok(()) } else { Err(WaiterError::Gone) }
    }

    /// Ends the waiter (and everything that still runs under it) and removes the runtime
    /// directory. May be called again.
    ///
    /// # Errors
    /// What could not be ended or removed.
    pub async fn release(&self) -> Result<(), WaiterError> {
        let watching = |source| WaiterError::Process { role: WAITER_ROLE.into(), source };
        let dir = self.0.dir.clone();
        // Read again: the waiter may be another one by now.
        let Some(record) = blocking(move || runtime_dir::read_processes(&dir)).await? else {
            return self.remove().await;
        };
        let identity = runtime_dir::identities(&record).find(|(role, _)| *role == WAITER_ROLE);
        if let Some((_, identity)) = identity
            && let Some(waiter) = pidfd::open(&identity).map_err(watching)?
        {
            let path = self.0.dir.join(COMMANDS_FIFO);
            let told = blocking(move || command(&path, "release\n")).await;
            let ended = tokio::time::timeout(RELEASE_LIMIT, pidfd::ended(&waiter));
            if !matches!(told, Ok(true)) || !matches!(ended.await, Ok(Ok(()))) {
                pidfd::send_signal(&waiter, nix::libc::SIGKILL).map_err(watching)?;
                pidfd::ended(&waiter).await.map_err(watching)?;
            }
            pidfd::reap(&waiter).map_err(watching)?;
        }
        self.0.read_end().await;
        // Without a waiter its processes are ours to end.
        for process in blocking(move || runtime_dir::living(&record)).await? {
            pidfd::send_signal(&process, nix::libc::SIGKILL).map_err(watching)?;
            pidfd::ended(&process).await.map_err(watching)?;
        }
        self.remove().await
    }

    async fn remove(&self) -> Result<(), WaiterError> {
        let dir = self.0.dir.clone();
        blocking(move || runtime_dir::remove(&dir)).await
    }
}

/// Waits for a place among those who are launching; held until every program was executed, which takes milliseconds.
/// Thousands at once would take longer than one after the other, and everybody who asks something meanwhile would
/// wait behind all of them. One who has waited for long goes on: a disk that hangs under some is not to stop others.
async fn turn() -> Option<SemaphorePermit<'static>> {
    static TURNS: Semaphore = Semaphore::const_new(LAUNCHES_AT_ONCE);
    tokio::time::timeout(TURN_LIMIT, TURNS.acquire()).await.ok()?.ok()
}

/// Writes one command; false when nobody reads them any more.
fn command(path: &Path, line: &str) -> Result<bool, WaiterError> {
    let failed = |source| WaiterError::File { action: "writing to", path: path.to_owned(), source };
    let gone =
        |error: &io::Error| error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENXIO);
    match open_fifo_write(path) {
        Ok(fifo) => match File::from(fifo).write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).map_err(failed),
        },
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
