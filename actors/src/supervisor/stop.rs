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
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::StoppedBy;
use tokio::sync::oneshot;

use super::actor::Supervisor;
use super::admits::Request;
use super::phase::Phase;
use super::{KillSandbox, StopSandbox, SupervisorError};
use crate::monitor::{Kill, Stop};
use crate::runtime::long_answer::LongAnswer;
use crate::telemetry::faults::Faults;

/// How long the end of a microVM may wait to be recorded, after its grace, while a fault of the host hinders
/// that; then whoever waits is told. Twice what a VMM may take to end after SIGTERM, and some more.
pub const RECORD_LIMIT: Duration = Duration::from_secs(5);

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
            Self::Kill => Stop { grace: Duration::ZERO, signal: None, by: StoppedBy::Request },
        }
    }
}

impl Handler<StopSandbox> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, StopSandbox { key, grace, signal }: StopSandbox, ctx: &mut Self::Context) -> Self::Result {
        let stop = Stop { grace, signal, by: StoppedBy::Request };
        LongAnswer::of(self.end_child(&key, End::Stop(stop), ctx))
    }
}

impl Handler<KillSandbox> for Supervisor {
    type Result = LongAnswer<Result<SandboxRow, SupervisorError>>;

    fn handle(&mut self, KillSandbox { key, signal }: KillSandbox, ctx: &mut Self::Context) -> Self::Result {
        if signal == SIGKILL {
            return LongAnswer::of(self.end_child(&key, End::Kill, ctx));
        }
        let hosted = self.admitted(&key, Request::Signal).ok().and_then(|child| child.monitor().zip(child.row()));
        let Some((monitor, row)) = hosted.map(|(monitor, row)| (monitor.clone(), row.clone())) else {
            return LongAnswer::of(self.not_live(&key));
        };
        LongAnswer::of(async move {
            monitor.send(Kill { signal }).await??;
            Ok((*row).clone())
        })
    }
}

impl Supervisor {
    /// Asks a child to end; resolves with its last row.
    pub(super) fn end_child(&mut self, key: &SandboxKey, end: End, ctx: &mut Context<Self>) -> Ended {
        let not_live = self.not_live(key);
        let Ok(child) = self.admitted(key, Request::Stop) else { return not_live.boxed() };
        // A request is meant for good, whatever else ends the sandbox.
        let asked = end.stop();
        let earlier = child.stop.filter(|earlier| earlier.by == StoppedBy::Request);
        let stop = Stop { by: earlier.map_or(asked.by, |earlier| earlier.by), ..asked };
        child.stop = Some(stop);
        let ended = child.ended();
        match child.phase() {
            Phase::Reserved { give_up, .. } => {
                give_up.cancel();
                return async move {
                    match ended.await {
                        Ok(row) => Ok((*row).clone()),
                        // It was given up before it had a row.
                        Err(_) => not_live.await,
                    }
                }
                .boxed();
            }
            Phase::Hosted { monitor, .. } => {
                // The answer is the row of the end; a monitor that ends meanwhile tells it by `Down`.
                let monitor = monitor.clone();
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
            }
            Phase::Backoff { timer } => {
                ctx.cancel_future(*timer);
                self.record_stop(key, stop.by, ctx);
            }
            // Whoever has it in hand sees that it is to stop.
            Phase::Lost { .. }
            | Phase::GivingUp
            | Phase::Releasing
            | Phase::Recording
            | Phase::Leaving
            | Phase::Removing => {}
        }
        until_recorded(ended, key.clone(), stop.grace, self.config.faults.clone()).boxed()
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
