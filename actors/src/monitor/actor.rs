//! The actor around [`Life`]: hands commands to it, one at a time, and ends with it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, Addr, AsyncContext as _, Context, Handler, ResponseActFuture,
    ResponseFuture, WrapFuture as _,
};
use sandpen_types::row::SandboxRow;
use sandpen_types::state::{SandboxState, Status};
use sandpen_vmm::driver::{Driver, DriverError, GuestSession, Launch};
use tokio::sync::{mpsc, oneshot, watch};
use tracing::Instrument as _;

use super::ending::Command;
use super::life::{Life, Microvm};
use super::used_guest::UsedGuest;
use super::{Abandon, AwaitProcess, GetGuest, GetState, Kill, MonitorError, StateChanged, Stop};
use crate::database::Database;
use crate::jobs::JobKeeper;
use crate::log_writer::LogWriter;
use crate::runtime::actor_ref::ActorRef;
use crate::telemetry::faults::Faults;

/// Commands waiting for the life to take them; senders wait beyond that.
const COMMAND_QUEUE: usize = 16;

/// Whether the microVM is made or found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartMode {
    /// Made. The row is STARTING.
    Launch,
    /// Found again; its state may have changed while nobody watched. The row is live.
    Adopt,
    /// Found again after its monitor was lost under this very orchestrator: where nothing had been made
    /// yet, it is made.
    Resume,
}

/// What a monitor needs.
pub struct MonitorConfig {
    /// The sandbox's row, live.
    pub row: SandboxRow,
    /// Make or find.
    pub mode: StartMode,
    /// Why no microVM may be made.
    pub refusal: Option<DriverError>,
    /// The driver.
    pub driver: Arc<dyn Driver>,
    /// What the driver is told.
    pub launch: Launch,
    /// The sandbox's log.
    pub log: Addr<LogWriter>,
    /// Who keeps its jobs.
    pub jobs: Addr<JobKeeper>,
    /// The database.
    pub database: ActorRef<Database>,
    /// Counts.
    pub faults: Faults,
    /// The disk of an earlier run of this name, which goes before the launch.
    pub stale_disk: Option<PathBuf>,
    /// Set once nothing is left of the microVM.
    pub released: Arc<AtomicBool>,
    /// Hears of every durable state change; runs on the monitor's arbiter.
    pub on_change: Arc<dyn Fn(StateChanged) + Send + Sync>,
}

/// The monitor of one microVM.
pub struct Monitor {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing::panic::Bomb,
    life: Option<Life>,
    commands: mpsc::Sender<Command>,
    state: watch::Receiver<SandboxState>,
    /// Names the sandbox in each message of its life.
    span: tracing::Span,
    microvm: watch::Receiver<Option<Microvm>>,
    /// How often the guest was used, where that counts.
    uses: Option<Arc<AtomicU64>>,
}

impl Monitor {
    /// A monitor that begins when it is started as an actor.
    pub fn new(config: MonitorConfig) -> Self {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (state_sender, state) = watch::channel(config.row.state.clone());
        let (microvm_sender, microvm) = watch::channel(None);
        let counted = Arc::new(AtomicU64::new(0));
        let uses = config.row.spec.idle_timeout.map(|_| counted.clone());
        // Of the highest level, so that it is there for every message that is.
        let span = tracing::error_span!("life", sandbox = %config.row.spec.key, generation = config.row.generation);
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing::panic::Bomb::new(crate::testing::panic::ActorKind::Monitor),
            life: Some(Life::new(config, inbox, state_sender, microvm_sender, counted)),
            commands,
            state,
            span,
            microvm,
            uses,
        }
    }

    fn pass_on<T: 'static>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> ResponseActFuture<Self, Result<T, MonitorError>> {
        let (reply, answer) = oneshot::channel();
        let command = command(reply);
        let commands = self.commands.clone();
        let passed = async move {
            commands.send(command).await.map_err(|_| MonitorError::Ended)?;
            answer.await.map_err(|_| MonitorError::Ended)
        };
        Box::pin(passed.into_actor(self))
    }
}

#[cfg(feature = "testing")]
crate::testing::panic::takes_panics!(Monitor);

impl Actor for Monitor {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }

    fn started(&mut self, ctx: &mut Self::Context) {
        if let Some(life) = self.life.take() {
            let live = life.live().instrument(self.span.clone());
            ctx.spawn(live.into_actor(self).map(|(), _, ctx| ctx.stop()));
        }
    }
}

impl Handler<Stop> for Monitor {
    type Result = ResponseActFuture<Self, Result<(), MonitorError>>;

    fn handle(&mut self, Stop { grace, signal, by }: Stop, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.pass_on(|reply| Command::Stop { grace, signal, by, reply }).map(|answer, _, _| answer?))
    }
}

impl Handler<Kill> for Monitor {
    type Result = ResponseActFuture<Self, Result<(), MonitorError>>;

    fn handle(&mut self, Kill { signal }: Kill, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.pass_on(|reply| Command::Kill { signal, reply }).map(|answer, _, _| answer?))
    }
}

impl Handler<Abandon> for Monitor {
    type Result = ();

    fn handle(&mut self, _: Abandon, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<GetState> for Monitor {
    type Result = actix::MessageResult<GetState>;

    fn handle(&mut self, _: GetState, _: &mut Self::Context) -> Self::Result {
        actix::MessageResult(self.state.borrow().clone())
    }
}

impl Handler<AwaitProcess> for Monitor {
    type Result = ResponseActFuture<Self, Result<(), MonitorError>>;

    fn handle(&mut self, _: AwaitProcess, _: &mut Self::Context) -> Self::Result {
        let mut microvm = self.microvm.clone();
        let there = async move { microvm.wait_for(Option::is_some).await.map(drop).map_err(|_| MonitorError::Ended) };
        Box::pin(there.into_actor(self))
    }
}

impl Handler<GetGuest> for Monitor {
    type Result = ResponseFuture<Option<Arc<dyn GuestSession>>>;

    fn handle(&mut self, _: GetGuest, _: &mut Self::Context) -> Self::Result {
        let (mut microvm, uses) = (self.microvm.clone(), self.uses.clone());
        // What runs has a microVM, which this monitor may still be looking for.
        let is_there = self.state.borrow().status() == Status::Running;
        Box::pin(async move {
            if is_there {
                microvm.wait_for(Option::is_some).await.ok()?;
            }
            let guest = microvm.borrow().as_ref()?.guest.clone();
            Some(match uses {
                Some(uses) => Arc::new(UsedGuest { guest, uses }),
                None => guest,
            })
        })
    }
}
