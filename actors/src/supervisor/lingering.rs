//! Ended sandboxes that remove themselves, but not before whoever reads their output has it.
//!
//! ```text
//!   ended ─▶ lingering ── nobody reads for `remove_delay` ──▶ row, log and disk go
//!              │    ▲
//!       readers│    │the last one leaves
//!              ▼    │
//!             held ─┘
//! ```
//! The rows say who lingers, so that a later orchestrator goes on with them. Readers are counted where
//! they are, so that none is forgotten over a supervisor's failure.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, SpawnHandle, WrapFuture as _};

use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::{OpenReader, SupervisorError};
use crate::actor_ref::ActorRef;
use crate::database::{GetSandbox, SandboxRow};
use crate::driver::error_chain;
use crate::spec::SandboxKey;

/// How many read the output of which sandbox.
#[derive(Debug, Clone, Default)]
pub(super) struct Readers(Arc<Mutex<HashMap<SandboxKey, usize>>>);

impl Readers {
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
pub struct Reader {
    key: SandboxKey,
    readers: Readers,
    supervisor: ActorRef<Supervisor>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.readers.change(&self.key, |count| count.saturating_sub(1)) == 0 {
            // A supervisor that follows one that failed begins all delays anew.
            self.supervisor.tell(LastReaderLeft { key: self.key.clone() });
        }
    }
}

/// Nobody reads any more.
#[derive(Debug, Clone, actix::Message)]
#[rtype(result = "()")]
struct LastReaderLeft {
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
        // Its last reader begins the delay anew.
        if self.readers.any(key) || self.shutting_down.is_some() {
            return;
        }
        let Some(Lingering { row, .. }) = self.lingering.remove(key) else { return };
        if self.children.contains_key(key) {
            // It was started again, or somebody else removes it.
            return;
        }
        self.children.insert(key.clone(), Child::in_removal());
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

impl Handler<OpenReader> for Supervisor {
    type Result = Answer<Reader>;

    fn handle(&mut self, OpenReader { key }: OpenReader, ctx: &mut Self::Context) -> Self::Result {
        self.readers.change(&key, |count| count + 1);
        let reader = Reader { key, readers: self.readers.clone(), supervisor: self.itself(ctx) };
        Box::pin(async move { Ok(reader) }.into_actor(self))
    }
}

impl Handler<LastReaderLeft> for Supervisor {
    type Result = ();

    fn handle(&mut self, LastReaderLeft { key }: LastReaderLeft, ctx: &mut Self::Context) {
        if let Some(Lingering { row, .. }) = self.lingering.get(&key) {
            self.linger(row.clone(), ctx);
        }
    }
}
