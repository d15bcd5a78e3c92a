//! What a driver promises: [`Driver`] makes a microVM or finds it again, [`Vmm`] is what it hands back:
//! the [`VmmProcess`] on this host, and the [`GuestSession`] with what runs in it.
//!
//! The traits say nothing of QEMU, libkrun or the control protocol: those live above this crate.
//! A driver never runs work of its own on the caller's arbiter beyond short, non-blocking steps.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::reconcile::Leftover;
use sandpen_types::spec::{ByteString, DriverChoice, KernelDigest, Network, SandboxSpec, TerminalSize};
use sandpen_types::state::{ExitStatus, FailureReason};
use sandpen_types::stats::GuestUsage;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::sessions::{GuestSessions, SessionError};
use crate::start_timings::StartTimings;

/// A failure of a driver, in its own words; `source()` holds the cause.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// No driver of that name, or none works here.
    #[error("driver {name:?} cannot be used: {reason}")]
    Unavailable {
        /// What was asked for.
        name: String,
        /// Why not and what to do.
        reason: String,
    },
    /// A step of the start failed.
    #[error("{step}")]
    Launch {
        /// What was being done, for example "starting virtiofsd".
        step: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The spec wants what this driver cannot do.
    #[error("driver {driver} cannot do this: {what}")]
    Unsupported {
        /// The driver.
        driver: String,
        /// What was wanted and what to do instead.
        what: String,
    },
    /// The spec names what this driver cannot use; nothing was changed.
    #[error("{what} cannot be used")]
    Unusable {
        /// What, for example "the guest kernel".
        what: &'static str,
        /// Why not, and what to do.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The driver makes no terminals.
    #[error("the driver has no terminals; use another one, for example --driver qemu")]
    NoTerminals,
    /// [`Launch::cancel`] was cancelled before there was a microVM; nothing of it is left.
    #[error("the start was given up: its end was asked for")]
    Cancelled,
    /// Nothing of the microVM is left: no process, no runtime directory.
    #[error("nothing is left of the microVM")]
    Gone,
    /// The guest can no longer be reached over the control port.
    #[error("the guest cannot be reached: {0}")]
    Unreachable(String),
    /// A signal could not be sent.
    #[error("sending signal {signal} to the VMM process")]
    Signal {
        /// The signal's number.
        signal: i32,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

impl DriverError {
    /// The refusal of a driver that boots no kernels.
    pub fn no_kernel(driver: &str) -> Self {
        let what = "a guest kernel: it boots none; leave it out, or use another driver".to_owned();
        Self::Unsupported { driver: driver.to_owned(), what }
    }

    /// The message with all its causes, one line.
    pub fn chain(&self) -> String {
        error_chain(self)
    }
}

/// One start of a sandbox: what a driver needs to know.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The checked specification.
    pub spec: Arc<SandboxSpec>,
    /// Counts the starts of this sandbox, from 1.
    pub generation: u64,
    /// The sandbox's own directory (0700) for FIFOs, sockets and the exit status; the driver makes
    /// it at launch and [`VmmProcess::release`] removes it.
    pub runtime_dir: PathBuf,
    /// Where the VMM's own messages and the guest's console go.
    pub vmm_log: PathBuf,
    /// Tag of the state directory, for argv.
    pub state_id: String,
    /// The host's uid, and gid, that is this sandbox's alone; where the host's root runs it.
    pub uid: Option<u32>,
    /// Where the driver notes its steps of the start.
    pub timings: StartTimings,
    /// Cancelled when the end is asked for while the microVM is made or looked for: a launch gives up,
    /// clears away what it has made, and answers [`DriverError::Cancelled`] soon; one that is about to
    /// succeed may do so as well.
    pub cancel: CancellationToken,
}

impl Launch {
    /// One start of a sandbox in one word, for the command lines of its processes:
    /// `STATE-ID/CONFIG/NAME/GENERATION`.
    pub fn tag(&self) -> String {
        format!("{}/{}/{}", self.state_id, self.spec.key, self.generation)
    }
}

/// How a probe ended: a command beside the workload that says how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeOutcome {
    /// Its end.
    pub end: ProbeStatus,
    /// The last of what it wrote, or why it was not started: a few hundred bytes without control
    /// characters.
    pub output: String,
}

/// See [`ProbeOutcome`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProbeStatus {
    /// By itself.
    Ended(ExitStatus),
    /// It was killed after its limit.
    TimedOut,
    /// It could not be executed.
    NotStarted,
}

impl fmt::Display for ProbeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ended(exit) => exit.fmt(f),
            Self::TimedOut => f.write_str("out of time"),
            Self::NotStarted => f.write_str("not started"),
        }
    }
}

/// What happened to a microVM, in order. After `VmmExited` nothing more comes. A channel that
/// closes before is a fault of the driver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VmmEvent {
    /// The workload was executed.
    WorkloadStarted,
    /// The workload could not be executed.
    WorkloadNotStarted {
        /// 126 (not executable) or 127 (not found).
        code: i32,
        /// What the guest says.
        message: String,
    },
    /// The guest reports the workload's end. It stays up until
    /// [`GuestSession::acknowledge_exit`].
    WorkloadExited {
        /// Its end.
        exit: ExitStatus,
        /// Bytes of stdout that the guest relayed in this generation; `None` if it cannot count.
        stdout_bytes: Option<u64>,
        /// Bytes of stderr likewise.
        stderr_bytes: Option<u64>,
    },
    /// The workload needed more of the host's files at once than the host can have open for it.
    FilesLimitMet,
    /// The machine's memory was used up, and the guest's kernel has ended a process.
    OutOfMemory {
        /// The process's name, as the guest says; may be empty.
        process: String,
    },
    /// Something broke that makes the microVM useless; the VMM should be ended.
    Faulted(FailureReason),
    /// The VMM process is gone.
    VmmExited(ExitStatus),
}

/// A running microVM as a driver hands it over.
pub struct Vmm {
    /// The VMM's process.
    pub process: Arc<dyn VmmProcess>,
    /// The guest in it.
    pub guest: Arc<dyn GuestSession>,
    /// The read ends of the workload's output, non-blocking, one per stream.
    pub outputs: Vec<(OutputStream, OwnedFd)>,
    /// What happens to it.
    pub events: mpsc::Receiver<VmmEvent>,
}

impl fmt::Debug for Vmm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vmm").field("pid", &self.process.pid()).finish_non_exhaustive()
    }
}

/// The VMM's process on this host. Methods may be called in any order and after its end.
pub trait VmmProcess: Send + Sync {
    /// Its id, where there is one on this host.
    fn pid(&self) -> Option<u32>;

    /// Sends a signal to the VMM process itself, never to a bare pid.
    ///
    /// # Errors
    /// [`DriverError::Signal`]; no error when the process is already gone.
    fn signal_vmm(&self, signal: i32) -> Result<(), DriverError>;

    /// Everything is read and recorded: lets the waiter end and removes the runtime directory.
    /// Call it after [`VmmEvent::VmmExited`].
    fn release(&self) -> BoxFuture<'static, Result<(), DriverError>>;
}

/// What a guest can be asked. Methods may be called in any order and after its end; they answer an error then.
pub trait GuestSession: Send + Sync {
    /// Sends a signal to the workload.
    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>>;

    /// All output is on file and the end is in the database: the guest may power off.
    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>>;

    /// Passes bytes to the workload's standard input; resolves when they are in the pipe, so that a
    /// workload that does not read holds up the writer only.
    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>>;

    /// Ends the workload's standard input.
    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>>;

    /// Tells the workload's terminal its new size; [`DriverError::NoTerminals`] where the driver makes none.
    fn resize(&self, size: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>>;

    /// Runs a command beside the workload, in its environment and working directory, and kills it after
    /// `limit`. One at a time: a new one takes the place of one that runs.
    fn probe(&self, command: Vec<ByteString>, limit: Duration)
    -> BoxFuture<'static, Result<ProbeOutcome, DriverError>>;

    /// What the guest says of what it takes and has; answers soon, also where the guest does not. What it says is bounded
    /// by nothing: see [`GuestUsage::bounded`]. By default that it does not tell.
    fn usage(&self) -> BoxFuture<'static, Result<GuestUsage, DriverError>> {
        Box::pin(async { Err(DriverError::Unreachable("it does not tell how it is".to_owned())) })
    }

    /// Its sessions. By default that its guests have none.
    ///
    /// # Errors
    /// [`SessionError::Older`], [`SessionError::Unsupported`], or that it is gone.
    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        Err(SessionError::Unsupported)
    }
}

/// Descriptors that a microVM of a guest behind a waiter keeps open in its orchestrator's process while nothing
/// happens: the news of its end, two outputs, two of the control port, stdin. Sessions take two more while there are any.
pub const OPEN_FILES_OF_GUEST: u64 = 6;

/// What a driver can do, before anything is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The networks that it makes.
    pub networks: &'static [Network],
    /// Whether a workload can have a terminal.
    pub terminals: bool,
    /// Whether it boots a kernel that a specification names.
    pub kernels: bool,
    /// Descriptors that a microVM keeps open in this process while nothing happens.
    pub open_files: u64,
    /// Those that it keeps open besides where the workload has a standard input.
    pub open_files_of_stdin: u64,
}

impl Capabilities {
    /// Descriptors that such a microVM keeps open in this process while nothing happens.
    pub fn open_files(&self, spec: &SandboxSpec) -> u64 {
        self.open_files + if spec.stdin { self.open_files_of_stdin } else { 0 }
    }

    /// Whether it can do all that a specification asks for; `auto` passes over a driver that cannot.
    pub fn suit(&self, spec: &SandboxSpec) -> bool {
        self.networks.contains(&spec.network)
            && (self.terminals || spec.terminal.is_none())
            && (self.kernels || spec.kernel.is_none())
    }
}

/// Makes microVMs.
pub trait Driver: Send + Sync {
    /// Its name on the command line and in the database.
    fn name(&self) -> &'static str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Looks at what the specification names and this driver alone can judge, before anything is made for
    /// it. By default that it names no kernel where none can be booted. Answers which kernel the file of one that is
    /// named holds now: every start of the sandbox boots that one.
    fn check(&self, spec: Arc<SandboxSpec>) -> BoxFuture<'static, Result<Option<KernelDigest>, DriverError>> {
        let refused = spec.kernel.is_some() && !self.capabilities().kernels;
        let checked = if refused { Err(DriverError::no_kernel(self.name())) } else { Ok(None) };
        Box::pin(async { checked })
    }

    /// Makes a microVM; resolves when the VMM process exists. Blocking work is done off the
    /// calling thread.
    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>>;

    /// Kills the VMM process of a microVM that cannot be adopted for the moment, known by its records alone; needs
    /// no descriptor that stays and waits for nothing but a few small files. Tells its log what is in the way; a
    /// process that is gone is fine. Test drivers whose microVMs can always be adopted need not do anything.
    fn kill(&self, _launch: &Launch) {}

    /// Finds the microVM of an earlier daemon: its events continue with what is true now, an EXIT
    /// report or a VMM exit that happened in between included.
    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>>;

    /// Removes what earlier microVMs of the state directory with this tag left on the host beside what every
    /// driver leaves (processes, runtime directories, disks), and says what; what belongs to one that runs stays.
    fn remove_leftovers(&self, _state_id: &str) -> BoxFuture<'static, Vec<Leftover>> {
        Box::pin(async { Vec::new() })
    }
}

/// The drivers of this host, and which of them `auto` means.
#[derive(Clone, Default)]
pub struct Drivers {
    by_name: BTreeMap<&'static str, Arc<dyn Driver>>,
    /// Their names, the preferred one first.
    order: Vec<&'static str>,
}

impl Drivers {
    /// Adds a driver; `auto` picks the first one added that can do what is wanted.
    #[must_use]
    pub fn with(mut self, driver: Arc<dyn Driver>) -> Self {
        let name = driver.name();
        if self.by_name.insert(name, driver).is_none() {
            self.order.push(name);
        }
        self
    }

    /// The driver for a choice. Where none can do what the specification asks for, `auto` is the preferred one,
    /// which says so better itself.
    ///
    /// # Errors
    /// [`DriverError::Unavailable`] with the names that there are.
    pub fn select(&self, choice: &DriverChoice, spec: &SandboxSpec) -> Result<Arc<dyn Driver>, DriverError> {
        let suits = |name: &&&str| self.by_name.get(**name).is_some_and(|driver| driver.capabilities().suit(spec));
        let name = match choice {
            DriverChoice::Auto => self.order.iter().find(suits).or(self.order.first()).copied().unwrap_or("auto"),
            DriverChoice::Named(name) => name.as_str(),
        };
        self.by_name.get(name).cloned().ok_or_else(|| DriverError::Unavailable {
            name: name.to_owned(),
            reason: match self.by_name.len() {
                0 => "no driver works on this host; run `sandpen doctor`".to_owned(),
                _ => format!("there is {}", self.by_name.keys().copied().collect::<Vec<_>>().join(", ")),
            },
        })
    }

    /// [`Driver::remove_leftovers`] of each.
    pub fn remove_leftovers(&self, state_id: &str) -> impl Future<Output = Vec<Leftover>> + use<> {
        let all: Vec<_> = self.by_name.values().map(|driver| driver.remove_leftovers(state_id)).collect();
        async move {
            let mut removed = Vec::new();
            for leftovers in all {
                removed.extend(leftovers.await);
            }
            removed
        }
    }
}

impl fmt::Debug for Drivers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}
