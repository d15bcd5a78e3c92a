//! One session: a process group with its streams.
//!
//! ```text
//!   runs ──main process ended──▶ drains ──both streams ended──▶ ended ──Forget──▶ (gone)
//!    │            ▲                 what is in its pipes is read; processes that it left behind live on
//!    ├── HangUp: SIGHUP, later SIGKILL
//!    ├── its time is up: SIGKILL
//!    └── Forget: SIGKILL ──▶ (gone)
//! ```

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use nix::libc;
use nix::unistd::Pid;
use sandpen_guest::protocol::session::{
    HANG_UP_GRACE, OutputState, SessionCommand, SessionEnd, SessionNotes, SessionReport, SessionState, SessionStream,
};
use sandpen_guest::protocol::{StartFailure, TerminalSize, WorkloadEnd};

use super::input::Input;
use super::output::Output;
use crate::launch::Launched;
use crate::log::log;
use crate::process;
use crate::terminal::Terminal;

/// See the module.
#[derive(Debug)]
pub struct Session {
    pub id: u64,
    notes: SessionNotes,
    has_terminal: bool,
    /// While its main process is there to be signalled: that, the leader of its group.
    process: Option<Pid>,
    /// While its main process runs.
    terminal: Option<Terminal>,
    pub input: Input,
    pub stdout: Output,
    pub stderr: Output,
    /// How its main process ended.
    end: Option<SessionEnd>,
    /// When its time is up.
    limit: Option<Instant>,
    is_timed_out: bool,
    is_hung_up: bool,
    /// When what was hung up is killed.
    kill_at: Option<Instant>,
    told: Told,
    /// Which output is sent next.
    next: SessionStream,
}

/// What the host knows.
#[derive(Debug, Default, Clone, Copy)]
#[expect(clippy::struct_excessive_bools, reason = "one for each message")]
struct Told {
    started: bool,
    stdout_ended: bool,
    stderr_ended: bool,
    end: bool,
}

impl Session {
    /// One whose program runs.
    pub fn new(id: u64, notes: SessionNotes, launched: Launched, limit: Option<Duration>) -> Self {
        let Launched { pid, stdin, stdout, stderr, terminal } = launched;
        let has_terminal = terminal.is_some();
        Self {
            process: Some(pid),
            terminal,
            input: Input::new(stdin, has_terminal),
            // What is beyond all time is none.
            limit: limit.and_then(|limit| Instant::now().checked_add(limit)),
            end: None,
            ..Self::bare(id, notes, has_terminal, Some(stdout), stderr)
        }
    }

    /// One whose program could not be executed.
    pub fn failed(id: u64, notes: SessionNotes, has_terminal: bool, failure: StartFailure) -> Self {
        let mut session = Self::bare(id, notes, has_terminal, None, None);
        session.end = Some(SessionEnd::NotStarted(failure));
        // One that was never executed has no streams to speak of.
        session.told = Told { started: true, stdout_ended: true, stderr_ended: true, end: false };
        session
    }

    fn bare(
        id: u64,
        notes: SessionNotes,
        has_terminal: bool,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
    ) -> Self {
        Self {
            id,
            notes,
            has_terminal,
            process: None,
            terminal: None,
            input: Input::new(None, has_terminal),
            stdout: Output::new(SessionStream::Stdout, stdout, has_terminal),
            stderr: Output::new(SessionStream::Stderr, stderr, has_terminal),
            end: None,
            limit: None,
            is_timed_out: false,
            is_hung_up: false,
            kill_at: None,
            told: Told::default(),
            next: SessionStream::Stdout,
        }
    }

    /// Whether its main process runs.
    pub fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Whether nothing of it is to come but what the host has not taken.
    pub fn has_ended(&self) -> bool {
        self.end.is_some() && self.stdout.has_ended() && self.stderr.has_ended()
    }

    /// Bytes of its streams that are here, or may come.
    pub fn held(&self) -> usize {
        self.input.held() + self.stdout.held() + self.stderr.held()
    }

    /// For the host, which knows all of it then.
    pub fn state(&mut self) -> SessionReport {
        let [stdout, stderr] = [self.stdout.state(), self.stderr.state()];
        let has_ended = self.has_ended();
        self.told = Told { started: true, stdout_ended: stdout.ended, stderr_ended: stderr.ended, end: has_ended };
        self.input.told_state();
        SessionReport::State(SessionState {
            notes: self.notes.clone(),
            terminal: self.has_terminal,
            stdin: self.input.is_open(),
            received: self.input.received(),
            input_ended: self.input.has_ended(),
            stdout,
            stderr,
            end: self.end.clone().filter(|_| has_ended),
        })
    }

    /// Another host is there.
    pub fn resume(&mut self) {
        self.stdout.resume();
        self.stderr.resume();
    }

    /// The output of this name, if it is one.
    pub fn output(&mut self, stream: SessionStream) -> Option<&mut Output> {
        match stream {
            SessionStream::Stdout => Some(&mut self.stdout),
            SessionStream::Stderr => Some(&mut self.stderr),
            SessionStream::Stdin | SessionStream::Spec => None,
        }
    }

    /// Does what the host says of it; says whether that fits it.
    pub fn obey(&mut self, command: &SessionCommand) -> bool {
        match *command {
            SessionCommand::Taken { stream, taken, limit } => {
                return self.output(stream).is_some_and(|output| output.take(taken, limit));
            }
            SessionCommand::EndInput { total } => return self.input.end(total),
            SessionCommand::Resize(size) => self.resize(size),
            SessionCommand::Signal(signal) if (1..=64).contains(&signal) => self.signal(signal),
            SessionCommand::Signal(_) => return false,
            SessionCommand::HangUp => self.hang_up(Instant::now()),
            SessionCommand::Detach => self.notes.detached = true,
            // What others do about it.
            SessionCommand::Resume | SessionCommand::Open { .. } | SessionCommand::Forget => {}
        }
        true
    }

    /// The size of its terminal, while it has one.
    fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = &self.terminal
            && let Err(error) = terminal.resize(size)
        {
            log!("resizing a session's terminal: {error}");
        }
    }

    /// A signal for its process group, while its main process is there.
    fn signal(&self, signal: i32) {
        if let Some(leader) = self.process
            && let Err(error) = process::signal_group(leader, signal)
        {
            log!("sending signal {signal} to a session: {error}");
        }
    }

    /// Ends it: at once with what hears SIGHUP, and later without asking.
    pub fn hang_up(&mut self, now: Instant) {
        if self.is_hung_up || !self.runs() {
            return;
        }
        self.is_hung_up = true;
        self.kill_at = Some(now + HANG_UP_GRACE);
        // What a shell has in the foreground is in a group of its own.
        let foreground = self.terminal.as_ref().and_then(Terminal::foreground);
        for group in self.process.into_iter().chain(foreground.filter(|group| Some(*group) != self.process)) {
            // One that was stopped hears nothing before it goes on.
            for signal in [libc::SIGHUP, libc::SIGCONT] {
                let _ = process::signal_group(group, signal);
            }
        }
    }

    /// Ends its group.
    pub fn kill(&self) {
        if let Some(leader) = self.process {
            process::kill_group(leader);
        }
    }

    /// When it is to be looked at.
    pub fn deadline(&self) -> Option<Instant> {
        self.limit.into_iter().chain(self.kill_at).min()
    }

    /// Kills it where its time is up.
    pub fn look(&mut self, now: Instant) {
        if self.limit.is_some_and(|limit| now >= limit) {
            (self.limit, self.is_timed_out) = (None, true);
            self.kill();
        }
        if self.kill_at.is_some_and(|at| now >= at) {
            self.kill_at = None;
            self.kill();
        }
    }

    /// Whether `child`, which was reaped, was its main process. What that wrote is still read.
    pub fn reaped(&mut self, child: Pid, how: WorkloadEnd) -> bool {
        if self.process != Some(child) {
            return false;
        }
        (self.process, self.limit, self.kill_at) = (None, None, None);
        self.end = Some(if self.is_timed_out { SessionEnd::TimedOut } else { SessionEnd::Exited(how) });
        self.terminal = None;
        self.input.close();
        self.stdout.drain();
        self.stderr.drain();
        true
    }

    /// Whether what its main process wrote before its end is still read.
    pub fn drains(&self) -> bool {
        self.end.is_some() && !self.has_ended()
    }

    /// Reads an output; gives its source where that is left to others.
    pub fn read(
        &mut self,
        stream: SessionStream,
        window: usize,
        share: usize,
        scratch: &mut [MaybeUninit<u8>],
    ) -> Option<OwnedFd> {
        let is_closed = self.has_terminal && self.is_hung_up;
        // A terminal that was hung up is closed for those too.
        self.output(stream)?.read(window, share, scratch).filter(|_| !is_closed)
    }

    /// What others may still write into when it is forgotten.
    pub fn leave(&mut self) -> impl Iterator<Item = OwnedFd> {
        let is_closed = self.has_terminal;
        [self.stdout.give_up(), self.stderr.give_up()].into_iter().flatten().filter(move |_| !is_closed)
    }

    /// What it has not told yet.
    pub fn report(&mut self, window: usize) -> Option<SessionReport> {
        let has_ended = self.has_ended();
        if !self.told.started {
            self.told.started = true;
            return Some(SessionReport::Started);
        }
        if let Some(report) = self.input.report(window) {
            return Some(report);
        }
        let ends = [
            (SessionStream::Stdout, self.stdout.state(), &mut self.told.stdout_ended),
            (SessionStream::Stderr, self.stderr.state(), &mut self.told.stderr_ended),
        ];
        for (stream, OutputState { written, ended, .. }, told) in ends {
            if ended && !*told {
                *told = true;
                return Some(SessionReport::StreamEnded { stream, total: written });
            }
        }
        if has_ended && !self.told.end {
            self.told.end = true;
            return self.end.clone().map(SessionReport::Ended);
        }
        None
    }

    /// The next bytes of its streams, which take turns.
    pub fn frame(&mut self, epoch: u64) -> Option<Vec<u8>> {
        let order = match self.next {
            SessionStream::Stderr => [SessionStream::Stderr, SessionStream::Stdout],
            _ => [SessionStream::Stdout, SessionStream::Stderr],
        };
        let (id, [_, other]) = (self.id, order);
        for stream in order {
            if let Some(frame) = self.output(stream).and_then(|output| output.frame(epoch, id)) {
                self.next = if stream == self.next { other } else { self.next };
                return Some(frame);
            }
        }
        None
    }
}
