//! What the waiter and the orchestrator say to each other: the specification over the waiter's
//! standard input, one report line back, and the names in the runtime directory.
//!
//! ```text
//! specification   bytes ([`encode`], [`read_spec`])
//! held            a specification without processes, which a waiter takes up where another one died; a list of leases
//!                 ends it only where there are any, since another version may read it
//! report          "ready\n", or "failed\tSTAGE\tERRNO\tSUBJECT\n"
//! commands        lines "release\n" and "close FIFO\n", each one atomic write
//! ```

mod encoding;

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;

pub use encoding::{encode, read_spec};

/// The waiter's own role in the `processes` record.
pub const WAITER_ROLE: &str = "waiter";
/// The role of the first process of the processes' own namespace of process ids: with it end all others in it.
pub const INIT_ROLE: &str = "init";
/// The role of the process whose end is the microVM's end.
pub const VMM_ROLE: &str = "vmm";

/// The waiter's lock and last words: whoever has it locked is the directory's live waiter.
pub const LOCK_FILE: &str = "waiter.err";
/// Who runs, written before the waiter reports ready.
pub const PROCESSES_FILE: &str = "processes";
/// How the VMM ended.
pub const EXIT_FILE: &str = "exit";
/// The exit record before its rename; made at the start, so that a full disk cannot refuse it.
pub const EXIT_DRAFT_FILE: &str = "exit.draft";
/// Commands to the waiter.
pub const COMMANDS_FIFO: &str = "commands";
/// Reads as ended once the exit record is written, or the waiter is gone.
pub const ENDED_FIFO: &str = "ended";
/// What the VMM log is copied from: the output of processes marked [`StdioSpec::VmmLog`]. It has a name
/// so that a waiter's death neither ends nor empties it.
pub const LOG_FIFO: &str = "log";
/// What a waiter has to hold, for the one that comes after it.
pub const HELD_FILE: &str = "held";
/// Names that a specification cannot use for its own FIFOs and sockets.
pub const RESERVED: [&str; 9] = [
    LOCK_FILE,
    PROCESSES_FILE,
    "processes.draft",
    EXIT_FILE,
    EXIT_DRAFT_FILE,
    COMMANDS_FIFO,
    ENDED_FIFO,
    LOG_FIFO,
    HELD_FILE,
];

/// What the waiter holds and starts. Host environment values may be secrets; `Debug` hides them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaiterSpec {
    /// Words for the waiter's argv, so that people and tools can tell whose it is. No secrets.
    pub tags: Vec<String>,
    /// FIFOs that the waiter makes in the runtime directory and holds open for reading and writing.
    pub fifos: Vec<String>,
    /// What it starts, in this order; exactly one has the role [`VMM_ROLE`]. Without any the waiter
    /// takes up those that are recorded in the runtime directory.
    pub processes: Vec<ProcessSpec>,
    /// The namespaces in which they run, of their own; `None` for the waiter's, and always without processes.
    pub namespaces: Option<Namespaces>,
    /// Where output that is marked [`StdioSpec::VmmLog`] goes; absolute, emptied at each launch.
    pub vmm_log: PathBuf,
    /// Most bytes kept in `vmm_log`; what comes after is discarded.
    pub vmm_log_limit: u64,
    /// Files that it has locked for as long as it lives, shared with others (flock(2)); absolute. Whoever gets the lock
    /// of such a file alone knows that no microVM uses what it stands for.
    pub leases: Vec<PathBuf>,
}

/// Namespaces that a sandbox's processes share, and nobody else: of process ids (whose first process is one of the
/// waiter's, the role [`INIT_ROLE`]), of System V IPC, of host names, and what is said here. See namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Namespaces {
    /// The file of a user namespace in which the others are made, for a user who may not make them in its own. The
    /// processes are its root.
    pub user: Option<PathBuf>,
    /// Whether there is a network namespace too: an empty one, without a single address.
    pub network: bool,
}

/// One process. Its working directory is the runtime directory.
#[derive(Clone, PartialEq, Eq)]
pub struct ProcessSpec {
    /// [`VMM_ROLE`], or a companion's name (1 to 32 of `a-z 0-9 _ -`), for example `virtiofsd`.
    pub role: String,
    /// The program; looked up in `PATH` when it has no slash.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Added to its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Whether it gets `env` only, and not the orchestrator's environment.
    pub clear_env: bool,
    /// Its descriptor 0.
    pub stdin: StdioSpec,
    /// Its descriptor 1.
    pub stdout: StdioSpec,
    /// Its descriptor 2.
    pub stderr: StdioSpec,
    /// What else it gets open: descriptors from [`FIRST_DESCRIPTOR`] on.
    pub descriptors: Vec<DescriptorSpec>,
}

/// The first of a process's [`ProcessSpec::descriptors`].
pub const FIRST_DESCRIPTOR: i32 = 3;
/// Most of them.
pub const DESCRIPTORS_MAX: u8 = 24;
/// Beyond all of them.
pub const BEYOND_DESCRIPTORS: i32 = FIRST_DESCRIPTOR + DESCRIPTORS_MAX as i32;

/// What a process gets open, so that it makes no socket and reaches no path for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DescriptorSpec {
    /// The other end of the only connection to another process's [`StdioSpec::Listener`] of this name. The name is
    /// gone before any process is started: nobody else connects.
    Connected(String),
    /// A socket that listens in the runtime directory under this name.
    Listening(String),
    /// A file, open for reading: opened before a user namespace is entered, from which another process's files
    /// (`/proc/PID/fd/N`) are out of reach.
    File(PathBuf),
}

impl fmt::Debug for ProcessSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessSpec")
            .field("role", &self.role)
            .field("program", &self.program)
            .field("args", &self.args)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// What a standard descriptor of a process is.
#[derive(Clone, PartialEq, Eq)]
pub enum StdioSpec {
    /// `/dev/null`.
    Null,
    /// Copied into the VMM log (output only).
    VmmLog,
    /// One of the specification's FIFOs. As input it is opened for reading, as output for reading
    /// and writing: without a reader the process waits on a full pipe and gets no SIGPIPE.
    Fifo(String),
    /// A Unix socket of this name in the runtime directory, which the waiter binds and listens on
    /// before it starts any process.
    Listener(String),
    /// These bytes, then the end (input only): what must not stand in a command line or in an
    /// environment. `Debug` hides them. A sealed file in memory, so a process that dies early or
    /// reads late holds up nobody.
    Data(Vec<u8>),
}

impl fmt::Debug for StdioSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("Null"),
            Self::VmmLog => f.write_str("VmmLog"),
            Self::Fifo(name) => f.debug_tuple("Fifo").field(name).finish(),
            Self::Listener(name) => f.debug_tuple("Listener").field(name).finish(),
            Self::Data(bytes) => f.debug_tuple("Data").field(&bytes.len()).finish(),
        }
    }
}

/// Which of the waiter's steps failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Detaching from the orchestrator.
    Detach,
    /// Making namespaces for the processes.
    Namespaces,
    /// Reading the specification.
    Spec,
    /// Making a FIFO.
    Fifo,
    /// Binding a socket.
    Listener,
    /// Opening the VMM log.
    Log,
    /// Executing a program.
    Program,
    /// Writing a record.
    Record,
    /// Locking a file that stands for what is in use.
    Lease,
}

impl Stage {
    const ALL: [(Self, &'static str); 9] = [
        (Self::Detach, "detach"),
        (Self::Namespaces, "namespaces"),
        (Self::Spec, "spec"),
        (Self::Fifo, "fifo"),
        (Self::Listener, "listener"),
        (Self::Log, "log"),
        (Self::Program, "program"),
        (Self::Record, "record"),
        (Self::Lease, "lease"),
    ];
}

/// The waiter's one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// All programs were executed.
    Ready,
    /// Nothing runs.
    Failed {
        /// The step that failed.
        stage: Stage,
        /// The system's error, 0 where it was none of the system's.
        errno: i32,
        /// What it failed with.
        subject: String,
    },
}

impl Report {
    /// The line, with its newline.
    pub fn to_line(&self) -> String {
        match self {
            Self::Ready => "ready\n".to_owned(),
            Self::Failed { stage, errno, subject } => {
                let stage = Stage::ALL.iter().find(|(known, _)| known == stage).map_or("", |(_, word)| word);
                let subject: String = subject.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
                format!("failed\t{stage}\t{errno}\t{subject}\n")
            }
        }
    }

    /// Reads it again; `None` where it is cut short or none of ours.
    pub fn from_line(line: &str) -> Option<Self> {
        let line = line.strip_suffix('\n')?;
        if line == "ready" {
            return Some(Self::Ready);
        }
        let mut parts = line.strip_prefix("failed\t")?.splitn(3, '\t');
        let word = parts.next()?;
        let (stage, _) = Stage::ALL.iter().find(|(_, known)| *known == word)?;
        Some(Self::Failed { stage: *stage, errno: parts.next()?.parse().ok()?, subject: parts.next()?.to_owned() })
    }
}
