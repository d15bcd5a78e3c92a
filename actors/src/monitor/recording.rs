//! Making state changes durable, one after the other, however long that takes; nothing else waits for it.
//!
//! ```text
//!   edge ─▶ sent to the database ─┬ durable ─▶ told ─▶ what follows it
//!                  ▲              └ refused ─▶ what it ends is ended all the same
//!                  └── pause ◀────────┘
//! ```

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::MailboxError;
use chrono::Utc;
use futures::future::BoxFuture;
use sandpen_types::backoff::Pauses;
use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxRow;
use sandpen_types::start_step::StartStep;
use sandpen_types::state::{Event, SandboxState};
use sandpen_types::transition::{Transition, advance};

use super::edges::{After, Edge, is_known};
use super::ending::Reply;
use super::life::{Interrupted, Life};
use super::phase::{Phase, Rest};
use super::{MonitorError, StateChanged};
use crate::database::{Database, DatabaseError, RecordTransition};
use crate::runtime::actor_ref::ActorRef;
use crate::telemetry::counters::Counter;

type Answer = BoxFuture<'static, Result<Result<(), DatabaseError>, MailboxError>>;

/// The first edge, on its way to the database.
pub(super) struct Recording {
    /// The row after it.
    row: SandboxRow,
    record: Transition,
    /// How often the database has refused it.
    failures: u32,
    pub(super) answer: Answer,
}

fn send(database: &ActorRef<Database>, record: &Transition, pause: Option<Duration>) -> Answer {
    let sent = database.send(RecordTransition(record.clone()));
    Box::pin(async move {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        sent.await
    })
}

impl Life {
    /// Begins with the next edge, if none is being recorded. An event without an edge changes nothing, and what follows
    /// it follows at once.
    pub(super) async fn begin_recording(&mut self) {
        while self.recording.is_none() {
            let row = &self.config.row;
            let Some(event) = self.edges.first(&row.state) else { return };
            let ran = self.run.lasted();
            let step = if is_known(&row.state, event) { Ok(None) } else { advance(row, event, Utc::now(), ran) };
            match step {
                Ok(Some((row, record))) => {
                    let answer = send(&self.config.database, &record, None);
                    self.recording = Some(Recording { row, record, failures: 0, answer });
                }
                Ok(None) => self.follow(false).await,
                Err(no_edge) => {
                    tracing::warn!(%no_edge, "event ignored");
                    self.follow(false).await;
                }
            }
        }
    }

    /// The database has answered.
    pub(super) async fn on_recorded(
        &mut self,
        answer: Result<Result<(), DatabaseError>, MailboxError>,
    ) -> Result<(), Interrupted> {
        let Some(mut recording) = self.recording.take() else { return Ok(()) };
        match answer? {
            Ok(()) => {}
            Err(error @ DatabaseError::UnknownSandbox { .. }) => {
                tracing::error!(%error, "the row was removed while its microVM lived");
            }
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "the state change is not durable yet");
                self.config.faults.count(Counter::DatabaseRetries);
                recording.failures += 1;
                let pause = Pauses::STORAGE.after(recording.failures);
                recording.answer = send(&self.config.database, &recording.record, Some(pause));
                self.recording = Some(recording);
                self.edges.refused(Instant::now());
                self.carry_out_due().await;
                return Ok(());
            }
        }
        let mut row = recording.row;
        // What became known of it meanwhile.
        row.health.clone_from(&self.config.row.health);
        if row.state.is_live() {
            row.microvm_pid = self.config.row.microvm_pid;
        }
        tracing::info!(from = %self.config.row.state.status(), to = %row.state.status(), event = recording.record.event);
        self.config.row = row;
        if self.config.row.state != SandboxState::Running {
            (self.health, self.checking) = (None, None);
        }
        self.state.send_replace(self.config.row.state.clone());
        (self.config.on_change)(StateChanged { row: Arc::new(self.config.row.clone()) });
        self.follow(true).await;
        Ok(())
    }

    /// What follows the first edge, which is durable, or `was_none`.
    async fn follow(&mut self, is_durable: bool) {
        let Some(edge) = self.edges.take_first() else { return };
        let ending = edge.ending();
        let Edge { event, after, replies, .. } = edge;
        let ended = match ending {
            Some(ending) => self.carry_out(ending).await,
            None => Ok(()),
        };
        answer_all(replies, &ended.map_err(|error| MonitorError::Driver(error.chain())));
        match after {
            After::CountRunTime if is_durable => {
                self.mark(StartStep::Running);
                // It has just begun, whatever the clock says.
                self.count_run_time(Some(Duration::ZERO));
            }
            After::CountRunTime | After::Nothing => {}
            After::Acknowledge => {
                if is_durable && matches!(event, Event::WorkloadExited(_)) {
                    self.mark(StartStep::ExitRecorded);
                }
                self.acknowledge().await;
            }
            After::Release => self.release(),
        }
    }

    /// The end is durable.
    fn release(&mut self) {
        let Phase::Ending(rest) = self.phase else { return };
        self.phase = match (rest, self.vmm()) {
            (Rest::Vmm, Some(vmm)) => {
                self.mark(StartStep::EndRecorded);
                Phase::Releasing(vmm.process.release())
            }
            (Rest::Nothing, _) => {
                self.set_released();
                Phase::Over
            }
            (Rest::Vmm | Rest::Unknown, _) => Phase::Over,
        };
    }
}

fn answer_all(replies: Vec<Reply>, answer: &Result<(), MonitorError>) {
    for reply in replies {
        let _ = reply.send(answer.clone());
    }
}
