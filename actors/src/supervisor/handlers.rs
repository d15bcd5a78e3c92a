//! One handler per message: requests in, ends heard.

use actix::{ActorFutureExt as _, Addr, AsyncContext as _, Handler, ResponseActFuture, WrapFuture as _};
use futures::future::join_all;
use nix::libc::SIGKILL;
use tokio::sync::oneshot;

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::start::reserve_row;
use super::succession::lives;
use super::{
    AwaitRestart, AwaitStarted, KillSandbox, OpenChannels, RemoveSandbox, Shutdown, StartSandbox, StopSandbox,
    SubscribeStateChanges, SupervisorError, WaitSandbox,
};
use crate::counters::Counter;
use crate::database::{GetSandbox, SandboxRow};
use crate::faults::Place;
use crate::hosting::DownReason;
use crate::monitor::{Abandon, Channels, Down, GetChannels, Kill, Monitor, StartMode, StateChanged, Stop};
use crate::spec::{SandboxKey, SandboxSpec};
use crate::start_timings::StartTimings;
use crate::state::{FailureReason, SandboxState, StoppedBy};

/// How long the last events may take to be recorded when everything ends.
const FLUSH_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);
/// What a kill leaves for a monitor that comes later.
const KILLED: Stop = Stop { grace: std::time::Duration::ZERO, by: StoppedBy::Request };

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
            let driver = self.config.drivers.select(&spec.driver, spec.network)?;
            self.check_open_files(driver.open_files(&spec))?;
            Ok(driver)
        });
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => return self.refuse(error),
        };
        let timings = StartTimings::requested();
        let mut child = Child { open_files: driver.open_files(&spec), ..Child::with_disk(spec.disk.name.clone()) };
        let (sender, started) = oneshot::channel();
        child.until_started.push(sender);
        self.children.insert(key.clone(), child);
        let row = reserve_row(
            self.config.database.clone(),
            self.config.state_dir.clone(),
            spec,
            driver.clone(),
            self.config.supervisor_pid,
            self.boot_id.clone(),
            timings.clone(),
        );
        let room = self.disk_room();
        let row = async move {
            room.await?;
            row.await
        };
        let hosted = row.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.config.faults.well(&Place::StateDir);
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
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, AwaitStarted { key }: AwaitStarted, _: &mut Self::Context) -> Self::Result {
        let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) else {
            return self.not_live(&key);
        };
        let (sender, started) = oneshot::channel();
        child.until_started.push(sender);
        if child.row.as_ref().is_some_and(|row| !matches!(row.state, SandboxState::Created | SandboxState::Starting)) {
            child.answer_started();
        }
        let row = async move { started.await.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone) };
        Box::pin(row.into_actor(self))
    }
}

impl Handler<StopSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, StopSandbox { key, grace }: StopSandbox, ctx: &mut Self::Context) -> Self::Result {
        let stop = Stop { grace, by: StoppedBy::Request };
        self.end_child(&key, stop, stop, ctx)
    }
}

impl Handler<KillSandbox> for Supervisor {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, KillSandbox { key, signal }: KillSandbox, ctx: &mut Self::Context) -> Self::Result {
        if signal == SIGKILL {
            return self.end_child(&key, KILLED, Kill { signal }, ctx);
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
        if !force && let Some(later) = self.when_released(&key, RemoveSandbox { key: key.clone(), force }, ctx) {
            return later;
        }
        if let Some(child) = self.children.get(&key) {
            if !force || child.removing {
                return self.refuse(SupervisorError::AlreadyLive { status: child.status(), key });
            }
            let again = ctx.address();
            let killed = self.end_child(&key, KILLED, Kill { signal: SIGKILL }, ctx);
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
        // Between two monitors of one microVM, the second one is waited for.
        let (hosted, until_hosted) = oneshot::channel();
        if let Some(child) = self.children.get_mut(&key)
            && child.row.as_ref().is_some_and(|row| row.state.is_live())
            && !lives(child.monitor.as_ref())
        {
            child.until_hosted.push(hosted);
        }
        let hosted = async move { until_hosted.await.is_ok() }.into_actor(self);
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
    type Result = Answer<Option<u64>>;

    fn handle(&mut self, AwaitRestart { key, after }: AwaitRestart, ctx: &mut Self::Context) -> Self::Result {
        let Some(child) = self.children.get_mut(&key).filter(|child| !child.removing) else {
            return Box::pin(async { Ok(None) }.into_actor(self));
        };
        let generation = child.row.as_ref().filter(|_| child.monitor.is_some()).map(|row| row.generation);
        if let Some(generation) = generation.filter(|generation| *generation > after) {
            return Box::pin(async move { Ok(Some(generation)) }.into_actor(self));
        }
        // The end of the child drops the sender.
        let (sender, next) = oneshot::channel();
        child.until_hosted.push(sender);
        let supervisor = ctx.address();
        let again = async move {
            let _ = next.await;
            supervisor.send(AwaitRestart { key, after }).await?
        };
        Box::pin(again.into_actor(self))
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
                if let Some(monitor) = &child.monitor {
                    monitor.do_send(Abandon);
                    let (sender, receiver) = oneshot::channel();
                    child.until_ended.push(sender);
                    ended.push(receiver);
                }
            }
            let ended = async move { drop(join_all(ended).await) };
            return Box::pin(ended.into_actor(self).then(|(), this, _| this.flush_events(Vec::new())));
        };
        let stop = Stop { grace, by: StoppedBy::Shutdown };
        let ends: Vec<_> = keys.iter().map(|key| self.end_child(key, stop, stop, ctx)).collect();
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
