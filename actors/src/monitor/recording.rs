//! Making a state change durable, however long that takes, without keeping anybody from ending the
//! microVM meanwhile.
//!
//! ```text
//!   edge ─▶ sent to the database ─┬ durable ─▶ told ─▶ what follows it (workload asked, VMM killed)
//!                  ▲              ├ no answer for 0.2 s ─▶ what follows it, at once
//!                  │              └ refused ─▶ what follows it, at once
//!                  └── pause ◀───────────────────┘
//!      meanwhile: stop, kill, escalation ─▶ carried out; a stop is recorded next
//! ```
//!
//! Grace and escalation count from the moment when the end was asked for or due. While there is no microVM yet, a
//! stop or a kill gives up its launch.

use std::pin::pin;
use std::time::{Duration, Instant};

use chrono::Utc;
use futures::future::OptionFuture;
use nix::libc::{SIGKILL, SIGTERM};
use tokio::sync::oneshot;

use super::deadlines::Due;
use super::life::{Command, Interrupted, Life};
use super::{MonitorError, StateChanged};
use crate::blocking::blocking;
use crate::counters::Counter;
use crate::database::{DatabaseError, RecordTransition};
use crate::driver::DriverError;
use crate::log_writer::{Close, LogError};
use crate::state::{Event, SandboxState, StopCause};
use crate::transition::advance;

/// Pauses between tries while the database or the log cannot be written.
const RETRY_PAUSES: [Duration; 4] =
    [Duration::from_millis(100), Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// How long what ends the microVM waits for its edge to be durable.
const DURABLE_FIRST: Duration = Duration::from_millis(200);

/// Most signals that wait for a microVM that is being made.
const SIGNALS_MAX: usize = 16;

/// How the microVM is ended.
#[derive(Debug, Clone, Copy)]
pub(super) enum Ending {
    /// The workload is asked, and has this long.
    Ask(Duration),
    /// The VMM is killed.
    Kill,
}

impl Ending {
    /// The harder one of two.
    fn or_harder(self, other: Option<Self>) -> Self {
        match (self, other) {
            (Self::Ask(grace), Some(Self::Ask(other))) => Self::Ask(grace.min(other)),
            (Self::Kill, _) | (_, Some(Self::Kill)) => Self::Kill,
            (ending, None) => ending,
        }
    }
}

type Reply = oneshot::Sender<Result<(), MonitorError>>;

/// Stops that came while something else was being recorded or the microVM was being made.
#[derive(Default)]
pub(super) struct Asked {
    /// To be recorded.
    cause: Option<StopCause>,
    /// To be carried out, once there is a microVM.
    ending: Option<Ending>,
    replies: Vec<Reply>,
    /// Signals for the workload, to be passed on once there is a microVM.
    signals: Vec<(i32, Reply)>,
}

impl Asked {
    /// A request is meant for good: it is never forgotten for an end that is not, and a kill is what it comes to.
    fn add(&mut self, cause: StopCause) {
        if self.cause.as_ref().is_none_or(|before| weight(before) < weight(&cause)) {
            self.cause = Some(cause);
        }
    }
}

fn weight(cause: &StopCause) -> u8 {
    match cause {
        StopCause::WorkloadEnded | StopCause::Faulted { .. } | StopCause::OrchestratorEnds => 0,
        StopCause::Requested => 1,
        StopCause::Killed { .. } => 2,
    }
}

impl Life {
    /// [`Life::apply_then`], where nobody waits for an answer.
    pub(super) async fn apply_and_end(&mut self, event: Event, ending: Ending) -> Result<(), Interrupted> {
        if let Err(error) = self.apply_then(event, ending).await? {
            tracing::warn!(sandbox = %self.config.row.spec.key, error = %error.chain(), "ending the microVM");
        }
        Ok(())
    }

    /// One edge after which the microVM is ended; before it is durable if that takes more than one try.
    pub(super) async fn apply_then(
        &mut self,
        event: Event,
        ending: Ending,
    ) -> Result<Result<(), DriverError>, Interrupted> {
        let now = Instant::now();
        self.plan(ending, now);
        self.ending = Some((ending, now + DURABLE_FIRST));
        self.apply(event).await?;
        Ok(self.carry_out().await)
    }

    /// From now on it ends, whatever the guest, a thread or the database does.
    fn plan(&mut self, ending: Ending, now: Instant) {
        match ending {
            Ending::Ask(grace) => self.deadlines.stop_asked(now, grace),
            Ending::Kill => self.deadlines.kill_asked(now + DURABLE_FIRST),
        }
    }

    async fn carry_out(&mut self) -> Result<(), DriverError> {
        let Some((ending, _)) = self.ending.take() else { return Ok(()) };
        self.end(ending).await
    }

    async fn end(&mut self, ending: Ending) -> Result<(), DriverError> {
        let Some(vmm) = self.vmm() else {
            self.asked.ending = Some(ending.or_harder(self.asked.ending));
            self.config.launch.cancel.cancel();
            return Ok(());
        };
        match ending {
            // One that has ended cannot be asked; its guest powers off when its exit is recorded.
            Ending::Ask(_) if self.report.is_some() => {}
            Ending::Ask(_) => self.ask_workload_to_end(&vmm).await,
            Ending::Kill => return vmm.process.signal_vmm(SIGKILL),
        }
        Ok(())
    }

    /// Carries out what was asked for while there was no microVM. Where none comes, who waits hears that it has ended.
    pub(super) async fn end_as_asked(&mut self) {
        if let Some(ending) = self.asked.ending.take()
            && let Err(error) = self.end(ending).await
        {
            tracing::warn!(sandbox = %self.config.row.spec.key, error = %error.chain(), "ending the microVM");
        }
        let Some(vmm) = self.vmm() else { return };
        for (signal, reply) in std::mem::take(&mut self.asked.signals) {
            let _ = reply.send(self.signal_workload(&vmm, signal).await);
        }
    }

    /// One edge: decided, durable, told. An event without an edge changes nothing.
    pub(super) async fn apply(&mut self, event: Event) -> Result<(), Interrupted> {
        let (row, record) =
            match advance(&self.config.row, &event, Utc::now(), self.runs_since.map(|since| since.elapsed())) {
                Ok(Some(step)) => step,
                Ok(None) => return Ok(()),
                Err(no_edge) => {
                    tracing::warn!(sandbox = %self.config.row.spec.key, %no_edge, "event ignored");
                    return Ok(());
                }
            };
        let mut pauses = RETRY_PAUSES.into_iter();
        let mut pause = RETRY_PAUSES[0];
        loop {
            let recording = self.config.database.send(RecordTransition(record.clone()));
            let Err(error) = self.meanwhile(recording).await? else { break };
            if let DatabaseError::UnknownSandbox { .. } = error {
                tracing::error!(sandbox = %row.spec.key, %error, "the row was removed while its microVM lived");
                break;
            }
            let error = crate::driver::error_chain(&error);
            tracing::warn!(sandbox = %row.spec.key, error, "the state change is not durable yet");
            self.config.faults.count(Counter::DatabaseRetries);
            self.carry_out_and_tell().await;
            pause = pauses.next().unwrap_or(pause);
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
        tracing::info!(sandbox = %row.spec.key, from = %self.config.row.state.status(), to = %row.state.status(), event = event.name());
        self.config.row = row;
        if self.config.row.state != SandboxState::Running {
            (self.health, self.checking) = (None, None);
        }
        self.state.send_replace(self.config.row.state.clone());
        (self.config.on_change)(StateChanged { row: std::sync::Arc::new(self.config.row.clone()) });
        Ok(())
    }

    /// Records a stop that was carried out while something else was being recorded.
    pub(super) async fn record_asked(&mut self) -> Result<(), Interrupted> {
        while let Some(cause) = self.asked.cause.take() {
            self.apply(Event::StopRequested(cause)).await?;
        }
        for reply in self.asked.replies.drain(..) {
            let _ = reply.send(Ok(()));
        }
        Ok(())
    }

    /// Tries until it works: with a full disk the bytes wait in the pipes, which the waiter holds.
    pub(super) async fn close_log(&mut self) -> Result<(), Interrupted> {
        let mut pauses = RETRY_PAUSES.into_iter();
        let mut pause = RETRY_PAUSES[0];
        loop {
            let closing = self.config.log.send(Close);
            let Err(error) = self.meanwhile(closing).await? else { return Ok(()) };
            if let LogError::NotWrittenOut(_) = error {
                // All is on file, and the writer has ended: it has told why.
                return Ok(());
            }
            tracing::warn!(sandbox = %self.config.row.spec.key, %error, "the log cannot be completed yet");
            pause = pauses.next().unwrap_or(pause);
            self.meanwhile(tokio::time::sleep(pause)).await;
        }
    }

    /// Waits for what depends on a disk, and does meanwhile what must not.
    pub(super) async fn meanwhile<T>(&mut self, wait: impl Future<Output = T>) -> T {
        let mut wait = pin!(wait);
        loop {
            let due = self.deadlines.next_escalation();
            let timer = OptionFuture::from(due.map(|at| tokio::time::sleep_until(at.into())));
            let act = OptionFuture::from(self.ending.map(|(_, at)| tokio::time::sleep_until(at.into())));
            let killing = OptionFuture::from(self.killing.as_mut());
            tokio::select! {
                biased;
                done = &mut wait => return done,
                Some(command) = self.commands.recv() => self.act_at_once(command).await,
                Some(()) = act => self.carry_out_and_tell().await,
                Some(()) = timer => self.escalate_at_once(),
                Some(()) = killing => self.killing = None,
            }
        }
    }

    async fn act_at_once(&mut self, command: Command) {
        let (ending, cause, reply) = match command {
            Command::Stop { grace, by, reply } => (Ending::Ask(grace), by.cause(), reply),
            Command::Kill { signal: SIGKILL, reply } => (Ending::Kill, StopCause::Killed { signal: SIGKILL }, reply),
            Command::Kill { signal, reply } => {
                match self.vmm() {
                    Some(vmm) => drop(reply.send(self.signal_workload(&vmm, signal).await)),
                    None if self.asked.signals.len() < SIGNALS_MAX => self.asked.signals.push((signal, reply)),
                    None => drop(reply.send(Err(MonitorError::Driver("the guest is not there yet".to_owned())))),
                }
                return;
            }
        };
        self.plan(ending, Instant::now());
        let ended = self.end(ending).await;
        self.asked.add(cause);
        match ended {
            Ok(()) => self.asked.replies.push(reply),
            Err(error) => {
                let _ = reply.send(Err(MonitorError::Driver(error.chain())));
            }
        }
    }

    fn escalate_at_once(&mut self) {
        let signal = match self.deadlines.take_escalation(Instant::now()) {
            Some(Due::TerminateVmm) => SIGTERM,
            Some(Due::KillVmm) => SIGKILL,
            Some(Due::TimeLimit) | None => return,
        };
        if let Some(vmm) = self.vmm() {
            return self.signal_vmm(&vmm, signal);
        }
        // It lives, but the host lacks what finding it takes. Its records are enough to kill it.
        let (driver, launch) = (self.config.driver.clone(), self.config.launch.clone());
        let killed = blocking(move || driver.kill(&launch));
        self.killing = Some(Box::pin(async move { killed.await.unwrap_or(()) }));
    }

    async fn carry_out_and_tell(&mut self) {
        if let Err(error) = self.carry_out().await {
            tracing::warn!(sandbox = %self.config.row.spec.key, error = %error.chain(), "ending the microVM");
        }
    }
}
