//! A start by request, from the message to the answer.
//!
//! ```text
//!   StartSandbox ─▶ name free? room? ─▶ reserved ─▶ checked against this host ─▶ on record ─▶ hosted ─▶ answered
//!                    │ no: refused        │ its end is asked for, or a check fails             when RUNNING
//!                    ▼                    ▼                                                    or ended
//!                  nothing was changed: an earlier run of the name is as it was
//! ```

use std::sync::Arc;

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use chrono::Utc;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{CheckedSpec, SandboxSpec};
use sandpen_types::start_step::StartStep;
use sandpen_types::state::SandboxState;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::Driver;
use sandpen_vmm::start_timings::StartTimings;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::actor::{Answer, Supervisor};
use super::admits::{Request, When};
use super::child::Child;
use super::phase::Phase;
use super::{AwaitStarted, StartSandbox, SupervisorError};
use crate::database::{BeginStart, Database};
use crate::host::{room, spec_on_host};
use crate::monitor::StartMode;
use crate::runtime::actor_ref::ActorRef;
use crate::runtime::long_answer::LongAnswer;
use crate::telemetry::faults::Place;

impl Handler<StartSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, request: StartSandbox, ctx: &mut Self::Context) -> Self::Result {
        let key = request.spec.key.clone();
        let admitted = match self.shutting_down {
            Some(_) => Err(SupervisorError::ShuttingDown),
            None => self.admit(&key, Request::Start).map_err(|refusal| refusal.error(key.clone(), self.status(&key))),
        };
        let reserved = match admitted {
            Ok(When::Now) => self.reserve(request.spec),
            Ok(_) => return self.once_released(&key, request, ctx),
            Err(refusal) => Err(refusal),
        };
        let (reservation, started) = match reserved {
            Ok(reserved) => reserved,
            Err(refusal) => {
                self.note_refusal(&refusal, ctx);
                return self.refuse(refusal);
            }
        };
        let (driver, timings) = (reservation.driver.clone(), reservation.timings.clone());
        let hosted = reservation.record().into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.config.faults.clear(&Place::StateDir);
                this.config.timings.begin(&key, timings);
                this.host(row, driver, StartMode::Launch, ctx);
                Ok(started)
            }
            Err(error) => {
                this.children.remove(&key);
                this.note_refusal(&error, ctx);
                Err(error)
            }
        });
        Box::pin(hosted.then(|started, this, _| {
            let row = async move { started?.await.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone) };
            row.into_actor(this)
        }))
    }
}

impl Handler<AwaitStarted> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, AwaitStarted { key }: AwaitStarted, _: &mut Self::Context) -> Self::Result {
        let Ok(child) = self.admitted(&key, Request::AwaitStarted) else { return LongAnswer::of(self.not_live(&key)) };
        let started = child.started();
        if child.row().is_some_and(|row| !matches!(row.state, SandboxState::Created | SandboxState::Starting)) {
            child.answer_started();
        }
        LongAnswer::when(started, |row| Ok((*row).clone()))
    }
}

impl Supervisor {
    /// Takes the name, if there is room for one more; answers who will hear of the start too.
    fn reserve(
        &mut self,
        spec: CheckedSpec,
    ) -> Result<(Reservation, oneshot::Receiver<Arc<SandboxRow>>), SupervisorError> {
        let key = spec.key.clone();
        self.check_disk(spec.disk.name.as_ref())?;
        let driver = self.config.drivers.select(&spec.driver, &spec)?;
        let open_files = driver.capabilities().open_files(&spec);
        self.check_open_files(open_files)?;
        let timings = StartTimings::requested();
        let give_up = CancellationToken::new();
        let phase = Phase::Reserved { give_up: give_up.clone(), disk: spec.disk.name.clone() };
        let mut child = Child::new(phase);
        child.open_files = open_files;
        let started = child.started();
        self.children.insert(key, child);
        let reservation = Reservation {
            database: self.config.database.clone(),
            state_dir: self.config.state_dir.clone(),
            reserve: self.config.reserve,
            spec,
            driver,
            supervisor_pid: self.config.supervisor_pid,
            boot_id: self.boot_id.clone(),
            timings,
            give_up,
        };
        Ok((reservation, started))
    }
}

/// What a start needs before it has a row.
struct Reservation {
    database: ActorRef<Database>,
    state_dir: StateDir,
    reserve: Option<u64>,
    spec: CheckedSpec,
    driver: Arc<dyn Driver>,
    supervisor_pid: u32,
    boot_id: Option<String>,
    timings: StartTimings,
    give_up: CancellationToken,
}

impl Reservation {
    /// The row of a sandbox that is about to be started, durable and STARTING. An earlier one of its name is as it
    /// was until then.
    async fn record(self) -> Result<SandboxRow, SupervisorError> {
        let Self { database, state_dir, reserve, spec, driver, supervisor_pid, boot_id, timings, give_up } = self;
        let key = spec.key.clone();
        let checked = async {
            let on_host = blocking(move || {
                room::check(state_dir.path(), reserve)?;
                spec_on_host::check(&spec)?;
                let spec = spec_on_host::resolve(spec)?;
                // Recorded with the rest: a restart listens at the same ones.
                let mut ports = spec.ports.clone();
                spec_on_host::choose_free_ports(&mut ports)?;
                Ok::<_, SupervisorError>(Arc::from(spec.with_ports(ports)?))
            });
            let spec: Arc<SandboxSpec> = on_host.await.map_err(|_| SupervisorError::Gone)??;
            // May read and unpack a whole kernel.
            driver.check(spec.clone()).await?;
            Ok::<_, SupervisorError>(spec)
        };
        let spec = tokio::select! {
            biased;
            () = give_up.cancelled() => return Err(SupervisorError::GivenUp { key }),
            spec = checked => spec?,
        };
        timings.mark(StartStep::Checked);
        let driver = driver.name().to_owned();
        let row =
            database.send(BeginStart { spec, supervisor_pid, driver, boot_id, requested_at: Utc::now() }).await??;
        timings.mark(StartStep::Recorded);
        Ok(row)
    }
}
