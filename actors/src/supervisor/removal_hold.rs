//! Ended sandboxes that remove themselves, but not while somebody holds them: who reads their output, or wants
//! their end.
//!
//! ```text
//!   ended ─▶ lingering ── nobody holds it for `remove_delay` ──▶ row, log and disk go
//!              │    ▲
//!   RemovalHold│    │the last one is dropped
//!              ▼    │
//!             held ─┘
//! ```
//! The rows say who lingers, so that a later orchestrator goes on with them. Holds are counted where they are, so
//! that none is forgotten over a supervisor's failure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::phase::Phase;
use super::{HoldRemoval, SupervisorError};
use crate::database::GetSandbox;
use crate::runtime::actor_ref::ActorRef;

/// How many hold which sandbox.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<Mutex<HashMap<SandboxKey, usize>>>);

impl Held {
    fn change(&self, key: &SandboxKey, change: impl FnOnce(usize) -> usize) -> usize {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = change(counts.get(key).copied().unwrap_or(0));
        match count {
            0 => drop(counts.remove(key)),
            _ => drop(counts.insert(key.clone(), count)),
        }
        count
    }

    fn any(&self, key: &SandboxKey) -> bool {
        self.change(key, |count| count) > 0
    }
}

/// Keeps an ended sandbox from removing itself as long as it lives.
#[derive(Debug)]
pub struct RemovalHold {
    key: SandboxKey,
    held: Held,
    supervisor: ActorRef<Supervisor>,
}

impl Drop for RemovalHold {
    fn drop(&mut self) {
        if self.held.change(&self.key, |count| count.saturating_sub(1)) == 0 {
            // A supervisor that follows one that failed begins all delays anew.
            self.supervisor.tell(LastHoldDropped { key: self.key.clone() });
        }
    }
}

/// Nobody holds it any more.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
struct LastHoldDropped {
    key: SandboxKey,
}

/// An ended sandbox that goes.
pub(super) struct Lingering {
    row: Arc<SandboxRow>,
    timer: SpawnHandle,
}

/// Whether a row is of a sandbox that has ended and lingers.
pub(super) fn lingers(row: &SandboxRow) -> bool {
    row.state.is_ended() && row.spec.remove_on_end && !row.spec.remove_delay.is_zero()
}

impl Supervisor {
    /// Begins the delay of an ended sandbox, or begins it anew.
    pub(super) fn linger(&mut self, row: Arc<SandboxRow>, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        let over = key.clone();
        let timer = ctx.run_later(row.spec.remove_delay, move |this, ctx| this.end_lingering(&over, ctx));
        if let Some(earlier) = self.lingering.insert(key, Lingering { row, timer }) {
            ctx.cancel_future(earlier.timer);
        }
    }

    /// Those of an earlier orchestrator or supervisor.
    pub(super) fn linger_on<'a>(&mut self, rows: impl Iterator<Item = &'a SandboxRow>, ctx: &mut Context<Self>) {
        for row in rows.filter(|row| lingers(row)) {
            let key = &row.spec.key;
            if !self.children.contains_key(key) && !self.lingering.contains_key(key) {
                self.linger(Arc::new(row.clone()), ctx);
            }
        }
    }

    fn end_lingering(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        // Its last hold begins the delay anew.
        if self.held.any(key) || self.shutting_down.is_some() {
            return;
        }
        let Some(Lingering { row, .. }) = self.lingering.remove(key) else { return };
        if self.children.contains_key(key) {
            // It was started again, or somebody else removes it.
            return;
        }
        self.children.insert(key.clone(), Child::new(Phase::Removing));
        let now = self.config.database.send(GetSandbox(key.clone()));
        let now = async move { Ok::<_, SupervisorError>(now.await??) };
        let removed = now.into_actor(self).then(move |now, this, _| {
            let same = |now: &SandboxRow| (now.id, now.generation) == (row.id, row.generation) && lingers(now);
            let removal = now.map(|now| now.filter(same).map(|now| this.remove_everything(&now)));
            async move {
                match removal? {
                    Some(removal) => removal.await,
                    None => Ok(()),
                }
            }
            .into_actor(this)
        });
        let key = key.clone();
        ctx.spawn(removed.map(move |removed, this, _| {
            if let Err(error) = removed {
                // The row stays, so the next reconciliation finds it.
                tracing::warn!(sandbox = %key, error = error_chain(&error), "removing an ended sandbox");
            }
            this.children.remove(&key);
        }));
    }
}

impl Handler<HoldRemoval> for Supervisor {
    type Result = Answer<RemovalHold>;

    fn handle(&mut self, HoldRemoval { key }: HoldRemoval, ctx: &mut Self::Context) -> Self::Result {
        self.held.change(&key, |count| count + 1);
        let hold = RemovalHold { key, held: self.held.clone(), supervisor: self.itself(ctx) };
        Box::pin(async move { Ok(hold) }.into_actor(self))
    }
}

impl Handler<LastHoldDropped> for Supervisor {
    type Result = ();

    fn handle(&mut self, LastHoldDropped { key }: LastHoldDropped, ctx: &mut Self::Context) {
        if let Some(Lingering { row, .. }) = self.lingering.get(&key) {
            self.linger(row.clone(), ctx);
        }
    }
}
