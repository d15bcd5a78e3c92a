//! The story of one microVM, told in order: made or found, watched, drained, recorded.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::MailboxError;
use chrono::Utc;
use futures::future::{BoxFuture, OptionFuture};
use nix::libc::{SIGKILL, SIGTERM};
use tokio::sync::{mpsc, oneshot, watch};

use super::deadlines::{DRAIN_LIMIT, Deadlines, Due};
use super::health::Health;
use super::recording::{Asked, Ending};
use super::{MonitorConfig, MonitorError};
use crate::blocking::blocking;
use crate::clock::{process_age, run_time};
use crate::driver::{GuestSession, ProbeOutcome, Vmm, VmmEvent, VmmProcess};
use crate::log_writer::{AttachStream, AwaitBytes, LogError, StreamTotals};
use crate::start_timings::StartStep;
use crate::state::{Event, ExitStatus, FailureReason, SandboxState, StopCause, StoppedBy};

/// How long the pipes may bring nothing while bytes that the guest reported are missing. They are in
/// QEMU's or libkrun's hands then, which takes microseconds; seconds mean that the guest lied.
const MISSING_BYTES_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of one stream that can be on their way: a pipe (1 MiB, the most that an ordinary user gets) and a
/// virtio queue (256 descriptors; PID 1 writes 4 KiB each, the largest that any guest of ours has are 32 KiB), doubled.
const IN_FLIGHT_MAX: u64 = 16 << 20;
/// How long passing a message to the guest may take before the VMM is told instead.
const GUEST_CALL_LIMIT: Duration = Duration::from_secs(1);
/// Grace of a workload that reached its time limit or is unhealthy.
pub(super) const TIME_LIMIT_GRACE: Duration = Duration::from_secs(10);

/// A command with the place for its answer.
pub(super) enum Command {
    Stop { grace: Duration, by: StoppedBy, reply: oneshot::Sender<Result<(), MonitorError>> },
    Kill { signal: i32, reply: oneshot::Sender<Result<(), MonitorError>> },
}

/// An actor that this story cannot go on without has ended; the supervisor starts it again and finds
/// the microVM by adoption.
pub(super) struct Interrupted;

impl From<MailboxError> for Interrupted {
    fn from(_: MailboxError) -> Self {
        Self
    }
}

/// The guest's report of the workload's end.
#[derive(Clone, Copy)]
pub(super) struct ExitReport {
    exit: ExitStatus,
    stdout: u64,
    stderr: u64,
}

/// The answer of a health check on its way, or why there is none.
pub(super) type Checking = BoxFuture<'static, Result<ProbeOutcome, String>>;
type Draining = BoxFuture<'static, Result<Result<StreamTotals, LogError>, MailboxError>>;
/// A look whether the VMM process is suspended.
pub(super) type Looking = BoxFuture<'static, bool>;

/// A microVM that is there: how the monitor acts on it.
#[derive(Clone)]
pub(super) struct Microvm {
    pub(super) process: Arc<dyn VmmProcess>,
    pub(super) guest: Arc<dyn GuestSession>,
}

pub(super) struct Life {
    pub(super) config: MonitorConfig,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) state: watch::Sender<SandboxState>,
    microvm: watch::Sender<Option<Microvm>>,
    pub(super) deadlines: Deadlines,
    pub(super) report: Option<ExitReport>,
    draining: Option<Draining>,
    pub(super) health: Option<Health>,
    pub(super) checking: Option<Checking>,
    /// What follows the edge that is being recorded, and until when it waits for that.
    pub(super) ending: Option<(Ending, Instant)>,
    /// Stops that were carried out while something else was being recorded.
    pub(super) asked: Asked,
    /// Whether its VMM process was found suspended last.
    pub(super) suspended: bool,
    pub(super) looking: Option<Looking>,
    /// The end of a microVM that is known by its records alone.
    pub(super) killing: Option<BoxFuture<'static, ()>>,
    /// Since when the workload runs, by the clock that nobody sets.
    pub(super) runs_since: Option<Instant>,
}

impl Life {
    pub(super) fn new(
        config: MonitorConfig,
        commands: mpsc::Receiver<Command>,
        state: watch::Sender<SandboxState>,
        microvm: watch::Sender<Option<Microvm>>,
    ) -> Self {
        Self {
            config,
            commands,
            state,
            microvm,
            deadlines: Deadlines::default(),
            report: None,
            draining: None,
            health: None,
            checking: None,
            ending: None,
            asked: Asked::default(),
            suspended: false,
            looking: None,
            killing: None,
            runs_since: None,
        }
    }

    /// From the first step to the last; returns early when an actor it needs is gone.
    pub(super) async fn run(mut self) {
        let sandbox = self.config.row.spec.key.to_string();
        if matches!(self.live().await, Err(Interrupted)) {
            tracing::warn!(%sandbox, "the monitor lost its log writer or the database and ends");
        }
    }

    async fn live(&mut self) -> Result<(), Interrupted> {
        let vmm = match self.make().await {
            Ok(vmm) => vmm,
            Err(error) => return self.end_without_vmm(&error).await,
        };
        let Vmm { process, guest, outputs, mut events } = vmm;
        let vmm = Microvm { process, guest };
        self.config.row.microvm_pid = vmm.process.pid();
        self.microvm.send_replace(Some(vmm.clone()));
        self.end_as_asked().await;
        for (stream, pipe) in outputs {
            let attaching = self.config.log.send(AttachStream { stream, pipe });
            if let Err(error) = self.meanwhile(attaching).await? {
                let message = crate::driver::error_chain(&error);
                self.apply_and_end(Event::Faulted(FailureReason::Internal { message }), Ending::Kill).await?;
            }
        }
        let mut age = None;
        if let Some(pid) = vmm.process.pid() {
            let looked = blocking(move || process_age(pid));
            age = self.meanwhile(looked).await.unwrap_or(None);
        }
        self.resume_deadlines(age);
        let status = self.watch(&vmm, &mut events).await?;
        self.finish(&vmm, status).await
    }

    /// Handles one thing after the other until the VMM process is gone.
    async fn watch(&mut self, vmm: &Microvm, events: &mut mpsc::Receiver<VmmEvent>) -> Result<ExitStatus, Interrupted> {
        loop {
            self.record_asked().await?;
            let health_due = self.health.as_ref().and_then(Health::due);
            let due = self.deadlines.next().into_iter().chain(health_due).min();
            let timer = OptionFuture::from(due.map(|at| tokio::time::sleep_until(at.into())));
            let draining = OptionFuture::from(self.draining.as_mut());
            let checking = OptionFuture::from(self.checking.as_mut());
            let looking = OptionFuture::from(self.looking.as_mut());
            tokio::select! {
                event = events.recv() => match event {
                    Some(VmmEvent::VmmExited(status)) => return Ok(status),
                    Some(event) => self.on_event(vmm, event).await?,
                    // The driver's own task is gone: start over by adoption.
                    None => return Err(Interrupted),
                },
                Some(command) = self.commands.recv() => self.on_command(vmm, command).await?,
                Some(totals) = draining => {
                    self.draining = None;
                    self.on_drained(vmm, totals?).await?;
                }
                Some(answer) = checking => {
                    self.checking = None;
                    self.on_checked(vmm, answer).await?;
                }
                Some(suspended) = looking => {
                    self.looking = None;
                    self.on_looked(vmm, suspended);
                }
                Some(()) = timer => self.on_due(vmm).await?,
            }
        }
    }

    async fn on_event(&mut self, vmm: &Microvm, event: VmmEvent) -> Result<(), Interrupted> {
        match event {
            VmmEvent::WorkloadStarted => {
                if self.config.row.state == SandboxState::Starting {
                    self.apply(Event::WorkloadStarted).await?;
                    self.mark(StartStep::Running);
                    // It has just begun, whatever the clock says.
                    self.resume_deadlines(Some(Duration::ZERO));
                }
            }
            VmmEvent::WorkloadNotStarted { code, message } => {
                self.apply(Event::WorkloadNotStarted { code, message }).await?;
                self.acknowledge(vmm).await;
            }
            VmmEvent::WorkloadExited { exit, stdout_bytes, stderr_bytes } => {
                let (stdout, stderr) = (stdout_bytes.unwrap_or(0), stderr_bytes.unwrap_or(0));
                self.mark(StartStep::WorkloadEnded);
                self.report = Some(ExitReport { exit, stdout, stderr });
                self.deadlines.workload_ended(Instant::now());
                // There is nobody left to be asked how he is.
                (self.health, self.checking) = (None, None);
                let wanted = AwaitBytes {
                    stdout,
                    stderr,
                    missing_max: IN_FLIGHT_MAX,
                    idle_limit: MISSING_BYTES_LIMIT,
                    limit: DRAIN_LIMIT,
                };
                self.draining = Some(Box::pin(self.config.log.send(wanted)));
            }
            VmmEvent::Faulted(reason) => {
                self.apply_and_end(Event::Faulted(reason), Ending::Kill).await?;
            }
            VmmEvent::VmmExited(_) => {}
        }
        Ok(())
    }

    /// The workload's last byte is on file: its end is made durable, then the guest may power off.
    async fn on_drained(&mut self, vmm: &Microvm, totals: Result<StreamTotals, LogError>) -> Result<(), Interrupted> {
        let Some(report) = self.report else { return Ok(()) };
        self.mark(StartStep::OutputComplete);
        match totals {
            Ok(totals) if !totals.reaches(report.stdout, report.stderr) => tracing::warn!(
                sandbox = %self.config.row.spec.key,
                reported_stdout = report.stdout,
                reported_stderr = report.stderr,
                ?totals,
                "the guest reported more output than ever arrived"
            ),
            Ok(_) => {}
            Err(error @ LogError::TooManyMissing { .. }) => {
                // What it says of its exit is worth no more.
                self.report = None;
                let reason = FailureReason::ProtocolBroken { message: error.to_string() };
                return self.apply_and_end(Event::Faulted(reason), Ending::Kill).await;
            }
            // The guest may power off when its bytes are on file, and nobody knows that now: whoever finds the
            // microVM again asks it anew.
            Err(error) => {
                tracing::warn!(sandbox = %self.config.row.spec.key, %error, "waiting for the last output failed");
                return Err(Interrupted);
            }
        }
        self.record_exit().await?;
        self.acknowledge(vmm).await;
        Ok(())
    }

    async fn record_exit(&mut self) -> Result<(), Interrupted> {
        if let Some(ExitReport { exit, .. }) = self.report
            && self.config.row.state.exit().is_none()
        {
            // A report can be the first sign of life after an adoption.
            if self.config.row.state == SandboxState::Starting {
                self.apply(Event::WorkloadStarted).await?;
            }
            self.apply(Event::WorkloadExited(exit)).await?;
            self.mark(StartStep::ExitRecorded);
        }
        Ok(())
    }

    async fn acknowledge(&mut self, vmm: &Microvm) {
        let acknowledged = tokio::time::timeout(GUEST_CALL_LIMIT, vmm.guest.acknowledge_exit()).await;
        if !matches!(acknowledged, Ok(Ok(()))) {
            self.signal_vmm(vmm, SIGTERM);
        }
        self.deadlines.exit_acknowledged(Instant::now());
    }

    async fn on_command(&mut self, vmm: &Microvm, command: Command) -> Result<(), Interrupted> {
        match command {
            Command::Stop { grace, by, reply } => {
                self.apply_and_end(Event::StopRequested(by.cause()), Ending::Ask(grace)).await?;
                let _ = reply.send(Ok(()));
            }
            Command::Kill { signal: SIGKILL, reply } => {
                let cause = StopCause::Killed { signal: SIGKILL };
                let killed = self.apply_then(Event::StopRequested(cause), Ending::Kill).await?;
                let _ = reply.send(killed.map_err(|error| MonitorError::Driver(error.chain())));
            }
            Command::Kill { signal, reply } => {
                let _ = reply.send(self.signal_workload(vmm, signal).await);
            }
        }
        Ok(())
    }

    pub(super) async fn signal_workload(&self, vmm: &Microvm, signal: i32) -> Result<(), MonitorError> {
        match tokio::time::timeout(GUEST_CALL_LIMIT, vmm.guest.signal_workload(signal)).await {
            Ok(answer) => answer.map_err(|error| MonitorError::Driver(error.chain())),
            Err(_) => Err(MonitorError::Driver("the guest does not answer".to_owned())),
        }
    }

    pub(super) async fn ask_workload_to_end(&mut self, vmm: &Microvm) {
        let asked = tokio::time::timeout(GUEST_CALL_LIMIT, vmm.guest.signal_workload(SIGTERM)).await;
        if !matches!(asked, Ok(Ok(()))) {
            // A guest that cannot be asked gets no grace.
            self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
        }
    }

    async fn on_due(&mut self, vmm: &Microvm) -> Result<(), Interrupted> {
        match self.deadlines.take_due(Instant::now()) {
            // It ended in time, and its last output has its own limit.
            Some(Due::TimeLimit) if self.report.is_some() => {
                self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
            }
            Some(Due::TimeLimit) => {
                self.look_if_suspended(vmm);
                let limit = self.config.row.spec.timeout.unwrap_or_default();
                let event = Event::Faulted(FailureReason::TimedOut { limit });
                self.apply_and_end(event, Ending::Ask(TIME_LIMIT_GRACE)).await?;
            }
            Some(Due::TerminateVmm) => {
                self.look_if_suspended(vmm);
                self.signal_vmm(vmm, SIGTERM);
            }
            Some(Due::KillVmm) => self.signal_vmm(vmm, SIGKILL),
            None => self.check_health(vmm),
        }
        Ok(())
    }

    /// The VMM is gone: the pipes' rest goes on file, then the end becomes visible.
    async fn finish(&mut self, vmm: &Microvm, status: ExitStatus) -> Result<(), Interrupted> {
        self.mark(StartStep::VmmEnded);
        self.close_log().await?;
        self.record_asked().await?;
        self.record_exit().await?;
        self.apply(Event::VmmExited(status)).await?;
        self.mark(StartStep::EndRecorded);
        if let Err(error) = vmm.process.release().await {
            tracing::warn!(sandbox = %self.config.row.spec.key, error = %error.chain(), "cleaning up after the microVM");
        }
        self.mark(StartStep::Released);
        self.config.released.store(true, Ordering::Release);
        Ok(())
    }

    fn mark(&self, step: StartStep) {
        self.config.launch.timings.mark(step);
    }

    /// The microVM, once there is one.
    pub(super) fn vmm(&self) -> Option<Microvm> {
        self.microvm.borrow().clone()
    }

    pub(super) fn signal_vmm(&self, vmm: &Microvm, signal: i32) {
        if let Err(error) = vmm.process.signal_vmm(signal) {
            tracing::warn!(sandbox = %self.config.row.spec.key, error = %error.chain(), "the VMM process was not signalled");
        }
    }

    /// Deadlines from the row, so that they hold over an adoption too.
    fn resume_deadlines(&mut self, age: Option<Duration>) {
        let row = &self.config.row;
        if row.state != SandboxState::Running {
            match row.state {
                SandboxState::Stopping { exit: None, .. } => {
                    self.deadlines.stop_asked(Instant::now(), TIME_LIMIT_GRACE);
                }
                // Its guest says so once more, and powers off; one that says otherwise is ended.
                SandboxState::Stopping { exit: Some(_), .. } => {
                    self.deadlines.workload_ended(Instant::now());
                    self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
                }
                _ => {}
            }
            return;
        }
        let ran = run_time(row.started_at, Utc::now(), age);
        self.runs_since = Instant::now().checked_sub(ran);
        let known = row.health.clone();
        self.health = row.spec.health.clone().map(|check| Health::new(check, ran, known, Instant::now()));
        if let Some(limit) = row.spec.timeout
            && let Some(at) = Instant::now().checked_add(limit.saturating_sub(ran))
        {
            self.deadlines.limit_run_time(at);
        }
    }
}
