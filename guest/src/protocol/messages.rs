//! What host and guest tell each other.
//!
//! Variants are encoded by their position: add new ones at the end only, and raise
//! [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION) when an old one changes.

use std::time::Duration;

use serde::{Deserialize, Serialize};
/// Bytes of any content, owned; `Bytes::from(vec)` makes them.
pub use serde_bytes::ByteBuf as Bytes;

use super::frame::Message;
use super::settings::Begin;
use super::start::{Start, TerminalSize};
use super::{ATOMIC_FRAME, HEADER_LEN};

/// Host → guest on the control port. Every frame but `Start`, `Begin` and `Idle` fits [`ATOMIC_FRAME`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostMessage {
    /// Everything the guest needs to make the workload run. Once, after `Ready`.
    Start(Box<Start>),
    /// Asks for a [`GuestMessage::Status`] with the same number.
    Query {
        /// Tells this answer from earlier ones.
        nonce: u64,
    },
    /// Sends a signal (1 to 64) to the workload's main process. One that ends a process by default
    /// and comes before the workload runs makes the guest never run it.
    Signal(i32),
    /// The end is recorded and all output on file: power off.
    AcknowledgeExit,
    /// The workload's terminal has this size from now on; before `Start`, it begins with it.
    Resize(TerminalSize),
    /// Runs a command beside the workload, in its environment, working directory and limits; asks for a
    /// [`GuestMessage::ProbeEnded`] with the same number. One that still runs is killed without an answer.
    /// Nothing happens where no workload runs.
    Probe(Probe),
    /// [`HostMessage::Start`] with what that has no place for.
    Begin(Box<Begin>),
    /// What the host's clock says, so that the guest's follows it. Of no use when it is old.
    SetClock {
        /// Time since 1970-01-01 00:00 UTC, as late as possible before it is sent.
        wall_clock: Duration,
    },
    /// Asks for a [`GuestMessage::Usage`] with the same number.
    GetUsage {
        /// Tells this answer from others.
        nonce: u64,
    },
    /// [`HostMessage::Begin`] without a workload: its command is not looked at, and PID 1's own process stands for it, which
    /// does nothing until a signal ends it.
    Idle(Box<Begin>),
}

impl HostMessage {
    /// How many variants there are: what a guest of this program says in [`GuestMessage::Understands`].
    pub const VARIANTS: u32 = 10;
    /// How many of them each guest knows, also one that says nothing of it.
    pub const UNDERSTOOD_BY_ALL: u32 = 6;

    /// This variant's position, from 0: how it is encoded.
    pub fn position(&self) -> u32 {
        match self {
            Self::Start(_) => 0,
            Self::Query { .. } => 1,
            Self::Signal(_) => 2,
            Self::AcknowledgeExit => 3,
            Self::Resize(_) => 4,
            Self::Probe(_) => 5,
            Self::Begin(_) => 6,
            Self::SetClock { .. } => 7,
            Self::GetUsage { .. } => 8,
            Self::Idle(_) => 9,
        }
    }
}

impl Message for HostMessage {
    const KIND: u8 = 1;
    // Command, environment, workdir and guest paths of at most 1 MiB (`WORKLOAD_MAX_BYTES` of the spec), at most
    // 1/128 of it for lengths, and room for the rest.
    const MAX_PAYLOAD: usize = (1 << 20) + (64 << 10);
}

/// A command beside the workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// Tells its answer from others.
    pub id: u64,
    /// Program and arguments, together at most [`PROBE_COMMAND_MAX`] bytes with one more for each.
    pub command: Vec<Bytes>,
    /// How long it may run before it is killed.
    pub limit: Duration,
}

/// Most bytes of [`Probe::command`], so that its frame stays within [`ATOMIC_FRAME`].
pub const PROBE_COMMAND_MAX: usize = 3072;
/// Most bytes of a command's output that come back: the last ones.
pub const PROBE_OUTPUT_MAX: usize = 512;

/// Guest → host on the control port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestMessage {
    /// The guest is up and waits for [`HostMessage::Start`].
    Ready {
        /// Its [`PROTOCOL_VERSION`](super::PROTOCOL_VERSION).
        version: u8,
    },
    /// The workload was executed.
    Started,
    /// The workload could not be executed. The guest waits for [`HostMessage::AcknowledgeExit`].
    NotStarted(StartFailure),
    /// The workload ended and all of its output is in the ports. The guest waits for
    /// [`HostMessage::AcknowledgeExit`].
    Exit(ExitReport),
    /// The answer to [`HostMessage::Query`].
    Status {
        /// The number from the query.
        nonce: u64,
        /// What is true now.
        state: GuestState,
    },
    /// The guest itself failed after the workload was started; it powers off soon.
    Faulted {
        /// What failed, with its cause.
        message: String,
    },
    /// The answer to [`HostMessage::Probe`].
    ProbeEnded {
        /// The number from there.
        id: u64,
        /// How it ended.
        end: ProbeEnd,
        /// The last of what it wrote, stdout and stderr together; at most [`PROBE_OUTPUT_MAX`] bytes.
        output: Bytes,
    },
    /// The workload needs more of the host's files at once than the host can have open for it. Sent at most once,
    /// while the workload runs.
    FilesLimitMet,
    /// The machine's memory was used up and the kernel has ended a process. Sent at most once, while the workload runs.
    OutOfMemory {
        /// The process's name, as the kernel has it; empty where it is not known.
        process: String,
    },
    /// How much of [`HostMessage`] this guest knows: it may be of an older program than its host. Comes with
    /// [`GuestMessage::Ready`], and before each [`GuestMessage::Status`].
    Understands {
        /// The first so many variants.
        messages: u32,
    },
    /// The answer to [`HostMessage::GetUsage`].
    Usage {
        /// The number from there.
        nonce: u64,
        /// How it is.
        usage: Usage,
    },
}

/// What a machine takes and has, as it says; 0 where its kernel does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Ticks of all processors in which something was done, since the machine began.
    pub cpu_busy: u64,
    /// All ticks of all processors.
    pub cpu_total: u64,
    /// Bytes of memory.
    pub memory_total: u64,
    /// Those that could be had at once.
    pub memory_available: u64,
    /// Bytes of the file system of `/`.
    pub disk_total: u64,
    /// Those that nothing is in.
    pub disk_free: u64,
    /// Threads, the kernel's own included.
    pub tasks: u32,
}

impl Message for GuestMessage {
    const KIND: u8 = 2;
    const MAX_PAYLOAD: usize = (64 << 10) - HEADER_LEN;
}

/// How a command beside the workload ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeEnd {
    /// By itself.
    Ended(WorkloadEnd),
    /// It was killed after its limit.
    TimedOut,
    /// It could not be executed.
    NotStarted(StartFailure),
}

/// How far a guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum GuestState {
    /// No [`HostMessage::Start`] has come.
    AwaitingStart,
    /// The workload runs.
    Running,
    /// As in [`GuestMessage::NotStarted`].
    NotStarted(StartFailure),
    /// As in [`GuestMessage::Exit`].
    Ended(ExitReport),
}

/// Why a workload could not be executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// In one number.
    pub code: StartFailureCode,
    /// In words, for users; at most [`MESSAGE_MAX`] bytes.
    pub message: String,
}

impl StartFailure {
    /// A failure whose message is cut to [`MESSAGE_MAX`] bytes.
    pub fn new(code: StartFailureCode, message: impl Into<String>) -> Self {
        Self { code, message: cut_message(message.into()) }
    }
}

/// The exit code that shells use for a command that did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartFailureCode {
    /// 126: found but not executable, or the guest could not prepare for it.
    NotExecutable,
    /// 127: not found.
    NotFound,
}

impl StartFailureCode {
    /// 126 or 127.
    pub fn code(self) -> i32 {
        match self {
            Self::NotExecutable => 126,
            Self::NotFound => 127,
        }
    }
}

/// A workload's end, and how much it wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitReport {
    /// How it ended.
    pub end: WorkloadEnd,
    /// Bytes written to the stdout port since the start.
    pub stdout_bytes: u64,
    /// Bytes written to the stderr port since the start.
    pub stderr_bytes: u64,
}

/// How a workload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkloadEnd {
    /// It returned this code.
    Code(u8),
    /// This signal ended it, 1 to 64.
    Signal(u8),
}

/// Host → guest on the stdin port. Every frame fits [`ATOMIC_FRAME`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StdinMessage {
    /// Bytes for the workload's standard input, at most [`STDIN_CHUNK`](super::STDIN_CHUNK).
    Bytes(Bytes),
    /// No more bytes will come. A terminal stays open: its end-of-file character is typed.
    End,
}

impl Message for StdinMessage {
    const KIND: u8 = 3;
    const MAX_PAYLOAD: usize = ATOMIC_FRAME - HEADER_LEN;
}

/// Most bytes of a message for users in a guest's frame.
pub const MESSAGE_MAX: usize = 4096;

/// Cuts `message` to at most [`MESSAGE_MAX`] bytes, between characters.
pub fn cut_message(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_MAX));
    message
}
