//! The orchestrator's handle on a waiter and its processes.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command};

use super::fifo::{open_fifo_read, open_fifo_write};
use super::wire::{
    COMMANDS_FIFO, ENDED_FIFO, LOCK_FILE, ProcessesRecord, RESERVED, Report, Stage, StdioSpec, VMM_ROLE, WAITER_ROLE,
    WaiterSpec, encode,
};
use super::{WaiterError, install, runtime_dir};
use crate::pidfd;
use crate::process_identity::ProcessIdentity;
use crate::state::ExitStatus;

/// How long a waiter that has the lock may take until it has recorded its processes.
const STARTING_LIMIT: Duration = Duration::from_secs(10);
/// How long a waiter may take to end after `release`; then it is killed.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);
/// Most bytes of a report line or of a waiter's last words.
const REPORT_MAX: u64 = 8 << 10;

/// How the VMM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitedEnd {
    /// Its status; unknown if the waiter was killed before it.
    pub status: ExitStatus,
    /// When.
    pub at: DateTime<Utc>,
    /// The companion whose death ended it.
    pub companion_lost: Option<String>,
}

/// A VMM under its waiter. Dropping it leaves both running, to be adopted.
#[derive(Debug, Clone)]
pub struct WaitedVmm(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    record: ProcessesRecord,
    pid: u32,
    /// `None` when it was gone already.
    vmm: Option<OwnedFd>,
    /// The read end of the `ended` FIFO; `None` when the waiter was gone already.
    ended: Option<Receiver>,
    /// The waiter, where we started it: reaped at the release.
    child: Mutex<Option<Child>>,
    end: OnceLock<WaitedEnd>,
}

impl WaitedVmm {
    /// Starts a waiter with all its processes; resolves when every program was executed. Makes the
    /// runtime directory, or takes one that [`super::prepare_runtime_dir`] made; installs the
    /// waiter program in `bin_dir`. Dropped before it resolves, it may leave processes to adopt.
    ///
    /// # Errors
    /// [`WaiterError::Start`] when a program cannot be executed, [`WaiterError::Live`] when
    /// something runs in the directory; nothing is left running or on disk then.
    pub async fn launch(runtime_dir: &Path, bin_dir: &Path, spec: WaiterSpec) -> Result<Self, WaiterError> {
        check(&spec)?;
        let encoded =
            encode(&spec).ok_or_else(|| WaiterError::Invalid("arguments and environment are too large".into()))?;
        let dir = runtime_dir.to_owned();
        let bin_dir = bin_dir.to_owned();
        let tags = spec.tags.clone();
        let vmm_log = spec.vmm_log.clone();
        let mut child = blocking(move || spawn(&dir, &bin_dir, &tags, &vmm_log)).await?;

        match converse(&mut child, &encoded).await {
            Some(Report::Ready) => {}
            report => return Err(launch_failed(runtime_dir, &spec, child, report).await),
        }
        let dir = runtime_dir.to_owned();
        let mut inner = match blocking(move || Inner::find(dir)).await {
            Ok(inner) => inner,
            Err(error) => {
                // It runs, but cannot be watched (no descriptor left, say): take it back.
                let path = runtime_dir.join(COMMANDS_FIFO);
                if matches!(blocking(move || command(&path, "release\n")).await, Ok(true)) {
                    launch_failed(runtime_dir, &spec, child, None).await;
                }
                return Err(error);
            }
        };
        inner.child = Mutex::new(Some(child));
        Ok(Self(Arc::new(inner)))
    }

    /// Finds what an earlier orchestrator launched in this directory: running, or ended with its
    /// record.
    ///
    /// # Errors
    /// [`WaiterError::Gone`] when neither is left; the directory is removed then.
    pub async fn adopt(runtime_dir: &Path) -> Result<Self, WaiterError> {
        let deadline = tokio::time::Instant::now() + STARTING_LIMIT;
        loop {
            let dir = runtime_dir.to_owned();
            match blocking(move || Inner::find(dir)).await {
                Err(WaiterError::Gone) => {}
                found => return found.map(|inner| Self(Arc::new(inner))),
            }
            let dir = runtime_dir.to_owned();
            // A waiter whose launcher died is about to record its processes.
            let starting = blocking(move || {
                let held = runtime_dir::is_held(&dir)?;
                if !held {
                    runtime_dir::remove(&dir)?;
                }
                Ok(held)
            });
            if !starting.await? || tokio::time::Instant::now() >= deadline {
                return Err(WaiterError::Gone);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Ends whatever is left in this directory, of no use to anybody any more, and removes it.
    ///
    /// # Errors
    /// What could not be told, ended or removed.
    pub async fn clear_away(runtime_dir: &Path) -> Result<(), WaiterError> {
        match Self::adopt(runtime_dir).await {
            Ok(left) => left.release().await,
            Err(WaiterError::Gone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The VMM process.
    pub fn pid(&self) -> u32 {
        self.0.pid
    }

    /// Whether the VMM process is gone, so that [`WaitedVmm::ended`] is about to resolve.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn has_ended(&self) -> io::Result<bool> {
        self.0.vmm.as_ref().map_or(Ok(true), pidfd::has_ended)
    }

    /// Sends a signal to the VMM process; no error when it is already gone.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        self.0.vmm.as_ref().map_or(Ok(()), |vmm| pidfd::send_signal(vmm, signal))
    }

    /// Resolves when the VMM has ended and that is durable; at once if it did before. To be awaited
    /// on the runtime of the launch or adoption.
    pub async fn ended(&self) -> WaitedEnd {
        if let Some(end) = self.0.end.get() {
            return end.clone();
        }
        self.recorded_or_abandoned().await;
        if !self.read_end().await {
            // The waiter was killed: the VMM may live on without it.
            if let Some(vmm) = &self.0.vmm
                && let Err(error) = pidfd::ended(vmm).await
            {
                tracing::warn!(pid = self.0.pid, %error, "waiting for a VMM in a thread");
                block_until_readable(vmm.as_fd()).await;
            }
            if !self.read_end().await {
                let _ = self.0.end.set(WaitedEnd { status: ExitStatus::Unknown, at: Utc::now(), companion_lost: None });
            }
        }
        match self.0.end.get() {
            Some(end) => end.clone(),
            None => std::future::pending().await, // set just above
        }
    }

    /// Drops the waiter's hold on one of its FIFOs, so that its reader sees the end when the other
    /// writers have closed it.
    ///
    /// # Errors
    /// [`WaiterError::Gone`] when the waiter is gone (and its hold with it).
    pub async fn close_fifo(&self, name: &str) -> Result<(), WaiterError> {
        let (path, line) = (self.0.dir.join(COMMANDS_FIFO), format!("close {name}\n"));
        if blocking(move || command(&path, &line)).await? { Ok(()) } else { Err(WaiterError::Gone) }
    }

    /// Ends the waiter (and everything that still runs under it) and removes the runtime
    /// directory. May be called again.
    ///
    /// # Errors
    /// What could not be ended or removed.
    pub async fn release(&self) -> Result<(), WaiterError> {
        let watching = |source| WaiterError::Process { role: WAITER_ROLE.into(), source };
        let identity = runtime_dir::identities(&self.0.record).find(|(role, _)| *role == WAITER_ROLE);
        if let Some((_, identity)) = identity
            && let Some(waiter) = pidfd::open(&identity).map_err(watching)?
        {
            let path = self.0.dir.join(COMMANDS_FIFO);
            let told = blocking(move || command(&path, "release\n")).await;
            let ended = tokio::time::timeout(RELEASE_LIMIT, pidfd::ended(&waiter));
            if !matches!(told, Ok(true)) || !matches!(ended.await, Ok(Ok(()))) {
                pidfd::send_signal(&waiter, nix::libc::SIGKILL).map_err(watching)?;
                pidfd::ended(&waiter).await.map_err(watching)?;
            }
        }
        self.read_end().await;
        // Without a waiter its processes are ours to end.
        let record = self.0.record.clone();
        for process in blocking(move || runtime_dir::living(&record)).await? {
            pidfd::send_signal(&process, nix::libc::SIGKILL).map_err(watching)?;
            pidfd::ended(&process).await.map_err(watching)?;
        }
        if let Some(mut child) = self.0.child.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // It has ended, so this reaps it at once.
            child.try_wait().map_err(watching)?;
        }
        let dir = self.0.dir.clone();
        blocking(move || runtime_dir::remove(&dir)).await
    }

    /// Resolves when the waiter has closed the `ended` FIFO or is gone.
    async fn recorded_or_abandoned(&self) {
        let Some(ended) = &self.0.ended else { return };
        // Past tokio, which reads only what epoll announced: a FIFO without a writer from the
        // beginning is never announced.
        if nix::unistd::read(ended, &mut [0]) == Ok(0) {
            return;
        }
        loop {
            let result = match ended.readable().await {
                Ok(()) => ended.try_read(&mut [0; 64]),
                Err(error) => Err(error),
            };
            match result {
                Ok(0) => return,
                Ok(_) => {} // nobody of ours writes to it
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::warn!(pid = self.0.pid, %error, "waiting for a waiter in a thread");
                    return block_until_readable(ended.as_fd()).await;
                }
            }
        }
    }

    /// Takes the exit record in; false when there is none.
    async fn read_end(&self) -> bool {
        let dir = self.0.dir.clone();
        let record = match blocking(move || runtime_dir::read_exit(&dir)).await {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(%error, "the VMM's end cannot be read");
                None
            }
        };
        let Some(record) = record else { return self.0.end.get().is_some() };
        let status = if record.signalled { ExitStatus::Signal(record.number) } else { ExitStatus::Code(record.number) };
        let at = DateTime::from_timestamp_micros(record.at_micros).unwrap_or_else(Utc::now);
        let _ = self.0.end.set(WaitedEnd { status, at, companion_lost: record.lost });
        true
    }
}

impl Inner {
    /// What the records say. Blocks on the disk; must run within a tokio runtime.
    fn find(dir: PathBuf) -> Result<Self, WaiterError> {
        let record = runtime_dir::read_processes(&dir)?.ok_or(WaiterError::Gone)?;
        let identity = |role: &str| {
            let damaged = || WaiterError::Record { path: dir.join(super::wire::PROCESSES_FILE) };
            runtime_dir::identities(&record)
                .find(|(known, _)| *known == role)
                .map(|(_, identity)| identity)
                .ok_or_else(damaged)
        };
        let open = |role: &str, identity: &ProcessIdentity| {
            pidfd::open(identity).map_err(|source| WaiterError::Process { role: role.to_owned(), source })
        };
        let vmm_identity = identity(VMM_ROLE)?;
        let waiter = open(WAITER_ROLE, &identity(WAITER_ROLE)?)?;
        let vmm = open(VMM_ROLE, &vmm_identity)?;
        if waiter.is_none() && vmm.is_none() && runtime_dir::read_exit(&dir)?.is_none() {
            return Err(WaiterError::Gone);
        }
        let ended = if waiter.is_some() {
            let path = dir.join(ENDED_FIFO);
            let ended = open_fifo_read(&path).and_then(Receiver::from_owned_fd);
            Some(ended.map_err(|source| WaiterError::File { action: "opening", path, source })?)
        } else {
            None
        };
        let pid = vmm_identity.pid;
        Ok(Self { dir, record, pid, vmm, ended, child: Mutex::new(None), end: OnceLock::new() })
    }
}

/// Runs something that may wait for the disk off this thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WaiterError> + Send + 'static,
) -> Result<T, WaiterError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(WaiterError::RuntimeGone),
        },
    }
}

/// The way out when no descriptor can be registered any more.
async fn block_until_readable(fd: BorrowedFd<'_>) {
    let Ok(fd) = fd.try_clone_to_owned() else { return };
    let wait = move || {
        let mut polled = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        while nix::poll::poll(&mut polled, PollTimeout::NONE) == Err(nix::errno::Errno::EINTR) {}
        Ok(())
    };
    if blocking(wait).await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn check(spec: &WaiterSpec) -> Result<(), WaiterError> {
    let invalid = |what: String| Err(WaiterError::Invalid(what));
    let plain = |name: &str| {
        let shape = !name.is_empty() && name.len() <= 64 && !name.starts_with('.');
        shape
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
            && !RESERVED.contains(&name)
    };
    let mut names: Vec<&str> = Vec::new();
    for fifo in &spec.fifos {
        if !plain(fifo) || names.contains(&fifo.as_str()) {
            return invalid(format!("{fifo:?} is no name for a FIFO of its own"));
        }
        names.push(fifo);
    }
    let mut roles: Vec<&str> = vec![WAITER_ROLE];
    for process in &spec.processes {
        let role = process.role.as_str();
        let shape = (1..=32).contains(&role.len());
        if !shape
            || !role.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-'))
            || roles.contains(&role)
        {
            return invalid(format!("{role:?} is no role of its own"));
        }
        roles.push(role);
        for (stdio, output) in [(&process.stdin, false), (&process.stdout, true), (&process.stderr, true)] {
            match stdio {
                StdioSpec::Null => {}
                StdioSpec::VmmLog if output => {}
                StdioSpec::VmmLog => return invalid(format!("{role} would read the VMM log")),
                StdioSpec::Data(_) if !output => {}
                StdioSpec::Data(_) => return invalid(format!("{role} would write to given data")),
                StdioSpec::Fifo(name) if spec.fifos.contains(name) => {}
                StdioSpec::Fifo(name) => return invalid(format!("{role} uses FIFO {name:?}, which nobody makes")),
                StdioSpec::Listener(name) => {
                    if !plain(name) || names.contains(&name.as_str()) {
                        return invalid(format!("{name:?} is no name for a socket of its own"));
                    }
                    names.push(name);
                }
            }
        }
    }
    if !roles.contains(&VMM_ROLE) {
        return invalid("no process is the VMM".into());
    }
    if !spec.vmm_log.is_absolute() {
        return invalid(format!("the VMM log {} is not an absolute path", spec.vmm_log.display()));
    }
    Ok(())
}

/// Starts the waiter, which has the directory's lock from its first moment: the lock file is its
/// standard error.
fn spawn(dir: &Path, bin_dir: &Path, tags: &[String], vmm_log: &Path) -> Result<Child, WaiterError> {
    let mut attempt = 0;
    if let Some(logs) = vmm_log.parent() {
        let file = |source| WaiterError::File { action: "making", path: logs.to_owned(), source };
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(logs)
            .map_err(file)?;
    }
    let lock = runtime_dir::claim(dir)?;
    loop {
        let program = install::install(bin_dir)?;
        let failed = |source| WaiterError::File { action: "executing the waiter", path: program.clone(), source };
        let mut command = Command::new(&program);
        command.arg0("sandpen-waiter").args(tags).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(lock.try_clone().map_err(failed)?);
        match command.spawn() {
            // Another thread's child has the freshly installed file open for writing until its exec.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < 100 => {
                attempt += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => {
                // Closed first: nobody is to wait for a lock on what is being removed.
                drop(lock);
                runtime_dir::remove(dir)?;
                return Err(failed(error));
            }
            Ok(child) => return Ok(child),
        }
    }
}

/// Hands the specification over and takes the report; `None` when there is none.
async fn converse(child: &mut Child, encoded: &[u8]) -> Option<Report> {
    let mut input = child.stdin.take()?;
    // A waiter that reads no more has something to report, or has ended.
    let _ = input.write_all(encoded).await;
    drop(input);
    let mut line = String::new();
    child.stdout.take()?.take(REPORT_MAX).read_to_string(&mut line).await.ok()?;
    Report::from_line(&line)
}

/// Reaps the waiter, clears up, and says what the report means.
async fn launch_failed(dir: &Path, spec: &WaiterSpec, mut child: Child, report: Option<Report>) -> WaiterError {
    let status = match child.wait().await {
        Ok(status) => status.to_string(),
        Err(error) => error.to_string(),
    };
    let words = {
        let dir = dir.to_owned();
        let read_and_remove = move || {
            let mut words = String::new();
            if let Ok(file) = File::open(dir.join(LOCK_FILE)) {
                let _ = file.take(REPORT_MAX).read_to_string(&mut words);
            }
            runtime_dir::remove(&dir).map(|()| words)
        };
        match blocking(read_and_remove).await {
            Ok(words) => words,
            Err(error) => return error,
        }
    };
    let Some(Report::Failed { stage, errno, subject }) = report else { return WaiterError::Broken { status, words } };
    let source = if errno == 0 { io::Error::other("no system error") } else { io::Error::from_raw_os_error(errno) };
    let step = match stage {
        Stage::Detach => "detaching itself",
        Stage::Spec => "reading its specification",
        Stage::Fifo => "making FIFO",
        Stage::Listener => "binding socket",
        Stage::Log => "opening the VMM log",
        Stage::Record => "recording",
        Stage::Program => {
            let program = spec.processes.iter().find(|process| process.role == subject);
            let program = program.map(|process| process.program.clone()).unwrap_or_default();
            return WaiterError::Start { role: subject, program, source };
        }
    };
    WaiterError::Step { step, subject, source }
}

/// Writes one command; false when nobody reads them any more.
fn command(path: &Path, line: &str) -> Result<bool, WaiterError> {
    let failed = |source| WaiterError::File { action: "writing to", path: path.to_owned(), source };
    let gone =
        |error: &io::Error| error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(nix::libc::ENXIO);
    match open_fifo_write(path) {
        Ok(fifo) => match File::from(fifo).write_all(line.as_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            written => written.map(|()| true).map_err(failed),
        },
        Err(error) if gone(&error) => Ok(false),
        Err(error) => Err(failed(error)),
    }
}
