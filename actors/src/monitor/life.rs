//! The story of one microVM, told in order: made or found, watched, drained, recorded.
//!
//! One loop for all of it: whatever [phase](super::phase) the microVM is in, a command is heard, a deadline is kept,
//! and the [edges](super::edges) go to the database one after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::MailboxError;
use chrono::Utc;
use futures::future::{BoxFuture, OptionFuture};
use sandpen_types::event::EventKind;
use sandpen_types::signal::Signal;
use sandpen_types::start_step::StartStep;
use sandpen_types::state::{Event, ExitStatus, FailureReason, SandboxState};
use sandpen_vmm::driver::{GuestSession, ProbeOutcome, VmmEvent, VmmProcess};
use tokio::sync::{mpsc, watch};

use super::deadlines::Deadlines;
use super::edges::{After, Edges, Ending};
use super::ending::{Awaiting, Command, Reply, TIME_LIMIT_GRACE};
use super::health::Health;
use super::outputs::{Attached, Draining};
use super::phase::{End, Phase, Rest, Step};
use super::quiet::{Quiet, Seen};
use super::recording::Recording;
use super::run::Run;
use super::used_guest::UsedGuest;
use super::{MonitorConfig, StartMode};
use crate::host::clock::run_time;
use crate::jobs::UseGuest;

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
    pub(super) exit: ExitStatus,
    pub(super) stdout: u64,
    pub(super) stderr: u64,
}

/// A microVM that is there: how the monitor acts on it.
#[derive(Clone)]
pub(super) struct Microvm {
    pub(super) process: Arc<dyn VmmProcess>,
    pub(super) guest: Arc<dyn GuestSession>,
}

pub(super) struct Life {
    pub(super) config: MonitorConfig,
    commands: mpsc::Receiver<Command>,
    pub(super) state: watch::Sender<SandboxState>,
    microvm: watch::Sender<Option<Microvm>>,
    /// The row's state when this life began.
    pub(super) found: SandboxState,
    pub(super) phase: Phase,
    pub(super) edges: Edges<Reply>,
    pub(super) recording: Option<Recording>,
    pub(super) deadlines: Deadlines,
    pub(super) awaiting: Awaiting,
    /// What asks the workload to end, where somebody said so.
    pub(super) stop_signal: Option<Signal>,
    /// Who asked for the end when it was on its way to the database.
    pub(super) late: Vec<Reply>,
    pub(super) report: Option<ExitReport>,
    draining: Option<Draining>,
    pub(super) health: Option<Health>,
    /// The answer of a health check on its way, or why there is none.
    pub(super) checking: Option<BoxFuture<'static, Result<ProbeOutcome, String>>>,
    /// Where it is stopped when nobody uses it, and a look whether somebody does.
    pub(super) quiet: Option<Quiet>,
    pub(super) peeking: Option<BoxFuture<'static, Option<Seen>>>,
    /// How often its guest was used.
    pub(super) uses: Arc<AtomicU64>,
    /// The guest as the keeper of jobs uses it, for as long as this life has it.
    for_jobs: Option<Arc<dyn GuestSession>>,
    /// Whether its VMM process was found suspended last.
    pub(super) suspended: bool,
    /// A look whether it is.
    pub(super) looking: Option<BoxFuture<'static, bool>>,
    /// The end of a microVM that is known by its records alone.
    pub(super) killing: Option<BoxFuture<'static, ()>>,
    /// For how long the workload runs.
    pub(super) run: Run,
}

impl Life {
    pub(super) fn new(
        mut config: MonitorConfig,
        commands: mpsc::Receiver<Command>,
        state: watch::Sender<SandboxState>,
        microvm: watch::Sender<Option<Microvm>>,
        uses: Arc<AtomicU64>,
    ) -> Self {
        Self {
            commands,
            state,
            microvm,
            found: config.row.state.clone(),
            run: Run::of(&config.row),
            phase: Phase::Making(super::making::making(&mut config)),
            config,
            edges: Edges::default(),
            recording: None,
            deadlines: Deadlines::default(),
            awaiting: Awaiting::default(),
            late: Vec::new(),
            report: None,
            draining: None,
            health: None,
            checking: None,
            quiet: None,
            peeking: None,
            uses,
            for_jobs: None,
            stop_signal: None,
            suspended: false,
            looking: None,
            killing: None,
        }
    }

    /// From the first step to the last; returns early when an actor it needs is gone.
    pub(super) async fn live(mut self) {
        if matches!(self.live_through().await, Err(Interrupted)) {
            tracing::warn!("the monitor lost its log writer or the database and ends");
        }
    }

    /// Handles one thing after the other until nothing is left to do.
    async fn live_through(&mut self) -> Result<(), Interrupted> {
        loop {
            self.begin_recording().await;
            match std::mem::replace(&mut self.phase, Phase::Over) {
                Phase::Over => return Ok(()),
                Phase::Closed(end) if self.recording.is_none() => {
                    self.record_end(&end);
                    continue;
                }
                phase => self.phase = phase,
            }
            let health_due = self.health.as_ref().and_then(Health::due);
            let quiet_due = self.quiet.as_ref().and_then(Quiet::due);
            let due = self.deadlines.next().into_iter().chain(health_due).chain(quiet_due).min();
            let timer = OptionFuture::from(due.map(|at| tokio::time::sleep_until(at.into())));
            let waited = self.edges.next_ending();
            let waited = OptionFuture::from(waited.map(|at| tokio::time::sleep_until(at.into())));
            let recording = OptionFuture::from(self.recording.as_mut().map(|recording| &mut recording.answer));
            let draining = OptionFuture::from(self.draining.as_mut());
            let checking = OptionFuture::from(self.checking.as_mut());
            let peeking = OptionFuture::from(self.peeking.as_mut());
            let looking = OptionFuture::from(self.looking.as_mut());
            let killing = OptionFuture::from(self.killing.as_mut());
            tokio::select! {
                step = self.phase.next() => self.on_step(step).await?,
                Some(command) = self.commands.recv() => self.on_command(command).await,
                Some(answer) = recording => self.on_recorded(answer).await?,
                Some(()) = waited => self.carry_out_due().await,
                Some(()) = timer => self.on_due(),
                Some(totals) = draining => {
                    self.draining = None;
                    self.on_drained(totals?)?;
                }
                Some(answer) = checking => {
                    self.checking = None;
                    self.on_checked(&answer);
                }
                Some(seen) = peeking => {
                    self.peeking = None;
                    self.on_peeked(seen);
                }
                Some(suspended) = looking => {
                    self.looking = None;
                    self.on_looked(suspended);
                }
                Some(()) = killing => self.killing = None,
            }
        }
    }

    /// A phase has ended, or has brought something.
    async fn on_step(&mut self, step: Step) -> Result<(), Interrupted> {
        match step {
            Step::Made(Ok(vmm)) => {
                let there = Microvm { process: vmm.process.clone(), guest: vmm.guest.clone() };
                self.config.row.microvm_pid = there.process.pid();
                // Before anybody can ask for a job.
                self.use_guest_for_jobs(there.guest.clone());
                self.microvm.send_replace(Some(there));
                self.carry_out_awaiting().await;
                self.phase = Phase::Attaching(self.attach(vmm));
            }
            Step::Made(Err(error)) => self.phase = Phase::Closing(self.close_log(End::NoVmm(error))),
            Step::Attached(attached) => {
                let Attached { events, failed, age } = attached?;
                self.phase = Phase::Watching(events);
                if let Some(message) = failed {
                    self.end_with(Event::Faulted(FailureReason::Internal { message }), Ending::Kill, None);
                }
                self.resume_deadlines(age);
            }
            Step::Event(Some(event)) => self.on_event(event),
            // The driver's own task is gone: start over by adoption.
            Step::Event(None) => return Err(Interrupted),
            Step::LogClosed(end) => self.phase = Phase::Closed(end?),
            Step::Released(released) => {
                if let Err(error) = released {
                    tracing::warn!(error = %error.chain(), "cleaning up after the microVM");
                }
                self.mark(StartStep::Released);
                self.set_released();
                self.phase = Phase::Over;
            }
        }
        Ok(())
    }

    fn on_event(&mut self, event: VmmEvent) {
        match event {
            VmmEvent::WorkloadStarted => {
                self.run.told(Instant::now());
                self.edges.push(Event::WorkloadStarted, After::CountRunTime);
            }
            VmmEvent::WorkloadNotStarted { code, message } => {
                self.edges.push(Event::WorkloadNotStarted { code, message }, After::Acknowledge);
            }
            VmmEvent::WorkloadExited { exit, stdout_bytes, stderr_bytes } => {
                let report = ExitReport { exit, stdout: stdout_bytes.unwrap_or(0), stderr: stderr_bytes.unwrap_or(0) };
                self.mark(StartStep::WorkloadEnded);
                self.run.end(Instant::now());
                self.report = Some(report);
                self.deadlines.workload_ended(Instant::now());
                // There is nobody left to be asked how he is.
                (self.health, self.checking) = (None, None);
                (self.quiet, self.peeking) = (None, None);
                self.draining = Some(self.drain(report));
            }
            VmmEvent::FilesLimitMet => {
                let sandbox = &self.config.row.spec.key;
                self.config.faults.tell_of_sandbox(Some(sandbox), EventKind::FilesLimitMet {});
            }
            VmmEvent::OutOfMemory { process } => {
                let (sandbox, generation) = (&self.config.row.spec.key, self.config.row.generation);
                self.config.faults.tell_of_sandbox(Some(sandbox), EventKind::OutOfMemory { generation, process });
            }
            VmmEvent::Faulted(reason) => self.end_with(Event::Faulted(reason), Ending::Kill, None),
            // The pipes' rest goes on file, then the end becomes visible.
            VmmEvent::VmmExited(status) => {
                self.mark(StartStep::VmmEnded);
                self.run.end(Instant::now());
                self.deadlines.vmm_ended();
                (self.health, self.checking, self.draining) = (None, None, None);
                (self.quiet, self.peeking) = (None, None);
                self.phase = Phase::Closing(self.close_log(End::Vmm(status)));
            }
        }
    }

    /// All output is on file, and all that happened before is durable.
    fn record_end(&mut self, end: &End) {
        self.run.end(Instant::now());
        self.phase = Phase::Ending(match end {
            End::Vmm(status) => {
                if let Some(report) = self.report {
                    self.edges.push(Event::WorkloadExited(report.exit), After::Acknowledge);
                }
                self.edges.push(Event::VmmExited(*status), After::Release);
                Rest::Vmm
            }
            End::NoVmm(error) => self.record_end_without_vmm(error),
        });
    }

    /// The keeper of jobs has the guest through this life alone: when it ends, so does its way.
    fn use_guest_for_jobs(&mut self, guest: Arc<dyn GuestSession>) {
        let guest: Arc<dyn GuestSession> = Arc::new(UsedGuest { guest, uses: self.uses.clone() });
        let is_found = self.config.mode != StartMode::Launch;
        self.config.jobs.do_send(UseGuest { guest: Arc::downgrade(&guest), is_found });
        self.for_jobs = Some(guest);
    }

    pub(super) fn mark(&self, step: StartStep) {
        self.config.launch.timings.mark(step);
    }

    pub(super) fn set_released(&self) {
        self.config.released.store(true, Ordering::Release);
    }

    /// The microVM, once there is one.
    pub(super) fn vmm(&self) -> Option<Microvm> {
        self.microvm.borrow().clone()
    }

    /// Deadlines from the row as it was found, so that they hold over an adoption too.
    fn resume_deadlines(&mut self, age: Option<Duration>) {
        match self.found {
            SandboxState::Stopping { exit: None, .. } => {
                self.deadlines.stop_asked(Instant::now(), TIME_LIMIT_GRACE);
            }
            // Its guest says so once more, and powers off; one that says otherwise is ended.
            SandboxState::Stopping { exit: Some(_), .. } => {
                self.deadlines.workload_ended(Instant::now());
                self.deadlines.stop_asked(Instant::now(), Duration::ZERO);
            }
            _ => self.count_run_time(age),
        }
    }

    /// The workload's time runs, and its health is looked after. `age` is for how long its process runs. What became
    /// durable only after the workload's end begins nothing but the time of its last output.
    pub(super) fn count_run_time(&mut self, age: Option<Duration>) {
        let row = &self.config.row;
        if row.state != SandboxState::Running || self.phase.is_after_the_end() {
            return;
        }
        let ran = run_time(row.started_at, Utc::now(), age);
        self.run.resume(ran, Instant::now());
        if self.run.lasted().is_none() {
            let known = row.health.clone();
            self.health = row.spec.health.clone().map(|check| Health::new(check, ran, known, Instant::now()));
            self.quiet = row.spec.idle_timeout.map(|limit| Quiet::new(limit, Instant::now()));
        }
        if let Some(limit) = row.spec.timeout
            && let Some(at) = Instant::now().checked_add(limit.saturating_sub(ran))
        {
            self.deadlines.limit_run_time(at);
        }
    }
}
