//! A start by request, from the message to the answer.
//!
//! ```text
//!   StartSandbox ─▶ name free? room? ─▶ reserved ─▶ checked against this host, ─▶ on record ─▶ hosted ─▶ answered
//!                    │ no: refused        │           then against all that live                when RUNNING
//!                    │                    │ its end is asked for, or a check fails              or ended
//!                    ▼                    ▼
//!                  nothing was changed: an earlier run of the name is as it was
//! ```

use std::sync::Arc;

use actix::{ActorFutureExt as _, Handler, WrapFuture as _};
use chrono::Utc;
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::spec::{CheckedSpec, Rootfs, SandboxSpec, SpecError};
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
use super::helpers::Around;
use super::nesting::{LookUp, LookedUp};
use super::phase::Phase;
use super::{AwaitStarted, StartSandbox, SupervisorError, rename};
use crate::database::{BeginStart, Database, DatabaseError};
use crate::host::{room, spec_on_host};
use crate::monitor::StartMode;
use crate::runtime::actor_ref::ActorRef;
use crate::runtime::long_answer::LongAnswer;
use crate::telemetry::faults::Place;

impl Handler<StartSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, request: StartSandbox, ctx: &mut Self::Context) -> Self::Result {
        let key = request.spec.key.clone();
        if let Some(helper) = self.helper(&key) {
            return self.once_helper_is_gone(&key, &helper, request, ctx);
        }
        match self.around_helper(request.spec.helper_of.as_ref()) {
            Around::Free => {}
            Around::OnceReleased(of) => return self.once_released(&of, request, ctx),
            Around::Refused(refusal) => return self.refuse(refusal),
        }
        let asked = if request.again.is_some() { Request::StartAgain } else { Request::Start };
        let admitted = match self.shutting_down {
            Some(_) => Err(SupervisorError::ShuttingDown),
            None => self.admit(&key, asked).map_err(|refusal| refusal.error(key.clone(), self.status(&key), asked)),
        };
        let reserved = match admitted {
            Ok(When::Now) => self.reserve(request),
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
        let looked = reservation.look_at_host(self.look_up()).into_actor(self).then(|looked, this, _| {
            let placed = looked.and_then(|(reservation, places)| {
                let key = &reservation.spec.key;
                this.note_places(key, places);
                if let Err(nested) = this.check_places(key) {
                    this.forget_places(key);
                    return Err(nested.into());
                }
                Ok(reservation)
            });
            async move { placed?.record().await }.into_actor(this)
        });
        let hosted = looked.map(move |row, this, ctx| match row {
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
        StartSandbox { spec, again }: StartSandbox,
    ) -> Result<(Reservation, oneshot::Receiver<Arc<SandboxRow>>), SupervisorError> {
        let key = spec.key.clone();
        if let Rootfs::Image(image) = &spec.rootfs
            && image.digest.is_none()
        {
            return Err(SpecError::ImageUnresolved(image.reference.familiar()).into());
        }
        self.check_disk(spec.disk.name.as_ref())?;
        self.check_volumes(&spec)?;
        let driver = self.config.drivers.select(&spec.driver, &spec)?;
        let open_files = driver.capabilities().open_files(&spec);
        self.check_open_files(open_files)?;
        let timings = StartTimings::requested();
        let give_up = CancellationToken::new();
        let phase = Phase::Reserved { give_up: give_up.clone(), spec: spec.clone() };
        let mut child = Child::new(phase);
        child.open_files = open_files;
        let started = child.started();
        self.children.insert(key, child);
        let reservation = Reservation {
            database: self.config.database.clone(),
            state_dir: self.config.state_dir.clone(),
            reserve: self.config.reserve,
            spec,
            again,
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
    again: Option<SandboxId>,
    driver: Arc<dyn Driver>,
    supervisor_pid: u32,
    boot_id: Option<String>,
    timings: StartTimings,
    give_up: CancellationToken,
}

impl Reservation {
    /// Looks whether this host has what it needs, and where that lies. All that is found out once is in the specification
    /// then: a restart has the same ports and the same paths.
    async fn look_at_host(self, look_up: LookUp) -> Result<(Self, LookedUp), SupervisorError> {
        let (state_dir, reserve, spec) = (self.state_dir.clone(), self.reserve, self.spec.clone());
        let on_host = async {
            let looked = blocking(move || {
                room::check(state_dir.path(), reserve)?;
                spec_on_host::check(&spec)?;
                let spec = spec_on_host::resolve(spec)?;
                spec_on_host::make_named_volumes(&spec, &state_dir)?;
                let mut ports = spec.ports.clone();
                spec_on_host::choose_free_ports(&mut ports)?;
                Ok::<_, SupervisorError>(spec.with_ports(ports)?.with_kernel(None))
            });
            let spec = looked.await.map_err(|_| SupervisorError::Gone)??;
            let places = look_up.done(spec.clone().into()).await?;
            Ok::<_, SupervisorError>((spec, places))
        };
        let (spec, places) = self.unless_given_up(on_host).await?;
        Ok((Self { spec, ..self }, places))
    }

    /// The row of a sandbox that is about to be started, durable and STARTING. An earlier one of its name is as it
    /// was until then.
    async fn record(self) -> Result<SandboxRow, SupervisorError> {
        // May read and unpack a whole kernel.
        let checked = self.driver.check(self.spec.clone().into());
        let kernel = self.unless_given_up(async { Ok(checked.await?) }).await?;
        let Self { database, spec, again, driver, supervisor_pid, boot_id, timings, .. } = self;
        let spec: Arc<SandboxSpec> = spec.with_kernel(kernel).into();
        timings.mark(StartStep::Checked);
        let driver = driver.name().to_owned();
        let requested_at = Utc::now();
        let key = spec.key.clone();
        let begin = BeginStart { spec, supervisor_pid, driver, boot_id, again, requested_at };
        let row = database.send(begin).await?.map_err(|error| match error {
            // It was there when the start was asked for.
            DatabaseError::UnknownSandbox { .. } => SupervisorError::NotFound { key },
            error => rename::refused(error),
        })?;
        timings.mark(StartStep::Recorded);
        Ok(row)
    }

    async fn unless_given_up<T>(
        &self,
        work: impl Future<Output = Result<T, SupervisorError>>,
    ) -> Result<T, SupervisorError> {
        tokio::select! {
            biased;
            () = self.give_up.cancelled() => Err(SupervisorError::GivenUp { key: self.spec.key.clone() }),
            done = work => done,
        }
    }
}
