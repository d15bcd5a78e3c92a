//! A supervisor that panics is followed by another one, which goes on with the same children.
//!
//! ```text
//!   supervisor panics ─▶ Drop leaves its children ─▶ the next one takes them, reads their rows,
//!                        (monitors and logs live on)   and does what the first was about to do
//! ```
//!
//! Messages wait meanwhile. What was in flight in the first one is found by what is durable: a row
//! that is STARTING without a monitor is launched, an ended one meets the restart policy, one in
//! BACKOFF gets its timer again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actix::{ActorFutureExt as _, Addr, AsyncContext as _, Context, Recipient, WrapFuture as _};
use chrono::Utc;
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::{SandboxState, StopCause, StoppedBy};

use super::Shutdown;
use super::actor::{Supervisor, SupervisorConfig};
use super::child::Child;
use super::first_look::FirstLook;
use super::phase::Phase;
use super::record::{RETRY_PAUSE, settled};
use super::removal_hold::Held;
use super::tree_removals::TreeRemovals;
use super::volumes::LeavingVolumes;
use crate::database::ListSandboxes;
use crate::host::clock::pause_left;
use crate::monitor::{Abandon, StartMode, StateChanged, Stop};
use crate::runtime::actor_ref::{ActorRef, keep_running};

/// Grace of a stop whose own was lost with the supervisor: for the time until the monitor records it.
const GRACE: Duration = Duration::from_secs(10);

/// What a supervisor leaves to the next one.
pub(super) struct Estate {
    pub(super) children: HashMap<SandboxKey, Child>,
    pub(super) subscribers: Vec<Recipient<StateChanged>>,
    pub(super) shutting_down: Option<Shutdown>,
    pub(super) first_look: FirstLook,
    pub(super) held: Held,
    pub(super) leaving_volumes: LeavingVolumes,
    pub(super) tree_removals: TreeRemovals,
}

/// Where it lies between two of them.
#[derive(Clone, Default)]
pub(super) struct Succession(Arc<Mutex<Option<Estate>>>);

impl Succession {
    fn take(&self) -> Option<Estate> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn leave(&self, estate: Estate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(estate);
    }
}

impl Supervisor {
    /// A supervisor that is started again when it panics. `on_restart` runs each time, on this arbiter.
    /// Send [`Reconcile`](super::Reconcile) first.
    pub fn keep_running(config: SupervisorConfig, on_restart: impl FnMut() + 'static) -> ActorRef<Self> {
        let succession = Succession::default();
        let intensity = config.intensity;
        let make = move |itself| {
            let mut next = Self::new(config.clone());
            next.itself = Some(itself);
            next.succession = Some(succession.clone());
            next
        };
        keep_running(actix::Arbiter::current(), intensity, make, on_restart)
    }

    /// Takes what an earlier supervisor left, before any message.
    pub(super) fn inherit(&mut self, ctx: &mut Context<Self>) {
        let Some(estate) = self.succession.as_ref().and_then(Succession::take) else { return };
        let Estate { children, subscribers, shutting_down, first_look, held, leaving_volumes, tree_removals } = estate;
        self.children = children;
        self.subscribers = subscribers;
        self.shutting_down = shutting_down;
        self.first_look = first_look.inherited();
        self.held = held;
        self.leaving_volumes = leaving_volumes;
        self.tree_removals = tree_removals;
        let database = self.config.database.clone();
        let rows = async move {
            loop {
                // What the first one was about to record is seen too, or it is never recorded.
                match settled(&database, ListSandboxes).await {
                    Ok(Ok(rows)) => return rows,
                    Ok(Err(error)) => {
                        tracing::error!(
                            error = error_chain(&error),
                            "the rows of the sandboxes cannot be read; trying again"
                        );
                        tokio::time::sleep(RETRY_PAUSE).await;
                    }
                    // The orchestrator is ending.
                    Err(_) => return Vec::new(),
                }
            }
        };
        ctx.wait(rows.into_actor(self).map(|rows, this, ctx| this.resume(rows, ctx)));
    }

    /// Leaves everything that the next supervisor goes on with.
    fn leave(&mut self) {
        if let Some(succession) = &self.succession {
            succession.leave(Estate {
                children: std::mem::take(&mut self.children),
                subscribers: std::mem::take(&mut self.subscribers),
                shutting_down: self.shutting_down,
                first_look: self.first_look,
                held: self.held.clone(),
                leaving_volumes: self.leaving_volumes.clone(),
                tree_removals: self.tree_removals.clone(),
            });
        }
    }

    fn resume(&mut self, rows: Vec<SandboxRow>, ctx: &mut Context<Self>) {
        let mut rows: HashMap<_, _> = rows.into_iter().map(|row| (row.spec.key.clone(), row)).collect();
        let keys: Vec<SandboxKey> = self.children.keys().cloned().collect();
        for key in keys {
            let row = rows.remove(&key);
            self.resume_child(&key, row, ctx);
        }
        self.linger_on(rows.values(), ctx);
        if !self.config.faults.active().is_empty() {
            self.look_again(ctx);
        }
    }

    fn resume_child(&mut self, key: &SandboxKey, row: Option<SandboxRow>, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let Some(row) = row.filter(|_| !matches!(child.phase(), Phase::Removing)) else {
            // Its start or its removal is asked for again by whoever waits for it.
            self.children.remove(key);
            return;
        };
        if let SandboxState::Stopping { cause: StopCause::Requested | StopCause::Killed { .. }, .. } = row.state {
            child.stop.get_or_insert(Stop {
                grace: GRACE,
                signal: None,
                by: row.stopped_by.unwrap_or(StoppedBy::Request),
            });
        }
        let (log, jobs) = match child.phase() {
            Phase::Hosted { monitor, log, jobs } if monitor.connected() => {
                if log.as_ref().is_some_and(|log| !log.connected())
                    || jobs.as_ref().is_some_and(|jobs| !jobs.connected())
                {
                    // As when the end of the one or the other had been heard.
                    monitor.do_send(Abandon);
                }
                self.note_row(&Arc::new(row));
                return;
            }
            Phase::Hosted { log, jobs, .. } | Phase::Lost { log, jobs } => {
                (log.clone().filter(Addr::connected), jobs.clone().filter(Addr::connected))
            }
            _ => (None, None),
        };
        let hosted = child.row().map(|row| row.generation);
        // Whatever else the one before had in hand went with it. Of one in BACKOFF nothing runs that could be lost.
        child.inherited(match row.state {
            SandboxState::Backoff { .. } => Phase::Recording,
            _ => Phase::Lost { log, jobs },
        });
        match row.state {
            SandboxState::Starting if hosted != Some(row.generation) => self.launch_recorded(row, ctx),
            SandboxState::Backoff { until } => {
                let pause = pause_left(until, Utc::now(), row.spec.restart_backoff.max);
                self.note_row(&Arc::new(row));
                self.schedule(key, pause, ctx);
            }
            _ if row.state.is_live() => self.adopt_again(key, ctx),
            _ if row.state.is_ended() && hosted.is_some() => {
                self.note_row(&Arc::new(row));
                self.release_and_end(key, ctx);
            }
            _ => drop(self.children.remove(key)),
        }
    }

    /// Its start was recorded and went no further.
    fn launch_recorded(&mut self, row: SandboxRow, ctx: &mut Context<Self>) {
        match self.driver_of(&row) {
            Ok(driver) => self.host(row, driver, StartMode::Launch, ctx),
            // Finds no microVM, and says so.
            Err(_) => self.adopt(row, StartMode::Resume, ctx),
        }
    }

    /// How a child of this supervisor reaches it, and those that follow it.
    pub(super) fn itself(&self, ctx: &Context<Self>) -> ActorRef<Self> {
        self.itself.clone().unwrap_or_else(|| ctx.address().into())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.leave();
    }
}
