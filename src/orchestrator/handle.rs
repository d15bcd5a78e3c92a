//! How everybody uses an orchestrator: `Clone + Send + Sync`, from any runtime.

mod commit;
mod disk;
mod helpers;
mod images;
mod jobs;
mod sessions;
mod starts;
mod stats;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandpen_actors::database::{CountSandboxes, Database, GetOutOfMemory, GetSandbox, ListSandboxes, ListTransitions};
use sandpen_actors::jobs::JobStdin;
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::supervisor::{
    HoldRemoval, KillSandbox, ListDisks, ListVolumes, OpenGuest, Reconcile, RemoveDisk, RemoveSandbox, RemoveVolume,
    RenameSandbox, StopSandbox, Supervisor, SupervisorError, WaitSandbox,
};
use sandpen_actors::telemetry::faults::Faults;
use sandpen_api::Metric;
use sandpen_types::disk::NamedDisk;
use sandpen_types::history::HistoryPage;
use sandpen_types::reconcile::ReconcileReport;
use sandpen_types::row::SandboxRow;
use sandpen_types::signal::Signal;
use sandpen_types::spec::{DiskName, SandboxKey, TerminalSize, VolumeName};
use sandpen_types::state_dir::StateDir;
use sandpen_types::transition::Transition;
use sandpen_types::volume::NamedVolume;
use sandpen_vmm::driver::GuestSession;
use sandpen_vmm::start_timings::{LatestTimings, StartTimings};

use super::disk_usage::Places;
use super::error::SandpenError;
use super::events::{Events, EventsOptions};
use super::images::Images;
use super::output::{Output, OutputOf, OutputOptions};
use super::thread;
use super::vmm_log::{VmmLog, VmmLogOptions};
use crate::metrics;

pub use images::SavedImages;
pub use stats::StatsOptions;

/// How long an answer waits for what was told to be on record, while the host keeps it from that.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// The way to an orchestrator.
#[derive(Debug, Clone)]
pub struct Handle {
    supervisor: ActorRef<Supervisor>,
    database: ActorRef<Database>,
    faults: Faults,
    timings: LatestTimings,
    state_dir: Arc<StateDir>,
    data_dir: Arc<Path>,
    images: Arc<Images>,
}

impl Handle {
    pub(super) fn new(
        supervisor: ActorRef<Supervisor>,
        database: ActorRef<Database>,
        faults: Faults,
        timings: LatestTimings,
        state_dir: StateDir,
        data_dir: &Path,
        images: Images,
    ) -> Self {
        let (state_dir, data_dir, images) = (Arc::new(state_dir), data_dir.into(), Arc::new(images));
        Self { supervisor, database, faults, timings, state_dir, data_dir, images }
    }

    /// One sandbox.
    ///
    /// # Errors
    /// The database's.
    pub async fn get(&self, key: &SandboxKey) -> Result<Option<SandboxRow>, SandpenError> {
        Ok(self.database.send(GetSandbox(key.clone())).await??)
    }

    /// All sandboxes that somebody asked for, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn list(&self) -> Result<Vec<SandboxRow>, SandpenError> {
        let mut rows = self.database.send(ListSandboxes).await??;
        rows.retain(|row| row.spec.helper_of.is_none());
        Ok(rows)
    }

    /// A page of what happened to a sandbox, oldest first. The latest
    /// [`STARTS_KEPT`](sandpen_actors::database::STARTS_KEPT) starts are kept.
    ///
    /// # Errors
    /// `NotFound`, or the database's.
    pub async fn history(&self, key: &SandboxKey, page: HistoryPage) -> Result<Vec<Transition>, SandpenError> {
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        Ok(self.database.send(ListTransitions { sandbox: row.id, page }).await??)
    }

    /// Everything that happened, in one order, also to sandboxes that are removed by now. A reader that
    /// stalls holds up nobody; it misses nothing that is kept: of each sandbox the last
    /// [`EVENTS_KEPT_OF_SANDBOX`](sandpen_actors::database::EVENTS_KEPT_OF_SANDBOX) at least, as long as those of all
    /// sandboxes are not more than [`EVENTS_KEPT`](sandpen_actors::database::EVENTS_KEPT). Of one sandbox it is told
    /// what it missed by an error, of all by the missing numbers.
    ///
    /// # Errors
    /// A number that is no longer kept or has not come yet, or the database's.
    pub async fn events(&self, options: EventsOptions) -> Result<Events, SandpenError> {
        Events::open(self.database.clone(), options).await
    }

    /// Where the time of a sandbox's latest start went; more of it while it runs. `None` where this
    /// orchestrator never had it live, or it is removed; of one that an earlier orchestrator started it says
    /// so ([`StartTimings::is_adopted`]).
    pub fn start_timings(&self, key: &SandboxKey) -> Option<StartTimings> {
        self.timings.get(key)
    }

    /// The process that the guest's kernel ended for lack of memory in a sandbox's latest start; empty where the guest does
    /// not know which.
    ///
    /// # Errors
    /// The database's.
    pub async fn out_of_memory(&self, row: &SandboxRow) -> Result<Option<String>, SandpenError> {
        // What was told is on record then, unless nothing can be recorded now.
        let _ = tokio::time::timeout(FLUSH_LIMIT, self.faults.flushed()).await;
        let (sandbox, generation) = (row.spec.key.clone(), row.generation);
        Ok(self.database.send(GetOutOfMemory { sandbox, generation }).await??)
    }

    /// Counters and gauges of this orchestrator.
    pub async fn metrics(&self) -> Vec<Metric> {
        // Without the database there is the rest.
        let by_state = self.database.send(CountSandboxes).await.ok().and_then(Result::ok);
        metrics::all(&self.faults, by_state.as_deref())
    }

    /// Ends a sandbox gracefully; resolves when it has ended.
    ///
    /// # Errors
    /// `NotFound`, `NotLive`.
    pub async fn stop(&self, key: &SandboxKey, grace: Duration) -> Result<SandboxRow, SandpenError> {
        self.stop_with(key, grace, None).await
    }

    /// The same by a signal, in the place of the one of its specification (SIGTERM where that names none).
    ///
    /// # Errors
    /// As [`Handle::stop`].
    pub async fn stop_with(
        &self,
        key: &SandboxKey,
        grace: Duration,
        signal: Option<Signal>,
    ) -> Result<SandboxRow, SandpenError> {
        self.end(key, StopSandbox { key: key.clone(), grace, signal }).await
    }

    /// Sends a signal; SIGKILL ends the microVM and resolves when it has ended.
    ///
    /// # Errors
    /// `NotFound`, `NotLive`, a guest that does not answer.
    pub async fn kill(&self, key: &SandboxKey, signal: i32) -> Result<SandboxRow, SandpenError> {
        self.end(key, KillSandbox { key: key.clone(), signal }).await
    }

    /// Asks for an end; what it ends may have ended before a supervisor that failed could say so.
    async fn end<M>(&self, key: &SandboxKey, ask: M) -> Result<SandboxRow, SandpenError>
    where
        M: actix::Message<Result = Result<SandboxRow, SupervisorError>> + Clone + Send + 'static,
        Supervisor: actix::Handler<M>,
    {
        if let Ok(answer) = self.supervisor.send_once(ask.clone()).await {
            return Ok(answer?);
        }
        match self.supervisor.send(ask).await? {
            Err(error @ SupervisorError::NotLive { .. }) => self.get(key).await?.ok_or_else(|| error.into()),
            answer => Ok(answer?),
        }
    }

    /// Resolves when the sandbox has ended and no restart is pending.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn wait(&self, key: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        Ok(self.supervisor.send(WaitSandbox { key: key.clone() }).await??)
    }

    /// Removes an ended sandbox with its log; a live one with `force`.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyLive`.
    pub async fn remove(&self, key: &SandboxKey, force: bool) -> Result<(), SandpenError> {
        let removal = RemoveSandbox { key: key.clone(), force };
        if let Ok(answer) = self.supervisor.send_once(removal.clone()).await {
            return Ok(answer?);
        }
        match self.supervisor.send(removal).await? {
            // By the one that failed before it could answer.
            Err(SupervisorError::NotFound { .. }) => Ok(()),
            answer => Ok(answer?),
        }
    }

    /// Gives an ended sandbox another name: its history, its log and its disk go along.
    ///
    /// # Errors
    /// `NotFound`, `NotEnded`, `NameTaken`.
    pub async fn rename(&self, from: &SandboxKey, to: &SandboxKey) -> Result<SandboxRow, SandpenError> {
        let request = RenameSandbox { from: from.clone(), to: to.clone() };
        if let Ok(answer) = self.supervisor.send_once(request.clone()).await {
            return Ok(answer?);
        }
        // The supervisor failed meanwhile, perhaps after it was done.
        match self.supervisor.send(request).await? {
            Err(error @ SupervisorError::NotFound { .. }) => self.get(to).await?.ok_or_else(|| error.into()),
            answer => Ok(answer?),
        }
    }

    /// The disks with names of their own.
    ///
    /// # Errors
    /// Their directory cannot be read.
    pub async fn disks(&self) -> Result<Vec<NamedDisk>, SandpenError> {
        Ok(self.supervisor.send(ListDisks).await??)
    }

    /// Removes a named disk that no live sandbox has.
    ///
    /// # Errors
    /// `DiskNotFound`, `DiskInUse`.
    pub async fn remove_disk(&self, name: &DiskName) -> Result<(), SandpenError> {
        Ok(self.supervisor.send(RemoveDisk { name: name.clone() }).await??)
    }

    /// The volumes with names of their own.
    ///
    /// # Errors
    /// Their directory or the database cannot be read.
    pub async fn volumes(&self) -> Result<Vec<NamedVolume>, SandpenError> {
        Ok(self.supervisor.send(ListVolumes).await??)
    }

    /// Removes a named volume that no sandbox has, live or ended, with all that is in it.
    ///
    /// # Errors
    /// `VolumeNotFound`, `VolumeInUse`.
    pub async fn remove_volume(&self, name: &VolumeName) -> Result<(), SandpenError> {
        Ok(self.supervisor.send(RemoveVolume { name: name.clone() }).await??)
    }

    /// Looks for what belongs to nobody and removes it; also while sandboxes start and end. An
    /// orchestrator does it by itself when it starts.
    ///
    /// # Errors
    /// The database's.
    pub async fn reconcile(&self) -> Result<ReconcileReport, SandpenError> {
        let report = self.supervisor.send(Reconcile).await??;
        thread::tell_reconciled(&self.database, &self.faults, &report).await;
        Ok(report)
    }

    /// The sandbox's output, from its log: a reader that stalls holds up nobody and misses nothing.
    /// Call it, and read it, on a tokio runtime (actix is one).
    ///
    /// # Errors
    /// `NotFound`, or the log's.
    pub async fn output(&self, key: &SandboxKey, options: OutputOptions) -> Result<Output, SandpenError> {
        // Before the look: nothing that is there then removes itself.
        let hold = self.supervisor.send(HoldRemoval { key: key.clone() }).await??;
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        let start = (OutputOf::Workload(row.spec.key.clone()), row.generation);
        Output::open(self.state_dir.log(key), self.supervisor.clone(), hold, start, options).await
    }

    /// What the sandbox's VMM and its guest's console printed since its last start. Call it, and
    /// read it, on a tokio runtime (actix is one).
    ///
    /// # Errors
    /// `NotFound`, or the log's.
    pub async fn vmm_log(&self, key: &SandboxKey, options: VmmLogOptions) -> Result<VmmLog, SandpenError> {
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        let key = row.spec.key.clone();
        VmmLog::open(self.state_dir.vmm_log(&key), self.supervisor.clone(), key, options).await
    }

    /// The standard input of a live sandbox that was started with one.
    ///
    /// # Errors
    /// `NotFound`, `NotLive`, [`SandpenError::NoStdin`].
    pub async fn stdin(&self, key: &SandboxKey) -> Result<StdinWriter, SandpenError> {
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        if !row.spec.stdin {
            return Err(SandpenError::NoStdin(row.spec.key.clone()));
        }
        Ok(StdinWriter(Stdin::Workload(self.guest(row).await?)))
    }

    /// Tells the terminal of a live sandbox its new size; its foreground programs get SIGWINCH if
    /// that is another one.
    ///
    /// # Errors
    /// `NotFound`, `NotLive`, [`SandpenError::NoTerminal`], a guest that does not answer.
    pub async fn resize(&self, key: &SandboxKey, size: TerminalSize) -> Result<(), SandpenError> {
        let row = self.get(key).await?.ok_or_else(|| SupervisorError::NotFound { key: key.clone() })?;
        if row.spec.terminal.is_none() {
            return Err(SandpenError::NoTerminal(row.spec.key.clone()));
        }
        Ok(self.guest(row).await?.resize(size).await?)
    }

    /// The way to a live microVM.
    async fn guest(&self, row: SandboxRow) -> Result<Arc<dyn GuestSession>, SandpenError> {
        Ok(self.supervisor.send(OpenGuest { key: row.spec.key.clone(), or_helper: false }).await??)
    }

    /// The supervisor itself, for an application's own actors: send it
    /// [`StartSandbox`] and the other messages, and
    /// [`SubscribeStateChanges`](sandpen_actors::supervisor::SubscribeStateChanges).
    pub fn supervisor(&self) -> ActorRef<Supervisor> {
        self.supervisor.clone()
    }

    /// Makes an actor panic, for tests; answers whether it was there.
    ///
    /// # Errors
    /// The orchestrator has ended.
    #[cfg(feature = "testing")]
    pub async fn inject_panic(&self, panic: sandpen_actors::testing::panic::InjectPanic) -> Result<bool, SandpenError> {
        Ok(self.supervisor.send(panic).await?)
    }

    /// Where what takes room lies.
    fn places(&self) -> Places {
        Places { state_dir: (*self.state_dir).clone(), data_dir: self.data_dir.to_path_buf() }
    }

    pub(super) fn database(&self) -> &ActorRef<Database> {
        &self.database
    }

    /// Where everything lies.
    pub fn state_dir(&self) -> &StateDir {
        &self.state_dir
    }
}

/// The standard input of a workload or a job.
#[derive(Clone)]
pub struct StdinWriter(Stdin);

#[derive(Clone)]
enum Stdin {
    Workload(Arc<dyn GuestSession>),
    Job(JobStdin),
}

impl StdinWriter {
    /// Passes bytes on; resolves when they are on their way, so that a workload that does not read
    /// holds up its writer only.
    ///
    /// # Errors
    /// The microVM or the job has ended, or cannot be reached.
    pub async fn write(&self, bytes: Vec<u8>) -> Result<(), SandpenError> {
        match &self.0 {
            Stdin::Workload(guest) => Ok(guest.write_stdin(bytes).await?),
            Stdin::Job(job) => Ok(job.write(bytes.into()).await.map_err(SupervisorError::from)?),
        }
    }

    /// Ends the input; on a terminal, types its end-of-file character.
    ///
    /// # Errors
    /// As [`StdinWriter::write`].
    pub async fn close(&self) -> Result<(), SandpenError> {
        match &self.0 {
            Stdin::Workload(guest) => Ok(guest.close_stdin().await?),
            Stdin::Job(job) => Ok(job.close().await.map_err(SupervisorError::from)?),
        }
    }
}

impl std::fmt::Debug for StdinWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StdinWriter").finish_non_exhaustive()
    }
}
