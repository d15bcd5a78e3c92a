//! The actor: requests in, children kept, ends heard.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::Arc;

use actix::{
    Actor, ActorFutureExt as _, Addr, ArbiterHandle, AsyncContext as _, Context, Handler, Recipient, ResponseActFuture,
    WrapFuture as _,
};
use chrono::Utc;
use futures::future::join_all;
use nix::libc::SIGKILL;
use tokio::sync::oneshot;

use super::child::Child;
use super::restart::{HEALTHY_AFTER, pause_before_restart};
use super::start::{record, reserve_row};
use super::{
    KillSandbox, OpenChannels, RemoveSandbox, Shutdown, StartSandbox, StopSandbox, SubscribeStateChanges,
    SupervisorError, WaitSandbox,
};
use crate::database::{self, Database, GetSandbox, SandboxRow};
use crate::driver::Drivers;
use crate::log_writer::{LogError, remove_files};
use crate::monitor::{Abandon, Channels, Down, GetChannels, Kill, StartMode, StateChanged, Stop};
use crate::spec::SandboxKey;
use crate::state::{Event, SandboxState, StopCause};
use crate::state_dir::StateDir;

/// Open files that one live sandbox takes in this process: two pidfds, two of the control port,
/// stdin, two outputs, log and index, and some for a follower or two.
const FILES_PER_SANDBOX: u64 = 12;
/// Open files of everything else in this process.
const FILES_BESIDE: u64 = 128;

pub(super) type Answer<T> = ResponseActFuture<Supervisor, Result<T, SupervisorError>>;

/// What the supervisor needs.
pub struct SupervisorConfig {
    /// Where everything lies.
    pub state_dir: StateDir,
    /// Tag of the state directory, for the argv of VMM processes.
    pub state_id: String,
    /// The drivers of this host.
    pub drivers: Drivers,
    /// The database actor.
    pub database: Addr<Database>,
    /// Where monitors run: the supervisor's own arbiter.
    pub control_arbiter: ArbiterHandle,
    /// Where log writers run; at least one.
    pub log_arbiters: Vec<ArbiterHandle>,
    /// This process, for the rows.
    pub supervisor_pid: u32,
    /// How many files this process may open.
    pub open_files_limit: u64,
}

/// The supervisor of all sandboxes of one state directory.
pub struct Supervisor {
    pub(super) config: SupervisorConfig,
    pub(super) children: HashMap<SandboxKey, Child>,
    subscribers: Vec<Recipient<StateChanged>>,
    shutting_down: Option<Shutdown>,
}

impl Supervisor {
    /// A supervisor without children; send [`Reconcile`] first.
    pub fn new(config: SupervisorConfig) -> Self {
        Self { config, children: HashMap::new(), subscribers: Vec::new(), shutting_down: None }
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
        let Some(row) = child.row.clone() else { return };
        let ran = row.started_at.zip(row.ended_at).and_then(|(from, to)| (to - from).to_std().ok());
        if ran.is_some_and(|ran| ran >= HEALTHY_AFTER) {
            child.restarts_in_a_row = 0;
        }
        let stop = child.stop.is_some() || self.shutting_down.is_some();
        let jitter =
            f64::from(u32::try_from(RandomState::new().hash_one(key) >> 32).unwrap_or(0)) / f64::from(u32::MAX);
        let pause = pause_before_restart(row.spec.restart, &row.state, stop, child.restarts_in_a_row, jitter);
        let Some(pause) = pause else {
            self.forget(key, &row, ctx);
            return;
        };
        child.restarts_in_a_row += 1;
        child.answer_started();
        let database = self.config.database.clone();
        let until = Utc::now() + pause;
        let back_off = async move { record(&database, &row, Event::BackoffScheduled { until }).await };
        let key = key.clone();
        ctx.spawn(back_off.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.note_row(&Arc::new(row));
                this.schedule(&key, pause, ctx);
            }
            Err(error) => {
                tracing::error!(sandbox = %key, error = crate::driver::error_chain(&error), "a restart could not be recorded");
                if let Some(child) = this.children.get_mut(&key) {
                    child.answer_ended();
                }
                this.children.remove(&key);
            }
        }));
    }

    /// The last step of a child; with `remove_on_end` its row and log go too. Whoever waited for the
    /// end is answered when the name is free.
    fn forget(&mut self, key: &SandboxKey, row: &SandboxRow, ctx: &mut Context<Self>) {
        if !row.spec.remove_on_end {
            self.answer_and_drop(key);
            return;
        }
        let removal = self.remove_everything(row);
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
            removed.map_err(|source| SupervisorError::RemoveLog { key, source })?;
            Ok(database.send(database::RemoveSandbox(id)).await??)
        }
    }

    /// Asks a child to end; resolves with its last row. `ask` is sent to its monitor.
    fn end_child<M>(
        &mut self,
        key: &SandboxKey,
        grace: std::time::Duration,
        ask: M,
        ctx: &mut Context<Self>,
    ) -> Answer<SandboxRow>
    where
        M: actix::Message<Result = Result<(), crate::monitor::MonitorError>> + Send + 'static,
        crate::monitor::Monitor: Handler<M>,
    {
        let Some(child) = self.children.get_mut(key).filter(|child| !child.removing) else {
            return self.not_live(key);
        };
        child.stop = Some(grace);
        let (sender, ended) = oneshot::channel();
        child.until_ended.push(sender);
        if let Some(monitor) = &child.monitor {
            // The answer is the row of the end; a monitor that ends meanwhile tells it by `Down`.
            let asked = monitor.send(ask);
            let key = key.clone();
            ctx.spawn(asked.into_actor(self).map(move |answer, _, _| {
                if let Ok(Err(error)) = answer {
                    tracing::debug!(sandbox = %key, %error, "asked to end");
                }
            }));
        } else if let Some(timer) = child.next_attempt.take() {
            ctx.cancel_future(timer);
            self.end_backoff(key, ctx);
        }
        let row = async move { ended.await.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone) };
        Box::pin(row.into_actor(self))
    }

    fn end_backoff(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(row) = self.children.get(key).and_then(|child| child.row.clone()) else { return };
        let database = self.config.database.clone();
        let key = key.clone();
        let stop = async move { record(&database, &row, Event::StopRequested(StopCause::Requested)).await };
        ctx.spawn(stop.into_actor(self).map(move |row, this, ctx| {
            match row {
                Ok(row) => this.note_row(&Arc::new(row)),
                Err(error) => tracing::error!(sandbox = %key, %error, "ending a pending restart"),
            }
            this.on_ended(&key, ctx);
        }));
    }

    /// The answer for a sandbox without a child: `NotFound`, or `NotLive` with its state.
    fn not_live<T: 'static>(&self, key: &SandboxKey) -> Answer<T> {
        let row = self.config.database.send(GetSandbox(key.clone()));
        let key = key.clone();
        let answer = async move {
            Err(match row.await?? {
                Some(row) => SupervisorError::NotLive { key, status: row.state.status() },
                None => SupervisorError::NotFound { key },
            })
        };
        Box::pin(answer.into_actor(self))
    }

    fn refuse<T: 'static>(&self, error: SupervisorError) -> Answer<T> {
        Box::pin(async move { Err(error) }.into_actor(self))
    }

    fn check_room(&self) -> Result<(), SupervisorError> {
        let live = self.children.len();
        let wanted = FILES_BESIDE + FILES_PER_SANDBOX * (u64::try_from(live).unwrap_or(u64::MAX / 64) + 1);
        let limit = self.config.open_files_limit;
        if wanted > limit { Err(SupervisorError::NoRoom { live, limit }) } else { Ok(()) }
    }
}

impl Actor for Supervisor {
    type Context = Context<Self>;
}

impl Handler<StartSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, StartSandbox { spec }: StartSandbox, _: &mut Self::Context) -> Self::Result {
        let key = spec.key.clone();
        if self.shutting_down.is_some() {
            return self.refuse(SupervisorError::ShuttingDown);
        }
        if let Err(error) = spec.check_values() {
            return self.refuse(error.into());
        }
        if let Some(child) = self.children.get(&key) {
            return self.refuse(SupervisorError::AlreadyLive { status: child.status(), key });
        }
        let driver = match self.check_room().and_then(|()| Ok(self.config.drivers.select(&spec.driver)?)) {
            Ok(driver) => driver,
            Err(error) => return self.refuse(error),
        };
        let mut child = Child::default();
        let (sender, started) = oneshot::channel();
        child.until_started.push(sender);
        self.children.insert(key.clone(), child);
        let row = reserve_row(self.config.database.clone(), spec, driver.name(), self.config.supervisor_pid);
        let hosted = row.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.host_child(row, driver, StartMode::Launch, ctx);
                Ok(started)
            }
            Err(error) => {
                this.children.remove(&key);
                Err(error)
            }
        });
        Box::pin(hosted.then(|started, this, _| {
            let row = async move { started?.await.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone) };
            row.into_actor(this)
        }))
    }
}

impl Handler<StopSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, StopSandbox { key, grace }: StopSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.end_child(&key, grace, Stop { grace }, ctx)
    }
}

impl Handler<KillSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, KillSandbox { key, signal }: KillSandbox, ctx: &mut Self::Context) -> Self::Result {
        if signal == SIGKILL {
            return self.end_child(&key, std::time::Duration::ZERO, Kill { signal }, ctx);
        }
        let Some(child) = self.children.get(&key) else { return self.not_live(&key) };
        let (Some(monitor), Some(row)) = (child.monitor.clone(), child.row.clone()) else { return self.not_live(&key) };
        let sent = async move {
            monitor.send(Kill { signal }).await??;
            Ok((*row).clone())
        };
        Box::pin(sent.into_actor(self))
    }
}

impl Handler<RemoveSandbox> for Supervisor {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveSandbox { key, force }: RemoveSandbox, ctx: &mut Self::Context) -> Self::Result {
        if let Some(child) = self.children.get(&key) {
            if !force || child.removing {
                return self.refuse(SupervisorError::AlreadyLive { status: child.status(), key });
            }
            let again = ctx.address();
            let killed = self.end_child(&key, std::time::Duration::ZERO, Kill { signal: SIGKILL }, ctx);
            return Box::pin(killed.then(move |killed, this, _| {
                let removed = async move {
                    killed?;
                    match again.send(RemoveSandbox { key, force: false }).await? {
                        // `remove_on_end` was faster.
                        Err(SupervisorError::NotFound { .. }) => Ok(()),
                        removed => removed,
                    }
                };
                removed.into_actor(this)
            }));
        }
        // The name stays taken until the last file is gone.
        self.children.insert(key.clone(), Child::in_removal());
        let row = self.config.database.send(GetSandbox(key.clone()));
        let missing = key.clone();
        let found = async move { row.await??.ok_or(SupervisorError::NotFound { key: missing }) };
        let removed = found.into_actor(self).then(|row, this, _| {
            let removal = row.map(|row| this.remove_everything(&row));
            async move { removal?.await }.into_actor(this)
        });
        Box::pin(removed.map(move |removed, this, _| {
            this.children.remove(&key);
            removed
        }))
    }
}

impl Handler<WaitSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, WaitSandbox { key }: WaitSandbox, _: &mut Self::Context) -> Self::Result {
        if let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) {
            let (sender, ended) = oneshot::channel();
            child.until_ended.push(sender);
            let row = async move { ended.await.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone) };
            return Box::pin(row.into_actor(self));
        }
        let row = self.config.database.send(GetSandbox(key.clone()));
        Box::pin(async move { row.await??.ok_or(SupervisorError::NotFound { key }) }.into_actor(self))
    }
}

impl Handler<OpenChannels> for Supervisor {
    type Result = Answer<Option<Channels>>;

    fn handle(&mut self, OpenChannels { key }: OpenChannels, _: &mut Self::Context) -> Self::Result {
        let monitor = self.children.get(&key).and_then(|child| child.monitor.clone());
        let channels = async move {
            let Some(monitor) = monitor else { return Ok(None) };
            // A monitor that has just ended is the same as none.
            Ok(monitor.send(GetChannels).await.ok().and_then(Result::ok))
        };
        Box::pin(channels.into_actor(self))
    }
}

impl Handler<SubscribeStateChanges> for Supervisor {
    type Result = ();

    fn handle(&mut self, SubscribeStateChanges { recipient }: SubscribeStateChanges, _: &mut Self::Context) {
        self.subscribers.push(recipient);
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, shutdown: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        self.shutting_down = Some(shutdown);
        let keys: Vec<SandboxKey> = self.children.keys().cloned().collect();
        let Some(grace) = shutdown.grace else {
            let mut ended = Vec::new();
            for key in keys {
                let Some(child) = self.children.get_mut(&key) else { continue };
                if let Some(monitor) = &child.monitor {
                    monitor.do_send(Abandon);
                    let (sender, receiver) = oneshot::channel();
                    child.until_ended.push(sender);
                    ended.push(receiver);
                }
            }
            return Box::pin(async move { drop(join_all(ended).await) }.into_actor(self));
        };
        let ends: Vec<_> = keys.iter().map(|key| self.end_child(key, grace, Stop { grace }, ctx)).collect();
        ends.into_iter().fold(Box::pin(actix::fut::ready(())) as ResponseActFuture<Self, ()>, |all, end| {
            Box::pin(all.then(|(), _, _| end).map(|_, _, _| ()))
        })
    }
}

impl Handler<StateChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, StateChanged { row }: StateChanged, _: &mut Self::Context) {
        self.note_row(&row);
    }
}

impl Handler<Down> for Supervisor {
    type Result = ();

    fn handle(&mut self, Down { key, generation, reason }: Down, ctx: &mut Self::Context) {
        let Some(child) = self.children.get_mut(&key) else { return };
        let Some(row) = child.row.clone().filter(|row| row.generation == generation) else { return };
        child.monitor = None;
        let leaving = self.shutting_down.is_some_and(|shutdown| shutdown.grace.is_none());
        if !row.state.is_live() {
            self.on_ended(&key, ctx);
        } else if leaving {
            // Answers those who wait for this end of ours; the microVM goes on.
            self.children.remove(&key);
        } else {
            tracing::warn!(sandbox = %key, ?reason, "a monitor was lost; its microVM is adopted by a new one");
            self.adopt_again(&key, ctx);
        }
    }
}
