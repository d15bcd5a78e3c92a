//! How a child comes to its monitor: started, started again, adopted, given up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, MailboxError, Message, WrapFuture as _};
use chrono::Utc;
use nix::libc::SIGKILL;
use tokio_util::sync::CancellationToken;

use super::SupervisorError;
use super::actor::Supervisor;
use super::disks;
use super::succession::lives;
use crate::actor_ref::ActorRef;
use crate::counters::Counter;
use crate::database::{
    BeginStart, Database, DatabaseError, Flush, GetSandbox, Happening, RecordEvent, RecordTransition, SandboxRow,
    UpsertSandbox,
};
use crate::driver::{Driver, DriverError, Launch, VmmEvent};
use crate::faults::Faults;
use crate::hosting::{DownReason, host_on};
use crate::log_writer::{LogConfig, LogWriter};
use crate::monitor::{Abandon, Down, Monitor, MonitorConfig, StartMode};
use crate::spec::{SandboxKey, SandboxSpec, SpecError};
use crate::start_timings::{StartStep, StartTimings};
use crate::state::{Event, ExitStatus, FailureReason};
use crate::transition::advance;

/// How long an orphaned VMM may take to end after SIGKILL.
const GIVE_UP_LIMIT: Duration = Duration::from_secs(5);

/// Pause before what the database could not do is tried again.
pub(super) const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Applies one edge to a row that has no monitor and makes it durable.
pub(super) async fn record(
    database: &ActorRef<Database>,
    row: &SandboxRow,
    event: Event,
) -> Result<SandboxRow, SupervisorError> {
    match advance(row, &event, Utc::now(), None) {
        Ok(Some((row, record))) => {
            database.send(RecordTransition(record)).await??;
            Ok(row)
        }
        Ok(None) => Ok(row.clone()),
        Err(_) => Err(SupervisorError::AlreadyLive { key: row.spec.key.clone(), status: row.state.status().as_str() }),
    }
}

/// As [`record`], for what has happened or is decided whether the database can take it now or not: tries
/// until it is durable.
pub(super) async fn record_until_durable(
    database: &ActorRef<Database>,
    faults: &Faults,
    row: &SandboxRow,
    event: Event,
) -> Result<SandboxRow, SupervisorError> {
    loop {
        match record(database, row, event.clone()).await {
            Err(SupervisorError::Database(error)) if !matches!(error, DatabaseError::UnknownSandbox { .. }) => {
                let error = crate::driver::error_chain(&error);
                tracing::warn!(sandbox = %row.spec.key, error, "the state change is not durable yet");
                faults.count(Counter::DatabaseRetries);
                tokio::time::sleep(RETRY_PAUSE).await;
            }
            recorded => return recorded,
        }
    }
}

/// Asks when all is written that was sent before, also by an actor that has ended since: see [`Flush`].
pub(super) async fn settled<M, T>(database: &ActorRef<Database>, question: M) -> Result<M::Result, MailboxError>
where
    Database: Handler<M>,
    M: Message<Result = Result<T, DatabaseError>> + Clone + Send + 'static,
    T: Send + 'static,
{
    match flush(database).await? {
        Ok(()) => database.send(question).await,
        Err(error) => Ok(Err(error)),
    }
}

fn flush(database: &ActorRef<Database>) -> impl Future<Output = Result<Result<(), DatabaseError>, MailboxError>> {
    database.send(Flush)
}

/// What a start needs before it has a row.
pub(super) struct Reservation {
    pub(super) database: ActorRef<Database>,
    pub(super) spec: SandboxSpec,
    pub(super) driver: Arc<dyn Driver>,
    pub(super) supervisor_pid: u32,
    pub(super) boot_id: Option<String>,
    pub(super) timings: StartTimings,
    /// Cancelled when its end is asked for before it has a row.
    pub(super) cancel: CancellationToken,
}

impl Reservation {
    /// The row of a sandbox that is about to be started, durable and STARTING. An earlier one of its name is as it
    /// was until then.
    pub(super) async fn row(self) -> Result<SandboxRow, SupervisorError> {
        let Self { database, mut spec, driver, supervisor_pid, boot_id, timings, cancel } = self;
        let key = spec.key.clone();
        let checked = async {
            let checked = tokio::task::spawn_blocking(move || {
                crate::spec_on_host::check(&spec)?;
                // Recorded with the rest: a restart listens at the same ones.
                crate::spec_on_host::choose_free_ports(&mut spec.ports)?;
                Ok::<_, SpecError>(spec)
            });
            let spec = checked.await.map_err(|_| SupervisorError::Gone)??;
            // May read and unpack a whole kernel.
            driver.check(Arc::new(spec.clone())).await?;
            Ok::<_, SupervisorError>(spec)
        };
        let spec = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(SupervisorError::GivenUp { key }),
            spec = checked => spec?,
        };
        timings.mark(StartStep::Checked);
        let sandbox = UpsertSandbox { spec, supervisor_pid };
        let driver = driver.name().to_owned();
        let row = database.send(BeginStart { sandbox, driver, boot_id, requested_at: Utc::now() }).await??;
        timings.mark(StartStep::Recorded);
        Ok(row)
    }
}

impl Supervisor {
    pub(super) fn launch_of(&self, row: &SandboxRow) -> Launch {
        let key = &row.spec.key;
        Launch {
            spec: row.spec.clone(),
            generation: row.generation,
            runtime_dir: self.config.state_dir.runtime(key),
            vmm_log: self.config.state_dir.vmm_log(key),
            state_id: self.config.state_id.clone(),
            timings: self.config.timings.of_live(key),
            cancel: CancellationToken::new(),
        }
    }

    /// Gives a live row its log writer and its monitor.
    pub(super) fn host_child(
        &mut self,
        row: SandboxRow,
        driver: Arc<dyn Driver>,
        mode: StartMode,
        ctx: &mut Context<Self>,
    ) {
        let key = row.spec.key.clone();
        let generation = row.generation;
        let launch = self.launch_of(&row);
        let log_arbiter = self.log_arbiter(&key);
        let log_path = self.config.state_dir.log(&key);
        let supervisor = self.itself(ctx);
        let faults = self.config.faults.clone();
        if mode == StartMode::Launch {
            faults.count(if row.restarts > 0 { Counter::Restarts } else { Counter::Starts });
        }
        let child = self.children.entry(key.clone()).or_default();
        child.open_files = driver.capabilities().open_files(&row.spec);
        let log = child.log.take().filter(actix::Addr::connected).unwrap_or_else(|| {
            let (sandbox, faults) = (Some(key.clone()), faults.clone());
            let timings = launch.timings.clone();
            let open_logs = self.open_logs.clone();
            let begins_generation = mode == StartMode::Launch;
            let config = LogConfig::new(log_path, row.spec.log, generation);
            let config = LogConfig { begins_generation, open_logs, sandbox, faults, timings, ..config };
            let lost = LogLost { key: key.clone(), generation };
            let supervisor = supervisor.clone();
            let on_down = move |reason| {
                if reason == DownReason::Panicked {
                    supervisor.tell(lost);
                }
            };
            host_on(&log_arbiter, move || LogWriter::new(config), on_down)
        });
        let listener = supervisor.clone();
        let released = Arc::new(AtomicBool::new(false));
        let config = MonitorConfig {
            row: row.clone(),
            mode,
            driver,
            launch,
            log: log.clone(),
            database: self.config.database.clone(),
            faults,
            stale_disk: (row.restarts == 0).then(|| self.config.state_dir.sandbox_disk(&key)),
            released: released.clone(),
            on_change: Arc::new(move |changed| listener.tell(changed)),
        };
        let down_key = key.clone();
        let monitor = host_on(
            &self.config.control_arbiter,
            move || Monitor::new(config),
            move |reason| {
                let released = released.load(Ordering::Acquire);
                supervisor.tell(Down { key: down_key, generation, reason, released });
            },
        );
        if let Some(stop) = child.stop {
            monitor.do_send(stop);
        }
        child.log = Some(log);
        child.monitor = Some(monitor);
        let until_hosted = std::mem::take(&mut child.until_hosted);
        self.note_row(&Arc::new(row));
        for sender in until_hosted {
            let _ = sender.send(());
        }
    }

    /// An event for each actor that panicked. Nothing depends on it, so a failure is only told.
    pub(super) fn record_restart(&mut self, key: &SandboxKey, actor: &'static str, ctx: &mut Context<Self>) {
        let is_monitor = actor == "monitor";
        self.config.faults.count(if is_monitor { Counter::MonitorRestarts } else { Counter::LogWriterRestarts });
        let restarted = Happening::ActorRestarted { actor: actor.to_owned(), reason: "it panicked".to_owned() };
        let recorded = self.config.database.send(RecordEvent::now(Some(key.clone()), restarted));
        ctx.spawn(recorded.into_actor(self).map(|recorded, _, _| {
            if !matches!(recorded, Ok(Ok(()))) {
                tracing::warn!(?recorded, "an event could not be recorded");
            }
        }));
    }

    /// A live sandbox lost its monitor or its log writer: find the microVM again.
    pub(super) fn adopt_again(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let intensity = self.config.intensity;
        let Some(child) = self.children.get_mut(key) else { return };
        let may_go_on = child.losses.count(Instant::now(), intensity);
        self.find_again(key.clone(), may_go_on, ctx);
    }

    fn find_again(&mut self, key: SandboxKey, may_go_on: bool, ctx: &mut Context<Self>) {
        if self.children.get(&key).is_none_or(|child| lives(child.monitor.as_ref())) {
            return;
        }
        let database = self.config.database.clone();
        let wanted = key.clone();
        // What was told last can be older than what is durable, or is about to be.
        let read = async move { settled(&database, GetSandbox(wanted)).await };
        ctx.spawn(read.into_actor(self).map(move |row, this, ctx| match row {
            Ok(Ok(Some(row))) if row.state.is_live() && may_go_on => this.adopt(row, StartMode::Resume, ctx),
            Ok(Ok(Some(row))) if row.state.is_live() => this.give_up(row, ctx),
            Ok(Ok(Some(row))) => {
                this.note_row(&Arc::new(row));
                this.release_and_end(&key, ctx);
            }
            Ok(Ok(None)) => {
                tracing::error!(sandbox = %key, "the row was removed while its microVM lived");
                this.children.remove(&key);
            }
            // The microVM runs on meanwhile, and its waiter keeps its output.
            unread => {
                tracing::error!(sandbox = %key, ?unread, "the row of a live sandbox cannot be read; trying again");
                ctx.run_later(RETRY_PAUSE, move |this, ctx| this.find_again(key, may_go_on, ctx));
            }
        }));
    }

    /// Looks for the microVM of a live row.
    pub(super) fn adopt(&mut self, mut row: SandboxRow, mode: StartMode, ctx: &mut Context<Self>) {
        row.supervisor_pid = self.config.supervisor_pid;
        row.boot_id.clone_from(&self.boot_id);
        match self.driver_of(&row) {
            Ok(driver) => self.host_child(row, driver, mode, ctx),
            Err(error) => {
                tracing::error!(sandbox = %row.spec.key, error = %error.chain(), "a live sandbox's driver is not there");
                self.give_up(row, ctx);
            }
        }
    }

    pub(super) fn driver_of(&self, row: &SandboxRow) -> Result<Arc<dyn Driver>, DriverError> {
        let choice = row.driver.clone().map_or(crate::spec::DriverChoice::Auto, crate::spec::DriverChoice::Named);
        self.config.drivers.select(&choice, &row.spec)
    }

    /// Ends a microVM whose monitor failed too often; its sandbox is FAILED.
    fn give_up(&mut self, row: SandboxRow, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        let driver = self.driver_of(&row);
        let launch = self.launch_of(&row);
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let end = async move {
            if let Ok(driver) = driver
                && let Ok(mut vmm) = driver.adopt(launch).await
            {
                if let Err(error) = vmm.process.signal_vmm(SIGKILL) {
                    tracing::error!(error = %error.chain(), "a microVM that is given up could not be killed");
                }
                let gone = async {
                    while let Some(event) = vmm.events.recv().await {
                        if matches!(event, VmmEvent::VmmExited(_)) {
                            break;
                        }
                    }
                };
                let _ = tokio::time::timeout(GIVE_UP_LIMIT, gone).await;
                // Ends its waiter, and whatever runs under it still.
                if let Err(error) = vmm.process.release().await {
                    tracing::error!(error = %error.chain(), "a microVM that is given up could not be cleaned up");
                }
            }
            let message = "its monitor failed too often".to_owned();
            let faulted = Event::Faulted(FailureReason::Internal { message });
            let row = record_until_durable(&database, &faults, &row, faulted).await?;
            record_until_durable(&database, &faults, &row, Event::VmmExited(ExitStatus::Unknown)).await
        };
        ctx.spawn(end.into_actor(self).map(move |row, this, ctx| {
            match row {
                Ok(row) => this.note_row(&Arc::new(row)),
                Err(error) => tracing::error!(sandbox = %key, %error, "giving up a sandbox"),
            }
            this.on_ended(&key, ctx);
        }));
    }

    /// Starts a sandbox in BACKOFF again.
    pub(super) fn start_again(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        // It has fired: a stop from here on is the next monitor's, or the next attempt's.
        child.next_attempt = None;
        let Some(row) = child.row.clone() else { return };
        let driver = self.driver_of(&row);
        let database = self.config.database.clone();
        let key = key.clone();
        let timings = StartTimings::requested();
        self.config.timings.begin(&key, timings.clone());
        // Nothing ran since this start was asked for: whatever disk there is, is of an earlier one.
        let stale = (row.restarts == 0 && row.started_at.is_none()).then(|| self.config.state_dir.clone());
        let start = async move {
            let driver = driver?;
            if let Some(dir) = stale {
                let of = row.spec.key.clone();
                let removed = tokio::task::spawn_blocking(move || disks::remove_own(&dir, &of)).await;
                removed.map_err(|_| SupervisorError::Gone)??;
            }
            let row = record(&database, &row, Event::StartRequested).await?;
            timings.mark(StartStep::Recorded);
            Ok::<_, SupervisorError>((row, driver))
        };
        ctx.spawn(start.into_actor(self).map(move |started, this, ctx| match started {
            Ok((row, driver)) => this.host_child(row, driver, StartMode::Launch, ctx),
            Err(error) => {
                tracing::warn!(sandbox = %key, error = crate::driver::error_chain(&error), "a restart has to wait");
                this.wait_for_restart(&key, RETRY_PAUSE, ctx);
            }
        }));
    }

    pub(super) fn schedule(&mut self, key: &SandboxKey, pause: Duration, ctx: &mut Context<Self>) {
        let again = key.clone();
        let handle = ctx.run_later(pause, move |this, ctx| this.start_again(&again, ctx));
        if let Some(child) = self.children.get_mut(key) {
            child.next_attempt = Some(handle);
        }
    }
}

/// A log writer panicked.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
pub(super) struct LogLost {
    key: SandboxKey,
    generation: u64,
}

impl actix::Handler<LogLost> for Supervisor {
    type Result = ();

    /// One way back for every loss: the monitor lets go, and a new pair adopts the microVM.
    fn handle(&mut self, LogLost { key, generation }: LogLost, ctx: &mut Self::Context) {
        if let Some(child) = self.children.get_mut(&key)
            && child.row.as_ref().is_some_and(|row| row.generation == generation)
        {
            // One that lives is the lost one's successor.
            if !lives(child.log.as_ref()) {
                child.log = None;
                if let Some(monitor) = &child.monitor {
                    monitor.do_send(Abandon);
                }
            }
            self.record_restart(&key, "log_writer", ctx);
        }
    }
}
