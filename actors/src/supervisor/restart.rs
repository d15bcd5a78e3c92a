//! What happens on an end: answered and forgotten, or started again by the restart policy.
//!
//! ```text
//!   end on record, nothing left of the microVM
//!     ├ stopped after its last edge ─▶ the stop is recorded ─▶ forgotten
//!     ├ no restart ──────────────────────────────────────────▶ forgotten
//!     └ restart ─▶ BACKOFF is recorded ─▶ pause ─▶ STARTING is recorded ─▶ hosted
//!                                  │ stop  │ stop          └ it cannot be: after a pause again
//!                                  ▼       ▼
//!                              the stop is recorded ─▶ forgotten
//! ```

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use chrono::Utc;
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{RestartPolicy, SandboxKey};
use sandpen_types::start_step::StartStep;
use sandpen_types::state::{Event, StoppedBy};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::start_timings::StartTimings;

use super::actor::Supervisor;
use super::disks::begins_empty;
use super::phase::Phase;
use super::record::{RETRY_PAUSE, record, record_until_durable};
use super::restart_policy::{Occasion, pause_before_restart, row_wants_restart};
use super::{SupervisorError, disks};
use crate::monitor::{StartMode, Stop};

impl Supervisor {
    /// A sandbox has ended and everything of its microVM is gone: restart policy, then answers, then
    /// the name is free.
    pub(super) fn on_ended(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        child.end_is_settled();
        let Some(row) = child.row().cloned() else { return };
        if let Some(Stop { by, .. }) = child.stop
            && row.stopped_by.is_none()
            && row.spec.restart != RestartPolicy::No
        {
            self.record_stop(key, by, ctx);
            return;
        }
        // Another orchestrator decides for the rows of one that leaves its microVMs alone.
        if child.stop.is_some() || self.shutting_down.is_some() || !row_wants_restart(&row, Occasion::Ended) {
            self.forget(key, &row, ctx);
            return;
        }
        child.answer_started();
        self.back_off((*row).clone(), ctx);
    }

    /// A stop of a sandbox of which nothing runs: it came after its last transition, or in BACKOFF. Nobody may start
    /// it again after our death.
    pub(super) fn record_stop(&mut self, key: &SandboxKey, by: StoppedBy, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let Some(row) = child.row().cloned() else { return };
        child.enter(Phase::Recording);
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let key = key.clone();
        let stop = async move {
            let stopped = Event::StopRequested(by.cause());
            (record_until_durable(&database, &faults, &row, stopped).await, row)
        };
        ctx.spawn(stop.into_actor(self).map(move |(stopped, row), this, ctx| {
            let row = match stopped {
                Ok(stopped) => {
                    let stopped = Arc::new(stopped);
                    this.note_row(&stopped);
                    stopped
                }
                Err(error) => {
                    tracing::error!(sandbox = %key, error = error_chain(&error), "a stop could not be recorded");
                    row
                }
            };
            if let Some(child) = this.children.get_mut(&key) {
                child.end_is_settled();
            }
            this.forget(&key, &row, ctx);
        }));
    }

    /// BACKOFF, for a row that ended and is started again. The child's place is taken already.
    pub(super) fn back_off(&mut self, mut row: SandboxRow, ctx: &mut Context<Self>) {
        let key = row.spec.key.clone();
        let Some(child) = self.children.get_mut(&key) else { return };
        child.enter(Phase::Recording);
        row.boot_id.clone_from(&self.boot_id);
        let random = RandomState::new().hash_one(&key) >> 32;
        let jitter = f64::from(u32::try_from(random).unwrap_or(0)) / f64::from(u32::MAX);
        let pause = pause_before_restart(row.spec.restart_backoff, row.restarts_in_a_row, jitter);
        let (database, faults) = (self.config.database.clone(), self.config.faults.clone());
        let until = Utc::now() + pause;
        let scheduled = Event::BackoffScheduled { until };
        let back_off = async move { record_until_durable(&database, &faults, &row, scheduled).await };
        ctx.spawn(back_off.into_actor(self).map(move |row, this, ctx| match row {
            Ok(row) => {
                this.note_row(&Arc::new(row));
                this.wait_for_restart(&key, pause, ctx);
            }
            Err(error) => {
                // The row still says that it ended, so the next orchestrator decides again.
                tracing::error!(sandbox = %key, error = error_chain(&error), "a restart could not be recorded");
                this.answer_and_drop(&key);
            }
        }));
    }

    /// Starts it after the pause, unless it was stopped while BACKOFF or an attempt was being recorded.
    fn wait_for_restart(&mut self, key: &SandboxKey, pause: Duration, ctx: &mut Context<Self>) {
        let stop = self.children.get(key).and_then(|child| child.stop);
        match stop {
            Some(Stop { by, .. }) => self.record_stop(key, by, ctx),
            None => self.schedule(key, pause, ctx),
        }
    }

    /// Starts a sandbox in BACKOFF after this pause.
    pub(super) fn schedule(&mut self, key: &SandboxKey, pause: Duration, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let again = key.clone();
        let timer = ctx.run_later(pause, move |this, ctx| this.start_again(&again, ctx));
        child.enter(Phase::Backoff { timer });
    }

    /// The pause is over.
    fn start_again(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let Some(row) = child.row().cloned() else { return };
        // A stop from here on is the next monitor's, or the next attempt's.
        child.enter(Phase::Recording);
        let driver = self.driver_of(&row);
        let database = self.config.database.clone();
        let key = key.clone();
        let timings = StartTimings::requested();
        self.config.timings.begin(&key, timings.clone());
        // Nothing ran since this start was asked for: whatever disk there is, is of an earlier one.
        let stale = (begins_empty(&row) && row.started_at.is_none()).then(|| self.config.state_dir.clone());
        let look_up = self.look_up();
        let spec = row.spec.clone();
        let looked = async move { Ok::<_, SupervisorError>((driver?, look_up.done(spec).await?)) };
        let begin = async move |driver| {
            if let Some(dir) = stale {
                let of = row.spec.key.clone();
                let removed = blocking(move || disks::remove_own(&dir, &of)).await;
                removed.map_err(|_| SupervisorError::Gone)??;
            }
            let row = record(&database, &row, Event::StartRequested).await?;
            timings.mark(StartStep::Recorded);
            Ok::<_, SupervisorError>((row, driver))
        };
        let of = key.clone();
        let started = looked.into_actor(self).then(move |looked, this, _| {
            // Before the record: from there on the next supervisor goes by them as well.
            let noted = looked.map(|(driver, places)| {
                this.note_places(&of, places);
                driver
            });
            async move { begin(noted?).await }.into_actor(this)
        });
        ctx.spawn(started.map(move |started, this, ctx| match started {
            Ok((row, driver)) => this.host(row, driver, StartMode::Launch, ctx),
            Err(error) => {
                tracing::warn!(sandbox = %key, error = error_chain(&error), "a restart has to wait");
                this.wait_for_restart(&key, RETRY_PAUSE, ctx);
            }
        }));
    }
}
