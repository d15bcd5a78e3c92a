//! What host and guest tell each other of sessions. Which session a message is about, its frame says.
//!
//! Variants are encoded by their position and fields by their order: add new variants at the end only, and change none.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::frame::SessionStream;
use super::tool::Tool;
use crate::protocol::messages::{Bytes, StartFailure, WorkloadEnd};
use crate::protocol::start::TerminalSize;

/// Host → guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionCommand {
    /// A host is there: the epoch of its frame is the one from now on. Answered by [`SessionReport::Resumed`]. Every
    /// session that was opened by halves is forgotten.
    Resume,
    /// A session whose [`SessionStart`] follows on [`SessionStream::Spec`]. Of one that is there already nothing is changed:
    /// its [`SessionReport::State`] answers, and its bytes of `Spec` are passed over.
    Open {
        /// Bytes of the encoded [`SessionStart`], at most [`SPEC_MAX`](super::SPEC_MAX).
        len: u32,
    },
    /// The host has all bytes before `taken` for good, and room for those before `limit`.
    Taken {
        /// [`SessionStream::Stdout`] or [`SessionStream::Stderr`].
        stream: SessionStream,
        /// An offset; never smaller than before.
        taken: u64,
        /// An offset; never smaller than before, nor than `taken`.
        limit: u64,
    },
    /// The session's standard input ends here. On a terminal, its end-of-file character is typed.
    EndInput {
        /// Its bytes from the begin.
        total: u64,
    },
    /// The session's terminal has this size from now on.
    Resize(TerminalSize),
    /// Sends a signal (1 to 64) to the session's process group.
    Signal(i32),
    /// Ends it: hangs it up (SIGHUP), and kills it where that does not end it soon.
    HangUp,
    /// The host has all there is of a session that has ended, or wants nothing of it. One that still runs is killed.
    Forget,
    /// It runs on without a client from now on: [`SessionNotes::detached`] is true.
    Detach,
}

/// What a session runs. Encoded it may be long: see [`SessionCommand::Open`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionStart {
    /// A process.
    Run(RunSession),
}

/// A session's process; what it does not say is as the workload has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSession {
    /// What is run.
    pub program: SessionProgram,
    /// Besides the workload's environment; may be secrets.
    pub env: Vec<(Bytes, Bytes)>,
    /// `USER[:GROUP]`, names or numbers of the root.
    pub user: Option<String>,
    /// Working directory. Unlike a workload's it is not made where it is missing.
    pub workdir: Option<Bytes>,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether bytes of [`SessionStream::Stdin`] come.
    pub stdin: bool,
    /// How long it may run before it is killed.
    pub limit: Option<Duration>,
    /// What the host wants to find in its [`SessionState`] again.
    pub notes: SessionNotes,
}

impl std::fmt::Debug for RunSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunSession").field("program", &self.program).field("user", &self.user).finish_non_exhaustive()
    }
}

/// See [`RunSession::program`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionProgram {
    /// A program and its arguments; one without a slash is looked up in the session's `PATH`.
    Command(Vec<Bytes>),
    /// The login shell of its user.
    Shell,
    /// PID 1's own list of processes.
    Processes,
    /// A tool of PID 1's; an older guest refuses it as malformed.
    Tool(Tool),
}

/// What a host that is replaced would not know of a session otherwise. The guest makes nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionNotes {
    /// What it runs, for people; at most 256 bytes.
    pub label: String,
    /// When it was asked for: time since 1970-01-01 00:00 UTC, by the host's clock.
    pub asked_at: Duration,
    /// Whether it runs on without a client.
    pub detached: bool,
}

/// Guest → host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionReport {
    /// Answers [`SessionCommand::Resume`]; so many [`SessionReport::State`] follow at once, then nothing that was said before
    /// counts any more.
    Resumed {
        /// How many.
        sessions: u32,
    },
    /// All that counts of a session. The bytes of its streams are sent again from what was taken, as soon as the host has
    /// told its limits for them.
    State(SessionState),
    /// There will be no such session.
    Refused(SessionRefusal),
    /// Its program was executed.
    Started,
    /// The session has all bytes of its input before `received`, and room for those before `limit`.
    InputWindow {
        /// An offset; never smaller than before.
        received: u64,
        /// An offset; never smaller than before, nor than `received`.
        limit: u64,
    },
    /// Nobody reads its input any more: what comes is passed over.
    InputClosed,
    /// An output stream ends here; its bytes may not all be sent yet.
    StreamEnded {
        /// Which.
        stream: SessionStream,
        /// Its bytes from the begin.
        total: u64,
    },
    /// Its end. Both of its streams have ended before, and are still sent; one that was not executed has none.
    Ended(SessionEnd),
    /// The workload has ended and the machine will: no session begins any more, and all are hung up.
    Closing,
}

/// See [`SessionReport::State`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionState {
    /// As in its start.
    pub notes: SessionNotes,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it takes input; false also after [`SessionReport::InputClosed`].
    pub stdin: bool,
    /// Bytes of its input that it has.
    pub received: u64,
    /// Whether the end of its input has come.
    pub input_ended: bool,
    /// Its standard output.
    pub stdout: OutputState,
    /// Its standard error.
    pub stderr: OutputState,
    /// How it ended; `None` while it runs.
    pub end: Option<SessionEnd>,
}

/// An output stream of a [`SessionState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputState {
    /// What the host has for good, by its last [`SessionCommand::Taken`].
    pub taken: u64,
    /// Bytes that were written so far.
    pub written: u64,
    /// Whether no more will be.
    pub ended: bool,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionEnd {
    /// By itself, or by a signal.
    Exited(WorkloadEnd),
    /// It could not be executed.
    NotStarted(StartFailure),
    /// It was killed after its limit.
    TimedOut,
}

/// Why there is no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionRefusal {
    /// There are [`SESSIONS_MAX`](super::SESSIONS_MAX) already.
    TooMany,
    /// The workload does not run yet.
    NotRunning,
    /// The workload has ended.
    Closing,
    /// Its [`SessionStart`] is too long, or none that this guest knows.
    Malformed,
}
