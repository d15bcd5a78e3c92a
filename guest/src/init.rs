//! The one loop of PID 1: control messages, the workload's streams, ended children.
//!
//! ```text
//!   AwaitingStart ──Start──▶ Running ──main process ended──▶ Running (draining) ──▶ Ended
//!        │                                                                            │
//!        └── Start that fails, or a deadly Signal ──▶ NotStarted                      │
//!                                                         └──── AcknowledgeExit ──────┴──▶ (returns)
//! ```
//!
//! When the workload's main process ends, every other process is killed, as in a container; what
//! they wrote before is still read to the end of the pipes, so nothing that was written is lost. Where there are
//! [sessions](crate::sessions), those are hung up first, and the end is told once the host has what is theirs.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::libc;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::sysinfo::sysinfo;
use nix::unistd::Pid;
use sandpen_guest::protocol::session::Budget;
use sandpen_guest::protocol::{
    self, Begin, Bytes, ExitReport, GuestMessage, GuestState, HostMessage, PROTOCOL_VERSION, PowerOff, ProbeEnd,
    RootfsSource, StartFailure, StartFailureCode, TerminalSize, WorkloadEnd, cut_message,
};

use crate::caches::Caches;
use crate::clock::Clock;
use crate::control::Control;
use crate::log::log;
use crate::memory::OutOfMemory;
use crate::pid1::{PrepareError, error_chain};
use crate::ports::Ports;
use crate::probe::{Probe, Surroundings};
use crate::relay::Relay;
use crate::sessions::Sessions;
use crate::stdin::StdinFeed;
use crate::terminal::Terminal;
use crate::usage::UsageReader;
use crate::{process, workload};

pub use self::error::InitError;

mod error;
#[cfg(test)]
mod tests;
mod wait;

/// After the end of the workload, how long a pipe may stay open and silent: a process that even
/// SIGKILL does not end (waiting for a dead file server) must not hold up the report for ever.
const DRAIN_QUIET: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(5) };
/// After the host's last word, the most that sessions' last words may take: less than a host gives a machine to power off.
const LAST_WORDS: Duration = Duration::from_secs(8);
/// What this program knows of its host's messages.
const UNDERSTANDS: GuestMessage = GuestMessage::Understands { messages: HostMessage::VARIANTS };

enum State {
    AwaitingStart,
    Running { pid: Pid, end: Option<WorkloadEnd> },
    NotStarted(StartFailure),
    Ended(ExitReport),
}

/// Makes the machine ready for the workload that is described.
type Prepare = fn(&Begin) -> Result<Option<OwnedFd>, PrepareError>;

/// What PID 1 holds.
pub struct Init {
    control: Control,
    /// The stdin port until the workload gets it.
    stdin_port: Option<OwnedFd>,
    stdin: Option<StdinFeed>,
    stdout: Relay,
    stderr: Relay,
    caches: Caches,
    memory: OutOfMemory,
    usage: UsageReader,
    clock: Clock,
    children: SignalFd,
    null: OwnedFd,
    prepare: Prepare,
    state: State,
    power_off: PowerOff,
    /// The workload's, while its main process runs.
    terminal: Option<Terminal>,
    /// A size that came before the terminal.
    early_size: Option<TerminalSize>,
    /// While draining: when the silence is over.
    quiet_until: Option<Instant>,
    /// The host has acknowledged the end: when the machine ends at the latest.
    end_by: Option<Instant>,
    /// What the workload was started with, while it runs.
    surroundings: Option<Surroundings>,
    /// The host's own command beside it.
    probe: Option<Probe>,
    /// The commands of others beside it.
    sessions: Sessions,
    /// A port without a host says so at once whenever it is polled: none is before this.
    hostless_until: Option<Instant>,
}

impl Init {
    /// Takes the ports; `caches` is the kernel's switch, `prepare` runs between `Start` and the workload.
    pub fn new(ports: Ports, caches: &Path, memory: OutOfMemory, prepare: Prepare) -> Result<Self, InitError> {
        let failed = |action| move |source| InitError::Wait { action, source };
        let mask = SigSet::from(Signal::SIGCHLD);
        mask.thread_block().map_err(failed("blocking SIGCHLD"))?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Self {
            control: Control::new(ports.control),
            stdin_port: Some(ports.stdin),
            stdin: None,
            stdout: Relay::new(ports.stdout),
            stderr: Relay::new(ports.stderr),
            caches: Caches::new(ports.files, caches),
            memory,
            usage: UsageReader::open(),
            clock: Clock::default(),
            sessions: Sessions::new(ports.sessions, Budget::of_memory(sysinfo().map_or(0, |info| info.ram_total()))),
            children: SignalFd::with_flags(&mask, flags).map_err(failed("making a signalfd"))?,
            null: workload::open_null().map_err(failed("opening /dev/null"))?,
            prepare,
            state: State::AwaitingStart,
            power_off: PowerOff::default(),
            terminal: None,
            early_size: None,
            quiet_until: None,
            end_by: None,
            surroundings: None,
            probe: None,
            hostless_until: None,
        })
    }

    /// Serves until the host has acknowledged the end; says how to power off.
    pub fn serve(mut self) -> Result<PowerOff, InitError> {
        // In one piece, or a template could be saved with a half of it under way.
        self.control.send_all(&[GuestMessage::Ready { version: PROTOCOL_VERSION }, UNDERSTANDS])?;
        loop {
            while let Some(message) = self.control.next() {
                self.handle(message)?;
            }
            self.report_end()?;
            if self.is_over() {
                return Ok(self.power_off);
            }
            self.wait()?;
        }
    }

    fn handle(&mut self, message: HostMessage) -> Result<(), InitError> {
        match message {
            HostMessage::Start(start) if self.awaits_start() => self.begin(Box::new((*start).into()), false)?,
            HostMessage::Begin(begin) if self.awaits_start() => self.begin(begin, false)?,
            HostMessage::Idle(begin) if self.awaits_start() => self.begin(begin, true)?,
            HostMessage::Start(_) | HostMessage::Begin(_) | HostMessage::Idle(_) => log!("a second start is ignored"),
            HostMessage::Query { nonce } => {
                let state = self.status();
                self.control.send_all(&[UNDERSTANDS, GuestMessage::Status { nonce, state }])?;
            }
            HostMessage::Signal(signal) => match self.state {
                State::AwaitingStart if is_deadly(signal) => self.fail(ended_early(signal))?,
                State::Running { pid, end: None } => {
                    if let Err(error) = process::signal(pid, signal) {
                        log!("sending signal {signal} to the workload: {error}");
                    }
                }
                _ => {}
            },
            HostMessage::AcknowledgeExit => match self.state {
                State::NotStarted(_) | State::Ended(_) if self.end_by.is_none() => {
                    let now = Instant::now();
                    self.sessions.say_last(now);
                    self.end_by = Some(now + LAST_WORDS);
                }
                State::NotStarted(_) | State::Ended(_) => {}
                State::AwaitingStart | State::Running { .. } => log!("an acknowledgement before the end is ignored"),
            },
            HostMessage::Resize(size) => self.resize(size),
            HostMessage::Probe(probe) => self.begin_probe(probe)?,
            // Of several that came at once the last one is the least old.
            HostMessage::SetClock { wall_clock } => {
                if !self.control.waiting().any(|message| matches!(message, HostMessage::SetClock { .. })) {
                    self.clock.hear(wall_clock);
                }
            }
            HostMessage::GetUsage { nonce } => {
                let root = self.surroundings.as_ref().map(|surroundings| &surroundings.start.rootfs);
                let own_disk = matches!(root, Some(RootfsSource::Overlay { .. } | RootfsSource::Images { .. }));
                let usage = self.usage.read(own_disk);
                self.control.send(&GuestMessage::Usage { nonce, usage })?;
            }
        }
        Ok(())
    }

    /// Whether the host knows how the workload ended, and has what sessions said at last.
    fn is_over(&self) -> bool {
        self.end_by.is_some_and(|until| self.sessions.are_done() || Instant::now() >= until)
    }

    fn awaits_start(&self) -> bool {
        matches!(self.state, State::AwaitingStart)
    }

    fn status(&self) -> GuestState {
        match &self.state {
            State::AwaitingStart => GuestState::AwaitingStart,
            State::Running { .. } => GuestState::Running,
            State::NotStarted(failure) => GuestState::NotStarted(failure.clone()),
            State::Ended(report) => GuestState::Ended(*report),
        }
    }

    fn begin_probe(&mut self, probe: protocol::Probe) -> Result<(), InitError> {
        let (State::Running { end: None, .. }, Some(surroundings)) = (&self.state, &self.surroundings) else {
            return Ok(());
        };
        // Two at once would have to be told apart when the host that asked is another one.
        self.probe = None;
        let protocol::Probe { id, command, limit } = probe;
        match Probe::start(surroundings, id, command, limit, &self.null) {
            Ok(probe) => self.probe = Some(probe),
            Err(failure) => {
                let end = ProbeEnd::NotStarted(failure);
                self.control.send(&GuestMessage::ProbeEnded { id, end, output: Bytes::new() })?;
            }
        }
        Ok(())
    }

    fn end_probe(&mut self, answer: Option<(u64, ProbeEnd, Bytes)>) -> Result<(), InitError> {
        if let Some((id, end, output)) = answer {
            self.probe = None;
            self.control.send(&GuestMessage::ProbeEnded { id, end, output })?;
        }
        Ok(())
    }

    fn resize(&mut self, size: TerminalSize) {
        match &self.terminal {
            Some(terminal) => {
                if let Err(error) = terminal.resize(size) {
                    log!("resizing the workload's terminal: {error}");
                }
            }
            None => self.early_size = Some(size),
        }
    }

    /// `is_idle`: there is no workload, but what stands for it.
    fn begin(&mut self, mut begin: Box<Begin>, is_idle: bool) -> Result<(), InitError> {
        let start = &mut begin.start;
        self.power_off = start.power_off;
        start.terminal = start.terminal.map(|size| self.early_size.unwrap_or(size));
        let upper = match (self.prepare)(&begin) {
            Ok(upper) => upper,
            Err(error) => {
                let message = format!("preparing the guest: {}", error_chain(&error));
                return self.fail(StartFailure::new(StartFailureCode::NotExecutable, message));
            }
        };
        // What came while the machine was made ready: a stop must not find a workload that runs.
        self.control.receive()?;
        let deadly = self.control.waiting().find_map(|message| match message {
            HostMessage::Signal(signal) if is_deadly(*signal) => Some(*signal),
            _ => None,
        });
        if let Some(signal) = deadly {
            return self.fail(ended_early(signal));
        }
        let launched = workload::user(&begin.settings).and_then(|user| {
            let launched = match is_idle {
                true => workload::idle(&begin.start, user.as_ref(), &self.null),
                false => workload::start(&begin.start, user.clone(), &self.null),
            };
            Ok((launched?, user))
        });
        let (workload, user) = match launched {
            Ok(launched) => launched,
            Err(failure) => return self.fail(failure),
        };
        self.stdout.attach(workload.stdout);
        if let Some(stderr) = workload.stderr {
            self.stderr.attach(stderr);
        }
        if let (Some(stdin), Some(port)) = (workload.stdin, self.stdin_port.take()) {
            let new = if workload.terminal.is_some() { StdinFeed::of_terminal } else { StdinFeed::new };
            self.stdin = Some(new(port, stdin));
        }
        self.terminal = workload.terminal;
        // Used by now, and nobody's to find.
        begin.start.entropy = Default::default();
        self.surroundings = Some(Surroundings { start: begin.start, user, upper });
        self.state = State::Running { pid: workload.pid, end: None };
        self.sessions.open();
        Ok(self.control.send(&GuestMessage::Started)?)
    }

    fn fail(&mut self, failure: StartFailure) -> Result<(), InitError> {
        log!("the workload was not started: {}", failure.message);
        self.state = State::NotStarted(failure.clone());
        self.sessions.close(Instant::now());
        Ok(self.control.send(&GuestMessage::NotStarted(failure))?)
    }

    /// Reports the end once all output is in the ports, and sessions are over.
    fn report_end(&mut self) -> Result<(), InitError> {
        let State::Running { end: Some(end), .. } = self.state else { return Ok(()) };
        if self.quiet_until.is_some_and(|until| Instant::now() >= until) {
            for relay in [&mut self.stdout, &mut self.stderr] {
                if relay.waits_for_source() {
                    log!("a process cannot be killed and holds the workload's output open: going on without it");
                    relay.abandon();
                }
            }
        }
        if !self.stdout.is_done() || !self.stderr.is_done() || !self.sessions.are_done() {
            return Ok(());
        }
        self.tell_out_of_memory()?;
        let report = ExitReport { end, stdout_bytes: self.stdout.written(), stderr_bytes: self.stderr.written() };
        self.quiet_until = None;
        self.stdin = None;
        self.state = State::Ended(report);
        Ok(self.control.send(&GuestMessage::Exit(report))?)
    }

    /// Says once that the workload's machine had too little memory. Processes that are ended for it mostly show as
    /// children, ours or of those that end with them.
    fn tell_out_of_memory(&mut self) -> Result<(), InitError> {
        if matches!(self.state, State::Running { .. })
            && let Some(process) = self.memory.found()
        {
            self.control.send(&GuestMessage::OutOfMemory { process: cut_message(process) })?;
        }
        Ok(())
    }

    fn reap(&mut self) -> Result<(), InitError> {
        while let Ok(Some(_)) = self.children.read_signal() {}
        while let Some((child, how)) = process::reap() {
            let ended = self.probe.as_mut().and_then(|probe| probe.ended(child, how));
            self.end_probe(ended)?;
            self.sessions.reaped(child, how);
            if let State::Running { pid, end } = &mut self.state
                && child == *pid
            {
                *end = Some(how);
            }
        }
        if matches!(self.state, State::Running { end: Some(_), .. }) {
            self.probe = None;
            self.surroundings = None;
            self.sessions.close(Instant::now());
            self.kill_others();
            // What the others wrote there is still read; nobody is left to read what is typed.
            if self.terminal.take().is_some()
                && let Some(feed) = &mut self.stdin
            {
                feed.reader_gone();
            }
        }
        Ok(())
    }

    /// After the main process's end: kills all others, unless a session has some time left to end.
    fn kill_others(&mut self) {
        if let State::Running { pid, end: Some(_) } = self.state
            && self.sessions.may_be_killed()
        {
            process::kill_all(pid);
            self.quiet_until = self.quiet_until.or_else(|| Some(Instant::now() + DRAIN_QUIET));
        }
    }
}

/// Signals that end a process by default and that a stop may send.
fn is_deadly(signal: i32) -> bool {
    matches!(signal, libc::SIGHUP | libc::SIGINT | libc::SIGQUIT | libc::SIGKILL | libc::SIGTERM)
}

fn ended_early(signal: i32) -> StartFailure {
    let message = format!("it was ended by signal {signal} before it began");
    StartFailure::new(StartFailureCode::NotExecutable, message)
}
