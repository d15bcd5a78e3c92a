//! One handler per message: requests in, ends heard.

use actix::{ActorFutureExt as _, Addr, AsyncContext as _, Handler, ResponseActFuture, WrapFuture as _};
use futures::future::{OptionFuture, join_all};
use tokio_util::sync::CancellationToken;

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::start::Reservation;
use super::stop::End;
use super::succession::lives;
use super::{
    AwaitRestart, AwaitStarted, OpenChannels, RemoveSandbox, Shutdown, StartSandbox, SubscribeStateChanges,
    SupervisorError, WaitSandbox,
};
use crate::counters::Counter;
use crate::database::{GetSandbox, SandboxRow};
use crate::faults::Place;
use crate::hosting::DownReason;
use crate::long_answer::LongAnswer;
use crate::monitor::{Abandon, AwaitProcess, Channels, Down, GetChannels, Monitor, StartMode, StateChanged, Stop};
use crate::spec::{SandboxKey, SandboxSpec};
use crate::start_timings::StartTimings;
use crate::state::{FailureReason, SandboxState, StoppedBy};

/// How long a launch that is under way may take when the orchestrator ends without its sandboxes; one that takes
/// longer is given up. It takes some tenths of a second, unless an image or a kernel is made for it.
const LAUNCH_LIMIT: std::time::Duration = std::time::Duration::from_secs(10);
/// How long the last events may take to be recorded when everything ends.
const FLUSH_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

impl Handler<StartSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, StartSandbox { spec }: StartSandbox, ctx: &mut Self::Context) -> Self::Result {
        let key = spec.key.clone();
        if self.shutting_down.is_none()
            && spec.check_values().is_ok()
            && let Some(later) = self.when_released(&key, StartSandbox { spec: spec.clone() }, ctx)
        {
            return later;
        }
        Box::pin(self.start(spec).map(|started, this, ctx| {
            if let Err(refusal) = &started {
                this.note_refusal(refusal, ctx);
            }
            started
        }))
    }
}

impl Supervisor {
    fn start(&mut self, spec: SandboxSpec) -> Answer<SandboxRow> {
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
        let driver = self.check_disk(spec.disk.name.as_ref()).and_then(|()| {
            let driver = self.config.drivers.select(&spec.driver, &spec)?;
            self.check_open_files(driver.capabilities().open_files(&spec))?;
            Ok(driver)
        });
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => return self.refuse(error),
        };
        let timings = StartTimings::requested();
        let cancel = CancellationToken::new();
        let mut child =
            Child { open_files: driver.capabilities().open_files(&spec), ..Child::with_disk(spec.disk.name.clone()) };
        child.reserving = Some(cancel.clone());
        let started = child.started();
        self.children.insert(key.clone(), child);
        let reservation = Reservation {
            database: self.config.database.clone(),
            spec,
            driver: driver.clone(),
            supervisor_pid: self.config.supervisor_pid,
            boot_id: self.boot_id.clone(),
            timings: timings.clone(),
            cancel,
        };
        let room = self.disk_room();
        let row = async move {
            room.await?;
            reservation.row().await
        };
        let hosted = row.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                if let Some(child) = this.children.get_mut(&key) {
                    child.reserving = None;
                }
                this.config.faults.clear(&Place::StateDir);
                this.config.timings.begin(&key, timings);
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

impl Handler<AwaitStarted> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, AwaitStarted { key }: AwaitStarted, _: &mut Self::Context) -> Self::Result {
        let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) else {
            return LongAnswer::of(self.not_live(&key));
        };
        let started = child.started();
        if child.row.as_ref().is_some_and(|row| !matches!(row.state, SandboxState::Created | SandboxState::Starting)) {
            child.answer_started();
        }
        LongAnswer::when(started, |row| Ok((*row).clone()))
    }
}

impl Handler<RemoveSandbox> for Supervisor {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveSandbox { key, force }: RemoveSandbox, ctx: &mut Self::Context) -> Self::Result {
        if !force && let Some(later) = self.when_released(&key, RemoveSandbox { key: key.clone(), force }, ctx) {
            return later;
        }
        if let Some(child) = self.children.get(&key) {
            if !force || child.removing {
                return self.refuse(SupervisorError::AlreadyLive { status: child.status(), key });
            }
            let again = ctx.address();
            let killed = self.end_child(&key, End::Kill, ctx).into_actor(self);
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
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, WaitSandbox { key }: WaitSandbox, _: &mut Self::Context) -> Self::Result {
        if let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) {
            return LongAnswer::when(child.ended(), |row| Ok((*row).clone()));
        }
        let row = self.config.database.send(GetSandbox(key.clone()));
        let is_leaving = self.shutting_down.is_some();
        LongAnswer::of(async move {
            match row.await??.ok_or(SupervisorError::NotFound { key })? {
                // The next orchestrator's to wait for.
                row if is_leaving && !row.state.is_ended() => Err(SupervisorError::ShuttingDown),
                row => Ok(row),
            }
        })
    }
}

impl Handler<OpenChannels> for Supervisor {
    type Result = Answer<Option<Channels>>;

    fn handle(&mut self, OpenChannels { key }: OpenChannels, _: &mut Self::Context) -> Self::Result {
        // Between two monitors of one microVM, the second one is waited for.
        let child = self.children.get_mut(&key).filter(|child| {
            child.row.as_ref().is_some_and(|row| row.state.is_live()) && !lives(child.monitor.as_ref())
        });
        let hosted = OptionFuture::from(child.map(Child::hosted)).into_actor(self);
        let monitor = hosted.map(move |_, this, _| this.children.get(&key).and_then(|child| child.monitor.clone()));
        let channels = |monitor: Option<Addr<Monitor>>| async move {
            let Some(monitor) = monitor else { return Ok(None) };
            // A monitor that has just ended is the same as none.
            Ok(monitor.send(GetChannels).await.ok().and_then(Result::ok))
        };
        Box::pin(monitor.then(move |monitor, this, _| channels(monitor).into_actor(this)))
    }
}

impl Handler<AwaitRestart> for Supervisor {
    type Result = LongAnswer<Result<Option<u64>, SupervisorError>>;

    fn handle(&mut self, AwaitRestart { key, after }: AwaitRestart, ctx: &mut Self::Context) -> Self::Result {
        let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) else {
            return LongAnswer::of(async { Ok(None) });
        };
        let generation = child.row.as_ref().filter(|_| child.monitor.is_some()).map(|row| row.generation);
        if let Some(generation) = generation.filter(|generation| *generation > after) {
            return LongAnswer::of(async move { Ok(Some(generation)) });
        }
        // The end of the child drops the sender.
        let next = child.hosted();
        let supervisor = self.itself(ctx);
        LongAnswer::of(async move {
            let _ = next.await;
            supervisor.send(AwaitRestart { key, after }).await?
        })
    }
}

impl Handler<SubscribeStateChanges> for Supervisor {
    type Result = ();

    fn handle(&mut self, SubscribeStateChanges { recipient }: SubscribeStateChanges, _: &mut Self::Context) {
        self.subscribers.push(recipient);
    }
}

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseActFuture<Self, Vec<SandboxKey>>;

    fn handle(&mut self, shutdown: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        self.shutting_down = Some(shutdown);
        let mut keys: Vec<SandboxKey> = self.children.keys().cloned().collect();
        keys.sort();
        let Some(grace) = shutdown.grace else {
            let mut ended = Vec::new();
            for key in keys {
                let Some(child) = self.children.get_mut(&key) else { continue };
                if let Some(monitor) = child.monitor.clone() {
                    let told = child.ended();
                    ended.push(async move {
                        // A microVM that is just being made is there for the next orchestrator then.
                        let _ = tokio::time::timeout(LAUNCH_LIMIT, monitor.send(AwaitProcess)).await;
                        monitor.do_send(Abandon);
                        let _ = told.await;
                    });
                }
            }
            let ended = async move { drop(join_all(ended).await) };
            return Box::pin(ended.into_actor(self).then(|(), this, _| this.flush_events(Vec::new())));
        };
        let stop = Stop { grace, by: StoppedBy::Shutdown };
        let ends: Vec<_> = keys.iter().map(|key| self.end_child(key, End::Stop(stop), ctx).into_actor(self)).collect();
        let nobody = Box::pin(actix::fut::ready(Vec::new())) as ResponseActFuture<Self, Vec<SandboxKey>>;
        let all = ends.into_iter().fold(nobody, |all, end| {
            Box::pin(all.then(|mut unrecorded, _, _| {
                end.map(move |end, this: &mut Self, _| {
                    if let Err(SupervisorError::Unrecorded { key, .. }) = end {
                        this.leave_unrecorded(&key);
                        unrecorded.push(key);
                    }
                    unrecorded
                })
            }))
        });
        Box::pin(all.then(|unrecorded, this, _| this.flush_events(unrecorded)))
    }
}

impl Supervisor {
    /// Lets go of a microVM whose end is the next orchestrator's to record: its waiter keeps what it has.
    fn leave_unrecorded(&mut self, key: &SandboxKey) {
        tracing::warn!(sandbox = %key, "its end cannot be recorded now and is left to the next start");
        self.config.faults.count(Counter::LeftUnrecorded);
        if let Some(monitor) = self.children.remove(key).and_then(|child| child.monitor) {
            monitor.do_send(Abandon);
        }
    }

    /// Gives events that wait a last moment to be recorded.
    fn flush_events(&self, unrecorded: Vec<SandboxKey>) -> ResponseActFuture<Self, Vec<SandboxKey>> {
        let faults = self.config.faults.clone();
        let flushed = async move {
            if tokio::time::timeout(FLUSH_LIMIT, faults.flushed()).await.is_err() {
                tracing::warn!("events of faults could not be recorded before the end");
            }
            unrecorded
        };
        Box::pin(flushed.into_actor(self))
    }
}

#[cfg(feature = "testing")]
impl Handler<crate::testing_panic::InjectPanic> for Supervisor {
    type Result = bool;

    fn handle(&mut self, inject: crate::testing_panic::InjectPanic, ctx: &mut Self::Context) -> bool {
        use crate::testing_panic::{ActorKind, Panic};
        let panic = Panic(inject.place);
        let child = inject.sandbox.as_ref().and_then(|key| self.children.get(key));
        match inject.actor {
            ActorKind::Supervisor => ctx.address().do_send(panic),
            ActorKind::Database => self.config.database.tell(panic),
            ActorKind::Monitor => match child.and_then(|child| child.monitor.as_ref()) {
                Some(monitor) => monitor.do_send(panic),
                None => return false,
            },
            ActorKind::LogWriter => match child.and_then(|child| child.log.as_ref()) {
                Some(log) => log.do_send(panic),
                None => return false,
            },
        }
        true
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
        let Some(child) = self.children.get_mut(&key) else { return };
        let Some(row) = child.row.clone().filter(|row| row.generation == generation) else { return };
        let successor_works = lives(child.monitor.as_ref());
        if reason == DownReason::Panicked {
            self.record_restart(&key, "monitor", ctx);
        }
        if successor_works {
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
            if let Some(child) = self.children.get_mut(&key) {
                child.monitor = None;
            }
            self.adopt_again(&key, ctx);
        }
    }
}
