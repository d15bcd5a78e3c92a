//! The orchestrator's own thread: an actix System with one arbiter for control, one for the database
//! and some for logs, so that a flood of one kind cannot hold up another.

use std::sync::mpsc;
use std::thread::JoinHandle;

use actix::{Arbiter, System};
use futures::channel::oneshot;
use nix::sys::resource::{Resource, getrlimit};
use sandpen_actors::database::{Database, DatabaseError, DatabaseFile, RecordEvent, record_all};
use sandpen_actors::host::clock;
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::runtime::intensity::RestartIntensity;
use sandpen_actors::supervisor::{Reconcile, Supervisor, SupervisorConfig};
use sandpen_actors::telemetry::counters::Counter;
use sandpen_actors::telemetry::faults::Faults;
use sandpen_drivers::confine::rights::is_initial_root;
use sandpen_types::error_chain::error_chain;
use sandpen_types::event::EventKind;
use sandpen_types::reconcile::{Leftover, ReconcileReport};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::Drivers;
use sandpen_vmm::host_clock;
use sandpen_vmm::spare_descriptors;
use sandpen_vmm::start_timings::LatestTimings;
use sandpen_vmm::uid_block::UidBlock;

use super::error::StartError;
use super::runtime;

/// Threads for log writers. Moving bytes is the kernel's work; two keep a slow disk of one log from
/// holding up all others.
const LOG_ARBITERS: usize = 2;

/// A running thread.
pub(super) struct Started {
    pub(super) supervisor: ActorRef<Supervisor>,
    pub(super) database: ActorRef<Database>,
    pub(super) faults: Faults,
    pub(super) timings: LatestTimings,
    pub(super) stop: oneshot::Sender<()>,
    pub(super) thread: JoinHandle<()>,
}

type Ready = Result<(ActorRef<Supervisor>, ActorRef<Database>, Faults, LatestTimings), StartError>;

/// What a builder was told.
pub(super) struct Settings {
    pub(super) drivers: Drivers,
    pub(super) intensity: RestartIntensity,
    pub(super) reserve: Option<u64>,
}

/// Starts the thread and waits until its actors are ready.
pub(super) fn start(state_dir: StateDir, settings: Settings) -> Result<Started, StartError> {
    let (ready, is_ready) = mpsc::sync_channel::<Ready>(1);
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new()
        .name("sandpen".to_owned())
        .spawn(move || {
            let runtime = match runtime::make() {
                Ok(runtime) => runtime,
                Err(error) => return drop(ready.send(Err(StartError::Thread(error)))),
            };
            System::with_tokio_rt(|| runtime).block_on(run(state_dir, settings, &ready, stopped));
        })
        .map_err(StartError::Thread)?;
    match is_ready.recv() {
        Ok(Ok((supervisor, database, faults, timings))) => {
            Ok(Started { supervisor, database, faults, timings, stop, thread })
        }
        Ok(Err(error)) => {
            let _ = thread.join();
            Err(error)
        }
        Err(mpsc::RecvError) => {
            let _ = thread.join();
            Err(StartError::ThreadEnded)
        }
    }
}

/// Lives until `stopped` resolves: `shutdown`, or the owner was dropped.
async fn run(state_dir: StateDir, settings: Settings, ready: &mpsc::SyncSender<Ready>, stopped: oneshot::Receiver<()>) {
    let arbiter = || Arbiter::try_with_tokio_rt(runtime::make);
    let made = arbiter().and_then(|database| {
        let logs: Vec<_> = (0..LOG_ARBITERS).map(|_| arbiter()).collect::<Result<_, _>>()?;
        Ok((database, logs))
    });
    let (database_arbiter, log_arbiters) = match made {
        Ok(made) => made,
        // Those that were made end with the System.
        Err(error) => return drop(ready.send(Err(StartError::Thread(error)))),
    };
    match make_actors(&state_dir, settings, &database_arbiter, &log_arbiters).await {
        Ok(actors) => {
            let _ = ready.send(Ok(actors));
            let _ = stopped.await;
        }
        Err(error) => {
            let _ = ready.send(Err(error));
        }
    }
    for arbiter in log_arbiters.into_iter().chain([database_arbiter]) {
        arbiter.stop();
        if arbiter.join().is_err() {
            tracing::error!("an arbiter's thread panicked");
        }
    }
}

async fn make_actors(
    state_dir: &StateDir,
    settings: Settings,
    database_arbiter: &Arbiter,
    log_arbiters: &[Arbiter],
) -> Ready {
    let Settings { drivers, intensity, reserve } = settings;
    spare_descriptors::keep();
    let (faults, events) = Faults::new();
    let database = open_database(state_dir, database_arbiter, intensity, &faults).await?;
    let clock = faults.clone();
    actix_rt::spawn(async move {
        let look = move || {
            clock.look_at_clock();
            // Guests' clocks follow the host's.
            host_clock::was_set();
        };
        if let Err(error) = clock::watch(look).await {
            tracing::warn!(%error, "that the clock is set will be noticed later");
        }
    });
    // Ends with the database.
    actix_rt::spawn(record_all(database.clone(), faults.clone(), events));
    let started =
        EventKind::OrchestratorStarted { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").to_owned() };
    record(&database, started).await;
    let timings = LatestTimings::default();
    let config = SupervisorConfig {
        uids: uid_block(state_dir).await,
        state_dir: state_dir.clone(),
        state_id: crate::paths::state_id(state_dir),
        drivers,
        database: database.clone(),
        control_arbiter: Arbiter::current(),
        log_arbiters: log_arbiters.iter().map(Arbiter::handle).collect(),
        supervisor_pid: std::process::id(),
        open_files_limit: getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft),
        reserve,
        faults: faults.clone(),
        timings: timings.clone(),
        intensity,
    };
    let supervisor = Supervisor::keep_running(
        config,
        restarts_recorded(Counter::SupervisorRestarts, database.clone(), faults.clone()),
    );
    let report =
        supervisor.send(Reconcile).await.map_err(|_| StartError::ThreadEnded)?.map_err(StartError::Reconcile)?;
    tell_reconciled(&database, &faults, &report).await;
    Ok((supervisor, database, faults, timings))
}

/// The uids that sandboxes have as their own, where this process may give them.
async fn uid_block(state_dir: &StateDir) -> Option<UidBlock> {
    let path = state_dir.path().to_owned();
    let claimed = blocking(move || is_initial_root().then(|| UidBlock::claim(&path)));
    match claimed.await.ok()?? {
        Ok(block) => Some(block),
        Err(error) => {
            let error = error_chain(&error);
            tracing::warn!(error, "sandboxes have no uids of their own: their processes run as root, in jails");
            None
        }
    }
}

/// Logs what a reconciliation found, and records it if it found anything.
pub(super) async fn tell_reconciled(database: &ActorRef<Database>, faults: &Faults, report: &ReconcileReport) {
    let ReconcileReport { adopted, resolved, leftovers } = report;
    for key in adopted {
        tracing::info!(sandbox = %key, "taken over from an earlier run");
    }
    for key in resolved {
        tracing::warn!(sandbox = %key, "its microVM had ended unseen; what is true is recorded");
    }
    for Leftover { kind, what, error, .. } in leftovers {
        match error {
            None => tracing::info!(%kind, what, "removed what belonged to nobody"),
            Some(error) => tracing::warn!(%kind, what, error, "what belongs to nobody cannot be removed"),
        }
    }
    if !adopted.is_empty() || !resolved.is_empty() || !leftovers.is_empty() {
        let count = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        let removed = count(leftovers.iter().filter(|leftover| leftover.error.is_none()).count());
        let (adopted, resolved) = (count(adopted.len()), count(resolved.len()));
        faults.counters().add(Counter::Adopted, adopted);
        record(database, EventKind::Reconciled { adopted, resolved, removed }).await;
    }
}

/// Records an event of this orchestrator. Nothing depends on it, so a failure is only told.
pub(super) async fn record(database: &ActorRef<Database>, kind: EventKind) {
    match database.send(RecordEvent::now(None, kind)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(error = error_chain(&error), "an event could not be recorded"),
        Err(error) => tracing::warn!(%error, "an event could not be recorded"),
    }
}

/// sqlx needs its runtime: the database is opened on the arbiter it will live on.
async fn open_database(
    state_dir: &StateDir,
    arbiter: &Arbiter,
    intensity: RestartIntensity,
    faults: &Faults,
) -> Result<ActorRef<Database>, StartError> {
    let (opened, opening) = oneshot::channel::<Result<DatabaseFile, DatabaseError>>();
    let (path, told) = (state_dir.database(), faults.clone());
    arbiter.spawn(async move {
        let _ = opened.send(DatabaseFile::open(&path, told).await);
    });
    let file = opening.await.map_err(|_| StartError::ThreadEnded)??;
    // Its own restarts are recorded by those who follow.
    let (restarted, mut restarts) = tokio::sync::mpsc::unbounded_channel();
    let database = Database::keep_running(file, arbiter.handle(), intensity, move || {
        let _ = restarted.send(());
    });
    let mut told = restarts_recorded(Counter::DatabaseRestarts, database.clone(), faults.clone());
    actix_rt::spawn(async move {
        while restarts.recv().await.is_some() {
            told();
        }
    });
    Ok(database)
}

/// Records each restart of an actor as an event.
fn restarts_recorded(counter: Counter, database: ActorRef<Database>, faults: Faults) -> impl FnMut() + 'static {
    move || {
        faults.count(counter);
        let actor = counter.name().label.map_or("", |(_, actor)| actor);
        let database = database.clone();
        let restarted = EventKind::ActorRestarted { actor: actor.to_owned(), reason: "it panicked".to_owned() };
        actix_rt::spawn(async move { record(&database, restarted).await });
    }
}
