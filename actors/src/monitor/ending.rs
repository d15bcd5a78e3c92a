//! Ending a microVM: who asks for it, what is done at once, and what is done when time is up.
//!
//! ```text
//!   stop, kill, fault ─▶ planned: from now on it ends ─▶ its edge ─▶ durable, or 0.2 s ─▶ workload asked, VMM killed
//!                            └── time is up ─▶ SIGTERM, SIGKILL to the VMM, whatever became of the edge
//! ```
//!
//! Grace and escalation count from the moment when the end was asked for or due. While there is no microVM yet, a
//! stop or a kill gives up its launch.

use std::time::{Duration, Instant};

use nix::libc::{SIGKILL, SIGTERM};
use sandpen_types::signal::Signal;
use sandpen_types::state::{Event, FailureReason, StopCause, StoppedBy};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::DriverError;
use tokio::sync::oneshot;

use super::MonitorError;
use super::deadlines::Due;
use super::edges::{DURABLE_FIRST, Ending};
use super::life::{Life, Microvm};

/// How long passing a message to the guest may take before the VMM is told instead.
const GUEST_CALL_LIMIT: Duration = Duration::from_secs(1);
/// Grace of a workload that reached its time limit or is unhealthy.
pub(super) const TIME_LIMIT_GRACE: Duration = Duration::from_secs(10);
/// Most signals that wait for a microVM that is being made.
const SIGNALS_MAX: usize = 16;

/// The place of a command's answer.
pub(super) type Reply = oneshot::Sender<Result<(), MonitorError>>;

/// A command with the place for its answer.
pub(super) enum Command {
    Stop { grace: Duration, signal: Option<Signal>, by: StoppedBy, reply: Reply },
    Kill { signal: i32, reply: Reply },
}

/// What waits for the microVM while it is made or looked for.
#[derive(Default)]
pub(super) struct Awaiting {
    ending: Option<Ending>,
    /// Signals for the workload.
    signals: Vec<(i32, Reply)>,
}

impl Life {
    pub(super) async fn on_command(&mut self, command: Command) {
        match command {
            Command::Stop { grace, signal, by, reply } => {
                self.stop_signal = signal.or(self.stop_signal);
                self.end_with(Event::StopRequested(by.cause()), Ending::Ask(grace), Some(reply));
            }
            Command::Kill { signal: SIGKILL, reply } => {
                let killed = Event::StopRequested(StopCause::Killed { signal: SIGKILL });
                self.end_with(killed, Ending::Kill, Some(reply));
            }
            Command::Kill { signal, reply } => match self.vmm() {
                Some(vmm) => drop(reply.send(self.signal_workload(&vmm, signal).await)),
                None if self.awaiting.signals.len() < SIGNALS_MAX => self.awaiting.signals.push((signal, reply)),
                None => drop(reply.send(Err(MonitorError::Driver("the guest is not there yet".to_owned())))),
            },
        }
    }

    /// From now on it ends, whatever the guest, a thread or the database does.
    pub(super) fn end_with(&mut self, event: Event, ending: Ending, reply: Option<Reply>) {
        // Nobody asks any more how he is who is asked to go.
        (self.health, self.checking) = (None, None);
        (self.quiet, self.peeking) = (None, None);
        if self.phase.is_ending() {
            // Who asks hears that it has ended, once it has.
            self.late.extend(reply);
            return;
        }
        let now = Instant::now();
        if !self.phase.is_after_the_end() {
            match ending {
                Ending::Ask(grace) => self.deadlines.stop_asked(now, grace),
                Ending::Kill => self.deadlines.kill_asked(now + DURABLE_FIRST),
            }
        }
        self.edges.push_ending(event, ending, reply, now);
    }

    /// What waits for its edge no longer.
    pub(super) async fn carry_out_due(&mut self) {
        let Some(ending) = self.edges.take_ending(Instant::now()) else { return };
        if let Err(error) = self.carry_out(ending).await {
            for reply in self.edges.take_replies_of_kills() {
                let _ = reply.send(Err(MonitorError::Driver(error.chain())));
            }
        }
    }

    /// Does what an ending means; tells what goes wrong.
    pub(super) async fn carry_out(&mut self, ending: Ending) -> Result<(), DriverError> {
        if self.phase.is_after_the_end() {
            return Ok(());
        }
        let Some(vmm) = self.vmm() else {
            self.awaiting.ending = Some(ending.or_harder(self.awaiting.ending));
            self.config.launch.cancel.cancel();
            return Ok(());
        };
        match ending {
            // One that has ended cannot be asked; its guest powers off when its exit is recorded.
            Ending::Ask(_) if self.report.is_some() => Ok(()),
            Ending::Ask(_) => {
                let signal = self.stop_signal.or(self.config.row.spec.stop_signal).map_or(SIGTERM, Signal::number);
                if self.signal_workload(&vmm, signal).await.is_err() {
                    // A guest that cannot be asked gets no grace.
                    self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
                }
                Ok(())
            }
            Ending::Kill => vmm.process.signal_vmm(SIGKILL).inspect_err(|error| {
                tracing::warn!(error = %error.chain(), "ending the microVM");
            }),
        }
    }

    /// Carries out what was asked for while there was no microVM. Where none comes, who waits hears that it has ended.
    pub(super) async fn carry_out_awaiting(&mut self) {
        let Awaiting { ending, signals } = std::mem::take(&mut self.awaiting);
        if let Some(ending) = ending {
            // It has told what went wrong.
            let _ = self.carry_out(ending).await;
        }
        let Some(vmm) = self.vmm() else { return };
        for (signal, reply) in signals {
            let _ = reply.send(self.signal_workload(&vmm, signal).await);
        }
    }

    async fn signal_workload(&self, vmm: &Microvm, signal: i32) -> Result<(), MonitorError> {
        match tokio::time::timeout(GUEST_CALL_LIMIT, vmm.guest.signal_workload(signal)).await {
            Ok(answer) => answer.map_err(|error| MonitorError::Driver(error.chain())),
            Err(_) => Err(MonitorError::Driver("the guest does not answer".to_owned())),
        }
    }

    /// The guest may power off.
    pub(super) async fn acknowledge(&mut self) {
        let Some(vmm) = self.vmm() else { return };
        if self.phase.is_after_the_end() {
            return;
        }
        let acknowledged = tokio::time::timeout(GUEST_CALL_LIMIT, vmm.guest.acknowledge_exit()).await;
        if !matches!(acknowledged, Ok(Ok(()))) {
            self.signal_vmm(SIGTERM);
        }
        self.deadlines.exit_acknowledged(Instant::now());
    }

    pub(super) fn on_due(&mut self) {
        match self.deadlines.take_due(Instant::now()) {
            // It ended in time, and its last output has its own limit.
            Some(Due::TimeLimit) if self.report.is_some() => {
                self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
            }
            Some(Due::TimeLimit) => {
                self.look_if_suspended();
                let limit = self.config.row.spec.timeout.unwrap_or_default();
                let timed_out = Event::Faulted(FailureReason::TimedOut { limit });
                self.end_with(timed_out, Ending::Ask(TIME_LIMIT_GRACE), None);
            }
            Some(Due::TerminateVmm) => {
                self.look_if_suspended();
                self.signal_vmm(SIGTERM);
            }
            Some(Due::KillVmm) => self.signal_vmm(SIGKILL),
            None => {
                self.check_health();
                self.look_if_quiet();
            }
        }
    }

    fn signal_vmm(&mut self, signal: i32) {
        if let Some(vmm) = self.vmm() {
            if let Err(error) = vmm.process.signal_vmm(signal) {
                tracing::warn!(error = %error.chain(), "the VMM process was not signalled");
            }
            return;
        }
        // It lives, but the host lacks what finding it takes. Its records are enough to kill it.
        let (driver, launch) = (self.config.driver.clone(), self.config.launch.clone());
        let killed = blocking(move || driver.kill(&launch));
        self.killing = Some(Box::pin(async move { killed.await.unwrap_or(()) }));
    }
}
