//! Hosting a child: its log writer, the keeper of its jobs and its monitor are made, and their news and their ends are heard.
//!
//! ```text
//!   row on record ─▶ host ─▶ log writer + keeper + monitor ─▶ StateChanged … ─▶ Down
//!                                  │ panicked                           ├ end on record, released ─▶ on_ended
//!                                  ▼                                    ├ end on record ─▶ released, then on_ended
//!                            its monitor lets go ─────────────────────▶ └ live ─▶ adopted again
//! ```

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actix::{
    ActorFutureExt as _, Addr, ArbiterHandle, AsyncContext as _, Context, Handler, Recipient, WrapFuture as _,
};
use sandpen_types::event::EventKind;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::{FailureReason, SandboxState};
use sandpen_vmm::driver::{Driver, Launch};

use super::actor::Supervisor;
use super::child::Child;
use super::disks::begins_empty;
use super::phase::Phase;
use crate::database::RecordEvent;
use crate::jobs::{JobKeeper, KeeperConfig};
use crate::log_writer::{LogConfig, LogWriter};
use crate::monitor::{Abandon, Down, Monitor, MonitorConfig, StartMode, StateChanged};
use crate::runtime::hosting::{DownReason, host_on};
use crate::telemetry::counters::Counter;

impl Supervisor {
    /// Gives a live row its log writer and its monitor.
    pub(super) fn host(&mut self, row: SandboxRow, driver: Arc<dyn Driver>, mode: StartMode, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        let launch = self.launch_of(&row);
        let (kept_log, kept_jobs) = match self.children.get(&key).map(Child::phase) {
            Some(Phase::Lost { log, jobs }) => {
                (log.clone().filter(Addr::connected), jobs.clone().filter(Addr::connected))
            }
            Some(_) => (None, None),
            None => return,
        };
        if mode == StartMode::Launch {
            self.config.faults.count(if row.restarts > 0 { Counter::Restarts } else { Counter::Starts });
        }
        let open_files = driver.capabilities().open_files(&row.spec);
        let log = kept_log.unwrap_or_else(|| self.host_log(&row, &launch, mode, ctx));
        let jobs = kept_jobs.unwrap_or_else(|| self.host_keeper(&row, ctx));
        let monitor = self.host_monitor(&row, driver, launch, mode, (log.clone(), jobs.clone()), ctx);
        if let Some(child) = self.children.get_mut(&key) {
            if let Some(stop) = child.stop {
                monitor.do_send(stop);
            }
            child.open_files = open_files;
            child.enter(Phase::Hosted { monitor, log: Some(log), jobs: Some(jobs) });
        }
        self.note_row(&Arc::new(row));
    }

    fn host_log(&self, row: &SandboxRow, launch: &Launch, mode: StartMode, ctx: &Context<Self>) -> Addr<LogWriter> {
        let (key, generation) = (row.spec.key.clone(), row.generation);
        let config = LogConfig {
            begins_generation: mode == StartMode::Launch,
            open_logs: self.open_logs.clone(),
            sandbox: Some(key.clone()),
            faults: self.config.faults.clone(),
            timings: launch.timings.clone(),
            ..LogConfig::new(self.config.state_dir.log(&key), row.spec.log, generation)
        };
        let supervisor = self.itself(ctx);
        let arbiter = self.log_arbiter(&key);
        let on_down = move |reason| supervisor.tell(LogDown { key, generation, reason });
        host_on(&arbiter, move || LogWriter::new(config), on_down)
    }

    fn host_keeper(&self, row: &SandboxRow, ctx: &Context<Self>) -> Addr<JobKeeper> {
        let (key, generation) = (row.spec.key.clone(), row.generation);
        let config = KeeperConfig {
            row: row.clone(),
            state_dir: self.config.state_dir.clone(),
            log_arbiter: self.log_arbiter(&key),
            open_logs: self.open_logs.clone(),
            database: self.config.database.clone(),
            faults: self.config.faults.clone(),
        };
        let supervisor = self.itself(ctx);
        let on_down = move |reason| supervisor.tell(KeeperDown { key, generation, reason });
        host_on(&self.config.control_arbiter, move || JobKeeper::new(config), on_down)
    }

    fn host_monitor(
        &mut self,
        row: &SandboxRow,
        driver: Arc<dyn Driver>,
        launch: Launch,
        mode: StartMode,
        (log, jobs): (Addr<LogWriter>, Addr<JobKeeper>),
        ctx: &Context<Self>,
    ) -> Addr<Monitor> {
        let (key, generation) = (row.spec.key.clone(), row.generation);
        let supervisor = self.itself(ctx);
        let listener = supervisor.clone();
        let released = Arc::new(AtomicBool::new(false));
        let config = MonitorConfig {
            row: row.clone(),
            mode,
            refusal: self.refuse_nested(row, mode),
            driver,
            launch,
            log,
            jobs,
            database: self.config.database.clone(),
            faults: self.config.faults.clone(),
            stale_disk: begins_empty(row).then(|| self.config.state_dir.sandbox_disk(&key)),
            released: released.clone(),
            on_change: Arc::new(move |changed| listener.tell(changed)),
        };
        let on_down = move |reason| {
            let released = released.load(Ordering::Acquire);
            supervisor.tell(Down { key, generation, reason, released });
        };
        host_on(&self.config.control_arbiter, move || Monitor::new(config), on_down)
    }

    /// One sandbox's log always runs on the same thread.
    fn log_arbiter(&self, key: &SandboxKey) -> ArbiterHandle {
        let mut hasher = std::hash::DefaultHasher::new();
        std::hash::Hash::hash(key, &mut hasher);
        let arbiters = &self.config.log_arbiters;
        let count = u64::try_from(arbiters.len()).unwrap_or(1).max(1);
        let index = usize::try_from(std::hash::Hasher::finish(&hasher) % count).unwrap_or(0);
        arbiters.get(index).unwrap_or(&self.config.control_arbiter).clone()
    }

    /// Keeps a durable row and tells it.
    pub(super) fn note_row(&mut self, row: &Arc<SandboxRow>) {
        if let Some(child) = self.children.get_mut(&row.spec.key) {
            child.note_row(row.clone());
        }
        self.subscribers.retain(Recipient::connected);
        for subscriber in &self.subscribers {
            subscriber.do_send(StateChanged { row: row.clone() });
        }
    }

    /// An event for each actor that panicked. Nothing depends on it, so a failure is only told.
    fn record_restart(&mut self, key: &SandboxKey, actor: &'static str, counter: Counter, ctx: &mut Context<Self>) {
        self.config.faults.count(counter);
        let restarted = EventKind::ActorRestarted { actor: actor.to_owned(), reason: "it panicked".to_owned() };
        let recorded = self.config.database.send(RecordEvent::now(Some(key.clone()), restarted));
        ctx.spawn(recorded.into_actor(self).map(|recorded, _, _| {
            if !matches!(recorded, Ok(Ok(()))) {
                tracing::warn!(?recorded, "an event could not be recorded");
            }
        }));
    }
}

impl Handler<StateChanged> for Supervisor {
    type Result = ();

    fn handle(&mut self, StateChanged { row }: StateChanged, ctx: &mut Self::Context) {
        self.note_row(&row);
        if let SandboxState::Failed { reason: FailureReason::SpawnFailed { .. }, .. } = row.state {
            self.look_again(ctx);
        }
    }
}

impl Handler<Down> for Supervisor {
    type Result = ();

    fn handle(&mut self, Down { key, generation, reason, released }: Down, ctx: &mut Self::Context) {
        let child = self.children.get(&key);
        let Some(row) = child.and_then(|child| child.row()).filter(|row| row.generation == generation).cloned() else {
            return;
        };
        if reason == DownReason::Panicked {
            self.record_restart(&key, "monitor", Counter::MonitorRestarts, ctx);
        }
        let Some(child) = self.children.get_mut(&key) else { return };
        // One that lives is its successor, and one whose loss is known is being replaced.
        let Phase::Hosted { monitor, log, jobs } = child.phase() else { return };
        if monitor.connected() {
            return;
        }
        let leaving = self.shutting_down.is_some_and(|shutdown| shutdown.grace.is_none());
        if !row.state.is_live() {
            match released {
                true => self.on_ended(&key, ctx),
                false => self.release_and_end(&key, ctx),
            }
        } else if leaving {
            // Answers those who wait for this end of ours; the microVM goes on.
            self.children.remove(&key);
        } else {
            tracing::warn!(sandbox = %key, ?reason, "a monitor was lost; its microVM is adopted by a new one");
            let (log, jobs) = (log.clone().filter(Addr::connected), jobs.clone().filter(Addr::connected));
            child.enter(Phase::Lost { log, jobs });
            self.adopt_again(&key, ctx);
        }
    }
}

/// A log writer has ended: it closed the log, or panicked.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
struct LogDown {
    key: SandboxKey,
    generation: u64,
    reason: DownReason,
}

impl Handler<LogDown> for Supervisor {
    type Result = ();

    /// One way back for every loss: the monitor lets go, and a new pair adopts the microVM.
    fn handle(&mut self, LogDown { key, generation, reason }: LogDown, ctx: &mut Self::Context) {
        let Some(child) = self.children.get_mut(&key) else { return };
        if child.row().is_none_or(|row| row.generation != generation) {
            return;
        }
        // One that lives is its successor.
        if let Phase::Hosted { monitor, log: Some(log), .. } = child.phase()
            && !log.connected()
        {
            match reason {
                DownReason::Finished => child.log_closed(),
                DownReason::Panicked => monitor.do_send(Abandon),
            }
        }
        if reason == DownReason::Panicked {
            self.record_restart(&key, "log_writer", Counter::LogWriterRestarts, ctx);
        }
    }
}

/// A keeper of jobs has ended: each job has, or it panicked.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
struct KeeperDown {
    key: SandboxKey,
    generation: u64,
    reason: DownReason,
}

impl Handler<KeeperDown> for Supervisor {
    type Result = ();

    /// The same way back as for a log writer.
    fn handle(&mut self, KeeperDown { key, generation, reason }: KeeperDown, ctx: &mut Self::Context) {
        let Some(child) = self.children.get_mut(&key) else { return };
        if child.row().is_none_or(|row| row.generation != generation) {
            return;
        }
        if let Phase::Hosted { monitor, jobs: Some(jobs), .. } = child.phase()
            && !jobs.connected()
        {
            match reason {
                DownReason::Finished => child.jobs_closed(),
                DownReason::Panicked => monitor.do_send(Abandon),
            }
        }
        if reason == DownReason::Panicked {
            self.record_restart(&key, "job_keeper", Counter::JobKeeperRestarts, ctx);
        }
    }
}

#[cfg(feature = "testing")]
impl Handler<crate::testing::panic::InjectPanic> for Supervisor {
    type Result = bool;

    fn handle(&mut self, inject: crate::testing::panic::InjectPanic, ctx: &mut Self::Context) -> bool {
        use crate::testing::panic::{ActorKind, Panic};
        let panic = Panic(inject.place);
        let phase = inject.sandbox.as_ref().and_then(|key| self.children.get(key)).map(Child::phase);
        match (inject.actor, phase) {
            (ActorKind::Supervisor, _) => ctx.address().do_send(panic),
            (ActorKind::Database, _) => self.config.database.tell(panic),
            (ActorKind::Monitor, Some(Phase::Hosted { monitor, .. })) => monitor.do_send(panic),
            (ActorKind::LogWriter, Some(Phase::Hosted { log: Some(log), .. } | Phase::Lost { log: Some(log), .. })) => {
                log.do_send(panic);
            }
            (
                ActorKind::JobKeeper,
                Some(Phase::Hosted { jobs: Some(jobs), .. } | Phase::Lost { jobs: Some(jobs), .. }),
            ) => jobs.do_send(panic),
            _ => return false,
        }
        true
    }
}
