//! The orchestrator's own end, with its sandboxes or without them.
//!
//! ```text
//!   Shutdown ─┬ with a grace: every child is stopped ─▶ ended, or left to the next orchestrator to record ─┐
//!             └ without: launches under way are waited for, then every monitor lets go ───────────────────┤
//!                                                                           events flushed, answered ◀────┘
//! ```

use std::time::Duration;

use actix::{ActorFutureExt as _, Handler, ResponseActFuture, WrapFuture as _};
use futures::future::join_all;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::StoppedBy;

use super::actor::Supervisor;
use super::stop::End;
use super::{Shutdown, SupervisorError};
use crate::monitor::{Abandon, AwaitProcess, Stop};
use crate::telemetry::counters::Counter;

/// How long a launch that is under way may take when the orchestrator ends without its sandboxes; one that takes
/// longer is given up. It takes some tenths of a second, unless a root disk or a kernel is made for it.
const LAUNCH_LIMIT: Duration = Duration::from_secs(10);
/// How long the last events may take to be recorded when everything ends.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

impl Handler<Shutdown> for Supervisor {
    type Result = ResponseActFuture<Self, Vec<SandboxKey>>;

    fn handle(&mut self, shutdown: Shutdown, ctx: &mut Self::Context) -> Self::Result {
        self.shutting_down = Some(shutdown);
        let Some(grace) = shutdown.grace else {
            let left = self.leave_running().into_actor(self);
            return Box::pin(left.then(|(), this, _| this.flush_events(Vec::new())));
        };
        let mut keys: Vec<SandboxKey> = self.children.keys().cloned().collect();
        keys.sort();
        let stop = Stop { grace, signal: None, by: StoppedBy::Shutdown };
        let ends = join_all(keys.iter().map(|key| self.end_child(key, End::Stop(stop), ctx)));
        Box::pin(ends.into_actor(self).then(|ends, this, _| {
            let mut unrecorded = Vec::new();
            for end in ends {
                if let Err(SupervisorError::Unrecorded { key, .. }) = end {
                    this.leave_unrecorded(&key);
                    unrecorded.push(key);
                }
            }
            this.flush_events(unrecorded)
        }))
    }
}

impl Supervisor {
    /// Lets go of all microVMs, which the next orchestrator adopts.
    fn leave_running(&mut self) -> impl Future<Output = ()> + use<> {
        let mut ended = Vec::new();
        for child in self.children.values_mut() {
            if let Some(monitor) = child.monitor().cloned() {
                let told = child.ended();
                ended.push(async move {
                    // A microVM that is just being made is there for the next orchestrator then.
                    let _ = tokio::time::timeout(LAUNCH_LIMIT, monitor.send(AwaitProcess)).await;
                    monitor.do_send(Abandon);
                    let _ = told.await;
                });
            }
        }
        async move { drop(join_all(ended).await) }
    }

    /// Lets go of a microVM whose end is the next orchestrator's to record: its waiter keeps what it has.
    fn leave_unrecorded(&mut self, key: &SandboxKey) {
        tracing::warn!(sandbox = %key, "its end cannot be recorded now and is left to the next start");
        self.config.faults.count(Counter::LeftUnrecorded);
        if let Some(monitor) = self.children.remove(key).and_then(|child| child.monitor().cloned()) {
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
