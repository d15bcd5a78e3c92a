//! Ending a sandbox by request: a stop, a kill, or the orchestrator's own end.
//!
//! ```text
//!   not on record yet ─▶ its start is given up, nothing was changed
//!   with a monitor ────▶ told to it ─┐
//!   between monitors ──▶ kept for the next one ─┤ the end on record ─▶ answered with the last row
//!   BACKOFF ───────────▶ recorded ───┘            └ the host keeps it from being recorded: told after a while
//! ```

use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, WrapFuture as _};
use futures::future::{BoxFuture, FutureExt as _};
use nix::libc::SIGKILL;
use tokio::sync::oneshot;

use super::actor::Supervisor;
use super::start::record_until_durable;
use super::{KillSandbox, RECORD_LIMIT, StopSandbox, SupervisorError};
use crate::database::SandboxRow;
use crate::faults::Faults;
use crate::long_answer::LongAnswer;
use crate::monitor::{Kill, Stop};
use crate::spec::SandboxKey;
use crate::state::{Event, StoppedBy};

/// The last row of a sandbox whose end was asked for.
pub(super) type Ended = BoxFuture<'static, Result<SandboxRow, SupervisorError>>;

/// How a sandbox is to end.
#[derive(Debug, Clone, Copy)]
pub(super) enum End {
    /// Gracefully.
    Stop(Stop),
    /// At once, by request.
    Kill,
}

impl End {
    /// What it leaves for a monitor that comes later.
    fn stop(self) -> Stop {
        match self {
            Self::Stop(stop) => stop,
            Self::Kill => Stop { grace: Duration::ZERO, by: StoppedBy::Request },
        }
    }
}

impl Handler<StopSandbox> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, StopSandbox { key, grace }: StopSandbox, ctx: &mut Self::Context) -> Self::Result {
        let stop = Stop { grace, by: StoppedBy::Request };
        LongAnswer::of(self.end_child(&key, End::Stop(stop), ctx))
    }
}

impl Handler<KillSandbox> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, KillSandbox { key, signal }: KillSandbox, ctx: &mut Self::Context) -> Self::Result {
        if signal == SIGKILL {
            return LongAnswer::of(self.end_child(&key, End::Kill, ctx));
        }
        let child = self.children.get(&key).filter(|child| !child.removing);
        let hosted = child.and_then(|child| child.monitor.clone().zip(child.row.clone()));
        let Some((monitor, row)) = hosted else { return LongAnswer::of(self.not_live(&key)) };
        LongAnswer::of(async move {
            monitor.send(Kill { signal }).await??;
            Ok((*row).clone())
        })
    }
}

impl Supervisor {
    /// Asks a child to end; resolves with its last row.
    pub(super) fn end_child(&mut self, key: &SandboxKey, end: End, ctx: &mut Context<Self>) -> Ended {
        let Some(child) = self.children.get_mut(key).filter(|child| !child.removing) else {
            return self.not_live(key).boxed();
        };
        // A request is meant for good, whatever else ends the sandbox.
        let asked = end.stop();
        let earlier = child.stop.filter(|earlier| earlier.by == StoppedBy::Request);
        let stop = Stop { by: earlier.map_or(asked.by, |earlier| earlier.by), ..asked };
        child.stop = Some(stop);
        let ended = child.ended();
        if let Some(reserving) = child.reserving.take() {
            reserving.cancel();
            let not_live = self.not_live(key);
            return async move {
                match ended.await {
                    Ok(row) => Ok((*row).clone()),
                    // It was given up before it had a row.
                    Err(_) => not_live.await,
                }
            }
            .boxed();
        }
        if let Some(monitor) = child.monitor.clone() {
            // The answer is the row of the end; a monitor that ends meanwhile tells it by `Down`.
            let asked = async move {
                match end {
                    End::Stop(_) => monitor.send(stop).await,
                    End::Kill => monitor.send(Kill { signal: SIGKILL }).await,
                }
            };
            let key = key.clone();
            ctx.spawn(asked.into_actor(self).map(move |answer, _, _| {
                if let Ok(Err(error)) = answer {
                    tracing::debug!(sandbox = %key, %error, "asked to end");
                }
            }));
        } else if let Some(timer) = child.next_attempt.take() {
            ctx.cancel_future(timer);
            self.end_backoff(key, ctx);
        }
        until_recorded(ended, key.clone(), stop.grace, self.config.faults.clone()).boxed()
    }

    pub(super) fn end_backoff(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get(key) else { return };
        let Some(row) = child.row.clone() else { return };
        let by = child.stop.map_or(StoppedBy::Request, |stop| stop.by);
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let key = key.clone();
        let stopped = Event::StopRequested(by.cause());
        let stop = async move { record_until_durable(&database, &faults, &row, stopped).await };
        ctx.spawn(stop.into_actor(self).map(move |row, this, ctx| {
            match row {
                Ok(row) => this.note_row(&Arc::new(row)),
                Err(error) => tracing::error!(sandbox = %key, %error, "ending a pending restart"),
            }
            this.on_ended(&key, ctx);
        }));
    }
}

/// The row of an end that was asked for. It is waited for without a limit, unless the host keeps it from
/// being recorded.
async fn until_recorded(
    mut ended: oneshot::Receiver<Arc<SandboxRow>>,
    key: SandboxKey,
    grace: Duration,
    faults: Faults,
) -> Result<SandboxRow, SupervisorError> {
    let mut limit = grace.saturating_add(RECORD_LIMIT);
    loop {
        match tokio::time::timeout(limit, &mut ended).await {
            Ok(row) => return row.map(|row| (*row).clone()).map_err(|_| SupervisorError::Gone),
            Err(_) if faults.hinder_writing() => {
                let faults = faults.active().iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(SupervisorError::Unrecorded { key, faults });
            }
            Err(_) => limit = RECORD_LIMIT,
        }
    }
}
