//! The actor: what it holds, and what happens to a child that ends.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, ArbiterHandle, AsyncContext as _, Context, Recipient, ResponseActFuture,
    WrapFuture as _,
};
use chrono::Utc;

use super::admission::{FILES_OF_ONE, files_of_logs};
use super::child::Child;
use super::disks;
use super::lingering::{Lingering, Readers, lingers};
use super::restart::{Occasion, pause_before_restart, row_wants_restart};
use super::start::record_until_durable;
use super::succession::Succession;
use super::{Shutdown, SupervisorError};
use crate::actor_ref::ActorRef;
use crate::database::{self, Database, GetSandbox, SandboxRow};
use crate::driver::Drivers;
use crate::faults::Faults;
use crate::intensity::RestartIntensity;
use crate::log_writer::{LogError, OpenLogs, remove_files};
use crate::monitor::{StateChanged, Stop};
use crate::process_identity::boot_id;
use crate::spec::{DiskName, RestartPolicy, SandboxKey};
use crate::start_timings::LatestTimings;
use crate::state::{Event, SandboxState, StoppedBy};
use crate::state_dir::StateDir;

pub(super) type Answer<T> = ResponseActFuture<Supervisor, Result<T, SupervisorError>>;

/// What the supervisor needs.
#[derive(Clone)]
pub struct SupervisorConfig {
    /// Where everything lies.
    pub state_dir: StateDir,
    /// Tag of the state directory, for the argv of VMM processes.
    pub state_id: String,
    /// The drivers of this host.
    pub drivers: Drivers,
    /// The database actor.
    pub database: ActorRef<Database>,
    /// Where monitors run: the supervisor's own arbiter.
    pub control_arbiter: ArbiterHandle,
    /// Where log writers run; at least one.
    pub log_arbiters: Vec<ArbiterHandle>,
    /// This process, for the rows.
    pub supervisor_pid: u32,
    /// How many files this process may open.
    pub open_files_limit: u64,
    /// So many bytes stay free on the state directory's disk for what runs; `None`: see
    /// [`crate::room::RESERVE_DEFAULT`].
    pub reserve: Option<u64>,
    /// The faults of the host, and the counters.
    pub faults: Faults,
    /// Where the time of each sandbox's latest start went.
    pub timings: LatestTimings,
    /// How often a sandbox may lose its monitor or its log writer before it is FAILED.
    pub intensity: RestartIntensity,
}

/// The supervisor of all sandboxes of one state directory.
pub struct Supervisor {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing_panic::Bomb,
    pub(super) config: SupervisorConfig,
    pub(super) children: HashMap<SandboxKey, Child>,
    pub(super) subscribers: Vec<Recipient<StateChanged>>,
    pub(super) shutting_down: Option<Shutdown>,
    pub(super) removing_disks: HashSet<DiskName>,
    pub(super) open_logs: OpenLogs,
    /// Ended, and to be removed soon.
    pub(super) lingering: HashMap<SandboxKey, Lingering>,
    pub(super) readers: Readers,
    /// Whether it will be looked whether there is room again.
    pub(super) watches_room: bool,
    /// Files that whoever was refused last would have kept open.
    pub(super) files_lacked: u64,
    /// Whether a [`super::Reconcile`] has begun.
    pub(super) reconciled: bool,
    /// The host's boot; `None` where it cannot be told.
    pub(super) boot_id: Option<String>,
    /// Set where another one follows when this one panics.
    pub(super) itself: Option<ActorRef<Self>>,
    pub(super) succession: Option<Succession>,
}

impl Supervisor {
    /// A supervisor without children; send [`Reconcile`] first.
    pub fn new(config: SupervisorConfig) -> Self {
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing_panic::Bomb::new(crate::testing_panic::ActorKind::Supervisor),
            children: HashMap::new(),
            subscribers: Vec::new(),
            shutting_down: None,
            removing_disks: HashSet::new(),
            lingering: HashMap::new(),
            readers: Readers::default(),
            watches_room: false,
            files_lacked: FILES_OF_ONE,
            reconciled: false,
            open_logs: OpenLogs::within(files_of_logs(config.open_files_limit)),
            config,
            boot_id: boot_id().ok(),
            itself: None,
            succession: None,
        }
    }

    /// One sandbox's log always runs on the same thread.
    pub(super) fn log_arbiter(&self, key: &SandboxKey) -> ArbiterHandle {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(key, &mut hasher);
        let arbiters = &self.config.log_arbiters;
        let count = u64::try_from(arbiters.len()).unwrap_or(1).max(1);
        let index = usize::try_from(hasher.finish() % count).unwrap_or(0);
        arbiters.get(index).unwrap_or(&self.config.control_arbiter).clone()
    }

    /// Keeps a durable row and tells it.
    pub(super) fn note_row(&mut self, row: &Arc<SandboxRow>) {
        if let Some(child) = self.children.get_mut(&row.spec.key) {
            child.row = Some(row.clone());
            if row.state == SandboxState::Running {
                child.answer_started();
            }
        }
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(StateChanged { row: row.clone() });
        }
    }

    /// A sandbox has ended and everything of its microVM is gone: restart policy, then answers, then
    /// the name is free.
    pub(super) fn on_ended(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.monitor = None;
        child.log = None;
        child.until_settled.clear();
        child.until_released.clear();
        let Some(row) = child.row.clone() else { return };
        if let Some(Stop { by, .. }) = child.stop
            && row.stopped_by.is_none()
            && row.spec.restart != RestartPolicy::No
        {
            self.record_late_stop(key, row, by, ctx);
            return;
        }
        // Another orchestrator decides for the rows of one that leaves its microVMs alone.
        if child.stop.is_some() || self.shutting_down.is_some() || !row_wants_restart(&row, Occasion::Ended) {
            self.forget(key, &row, ctx);
            return;
        }
        child.answer_started();
        self.back_off((*row).clone(), ctx);
    }

    /// A stop that came after the sandbox's last transition: nobody may start it again after our death.
    fn record_late_stop(&mut self, key: &SandboxKey, row: Arc<SandboxRow>, by: StoppedBy, ctx: &mut Context<Self>) {
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let key = key.clone();
        let stop = async move {
            let stopped = Event::StopRequested(by.cause());
            (record_until_durable(&database, &faults, &row, stopped).await, row)
        };
        ctx.spawn(stop.into_actor(self).map(move |(stopped, row), this, ctx| {
            let row = match stopped {
                Ok(stopped) => {
                    let stopped = Arc::new(stopped);
                    this.note_row(&stopped);
                    stopped
                }
                Err(error) => {
                    tracing::error!(sandbox = %key, error = crate::driver::error_chain(&error), "a stop could not be recorded");
                    row
                }
            };
            this.forget(&key, &row, ctx);
        }));
    }

    /// BACKOFF, for a row that ended and is started again. The child's place is taken already.
    pub(super) fn back_off(&mut self, mut row: SandboxRow, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        row.boot_id.clone_from(&self.boot_id);
        let random = RandomState::new().hash_one(&key) >> 32;
        let jitter = f64::from(u32::try_from(random).unwrap_or(0)) / f64::from(u32::MAX);
        let pause = pause_before_restart(row.spec.restart_backoff, row.restarts_in_a_row, jitter);
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let until = Utc::now() + pause;
        let scheduled = Event::BackoffScheduled { until };
        let back_off = async move { record_until_durable(&database, &faults, &row, scheduled).await };
        ctx.spawn(back_off.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.note_row(&Arc::new(row));
                this.wait_for_restart(&key, pause, ctx);
            }
            Err(error) => {
                // The row still says that it ended, so the next orchestrator decides again.
                tracing::error!(sandbox = %key, error = crate::driver::error_chain(&error), "a restart could not be recorded");
                if let Some(child) = this.children.get_mut(&key) {
                    child.answer_ended();
                }
                this.children.remove(&key);
            }
        }));
    }

    /// Starts it after the pause, unless it was stopped while BACKOFF or an attempt was being recorded.
    pub(super) fn wait_for_restart(&mut self, key: &SandboxKey, pause: Duration, ctx: &mut Context<Self>) {
        match self.children.get(key).is_some_and(|child| child.stop.is_some()) {
            true => self.end_backoff(key, ctx),
            false => self.schedule(key, pause, ctx),
        }
    }

    /// The last step of a child; with `remove_on_end` its row and log go too. Whoever waited for the
    /// end is answered when the name is free.
    fn forget(&mut self, key: &SandboxKey, row: &Arc<SandboxRow>, ctx: &mut Context<Self>) {
        if lingers(row) {
            self.linger(row.clone(), ctx);
        }
        if !row.spec.remove_on_end || lingers(row) {
            self.answer_and_drop(key);
            return;
        }
        let removal = self.remove_everything(row);
        if let Some(child) = self.children.get_mut(key) {
            child.releasing = true;
        }
        let key = key.clone();
        ctx.spawn(removal.into_actor(self).map(move |removed, this, _| {
            if let Err(error) = removed {
                tracing::warn!(sandbox = %key, error = crate::driver::error_chain(&error), "removing an ended sandbox");
            }
            this.answer_and_drop(&key);
        }));
    }

    fn answer_and_drop(&mut self, key: &SandboxKey) {
        if let Some(mut child) = self.children.remove(key) {
            child.answer_ended();
        }
    }

    /// Log first: a row without files can be removed again, files without a row are found by nobody.
    pub(super) fn remove_everything(
        &self,
        row: &SandboxRow,
    ) -> impl Future<Output = Result<(), SupervisorError>> + use<> {
        let database = self.config.database.clone();
        let (id, key) = (row.id, row.spec.key.clone());
        let (log, vmm_log) = (self.config.state_dir.log(&key), self.config.state_dir.vmm_log(&key));
        let (dir, of_disk) = (self.config.state_dir.clone(), key.clone());
        let timings = self.config.timings.clone();
        async move {
            let files = move || {
                remove_files(&log)?;
                match std::fs::remove_file(&vmm_log) {
                    Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                        Err(LogError::File { action: "removing", path: vmm_log, source })
                    }
                    _ => Ok(()),
                }
            };
            let removed = tokio::task::spawn_blocking(files).await.map_err(|_| SupervisorError::Gone)?;
            timings.forget(&key);
            removed.map_err(|source| SupervisorError::RemoveLog { key, source })?;
            let disk = tokio::task::spawn_blocking(move || disks::remove_own(&dir, &of_disk)).await;
            disk.map_err(|_| SupervisorError::Gone)??;
            Ok(database.send(database::RemoveSandbox(id)).await??)
        }
    }

    /// The answer for a sandbox without a child: `NotFound`, or `NotLive` with its state.
    pub(super) fn not_live<T>(
        &self,
        key: &SandboxKey,
    ) -> impl Future<Output = Result<T, SupervisorError>> + Send + use<T> {
        let (database, key) = (self.config.database.clone(), key.clone());
        async move {
            Err(match database.send(GetSandbox(key.clone())).await?? {
                Some(row) => SupervisorError::NotLive { key, status: row.state.status().as_str() },
                None => SupervisorError::NotFound { key },
            })
        }
    }

    pub(super) fn refuse<T: 'static>(&self, error: SupervisorError) -> Answer<T> {
        Box::pin(async move { Err(error) }.into_actor(self))
    }
}

#[cfg(feature = "testing")]
crate::testing_panic::takes_panics!(Supervisor);

impl Actor for Supervisor {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }

    fn started(&mut self, ctx: &mut Self::Context) {
        self.inherit(ctx);
    }
}
