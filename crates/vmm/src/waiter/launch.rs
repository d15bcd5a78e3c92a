//! How a waiter comes to be: executed with the directory's lock, told what to do, heard.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sandpen_waiter::wire::{LOCK_FILE, Report, Stage, WaiterSpec, encode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};

use super::error::blocking;
use super::newborn::Newborn;
use super::runtime_dir::DirLock;
use super::{WaiterError, install, runtime_dir};

/// Most bytes of a report line or of a waiter's last words.
const REPORT_MAX: u64 = 8 << 10;

/// The waiter for a new microVM; has the directory's lock from its first moment.
pub(super) fn spawn_new(dir: &Path, bin_dir: &Path, spec: &WaiterSpec) -> Result<Newborn, WaiterError> {
    if let Some(logs) = spec.vmm_log.parent() {
        let file = |source| WaiterError::File { action: "making", path: logs.to_owned(), source };
        std::os::unix::fs::DirBuilderExt::mode(std::fs::DirBuilder::new().recursive(true), 0o700)
            .create(logs)
            .map_err(file)?;
    }
    let lock = runtime_dir::claim(dir)?;
    // Given back first: nobody is to wait for a lock on what is being removed.
    let started = runtime_dir::write_held(dir, spec).and_then(|()| spawn(dir, bin_dir, &spec.tags, lock));
    if started.is_err() {
        runtime_dir::remove(dir)?;
    }
    started
}

/// A waiter for the processes of one that was killed. `None` when there is none to be had: another one
/// is just being started, or the killed one was of a version that left no word of what it held.
pub(super) async fn take_up(dir: &Path, bin_dir: &Path) -> Result<Option<()>, WaiterError> {
    let (runtime, bin) = (dir.to_owned(), bin_dir.to_owned());
    let started = blocking(move || {
        let Some(lock) = runtime_dir::claim_abandoned(&runtime)? else { return Ok(None) };
        let Some(spec) = runtime_dir::read_held(&runtime)? else { return Ok(None) };
        // The next one's record takes the place of the killed one's.
        runtime_dir::reap_waiter(&runtime)?;
        Ok(Some((spawn(&runtime, &bin, &spec.tags, lock)?, spec)))
    });
    let Some((mut child, spec)) = started.await? else { return Ok(None) };
    let encoded = encode(&spec).ok_or_else(|| WaiterError::Invalid("its record is too large".into()))?;
    match converse(&mut child, &encoded).await {
        Some(Report::Ready) => {
            child.has_recorded_itself();
            Ok(Some(()))
        }
        report => {
            let status = child.end().await;
            let dir = dir.to_owned();
            let words = blocking(move || Ok(last_words(&dir))).await?;
            Err(explain(report, &spec, status, words))
        }
    }
}

/// Executes the waiter. The lock file is its standard error.
fn spawn(dir: &Path, bin_dir: &Path, tags: &[String], lock: DirLock) -> Result<Newborn, WaiterError> {
    let mut attempt = 0;
    loop {
        let program = install::program(bin_dir)?;
        let failed =
            |source| WaiterError::File { action: "executing the waiter", path: program.name().to_owned(), source };
        let mut command = Command::new(program.path());
        command.arg0(install::NAME).args(tags).current_dir(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(lock.for_waiter().map_err(failed)?);
        match command.spawn() {
            // Another thread's child has the freshly installed file open for writing until its exec.
            Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy && attempt < 100 => {
                attempt += 1;
                std::thread::sleep(Duration::from_millis(5));
            }
            // Once more, with the other program.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && program.refuse() => {}
            spawned => {
                let child: Child = spawned.map_err(failed)?;
                lock.hand_over();
                return Newborn::new(child).map_err(failed);
            }
        }
    }
}

/// Hands the specification over and takes the report; `None` when there is none.
pub(super) async fn converse(child: &mut Newborn, encoded: &[u8]) -> Option<Report> {
    let (input, output) = child.take_pipes()?;
    let (mut input, output) = (Sender::from_owned_fd(input).ok()?, Receiver::from_owned_fd(output).ok()?);
    // A waiter that reads no more has something to report, or has ended.
    let _ = input.write_all(encoded).await;
    drop(input);
    let mut line = String::new();
    output.take(REPORT_MAX).read_to_string(&mut line).await.ok()?;
    Report::from_line(&line)
}

/// Reaps the waiter, clears up, and says what the report means.
pub(super) async fn failed(dir: &Path, spec: &WaiterSpec, child: Newborn, report: Option<Report>) -> WaiterError {
    let status = child.end().await;
    let dir = dir.to_owned();
    let read_and_remove = move || {
        let words = last_words(&dir);
        runtime_dir::remove(&dir).map(|()| words)
    };
    match blocking(read_and_remove).await {
        Ok(words) => explain(report, spec, status, words),
        Err(error) => error,
    }
}

fn last_words(dir: &Path) -> String {
    let mut words = String::new();
    if let Ok(file) = File::open(dir.join(LOCK_FILE)) {
        let _ = file.take(REPORT_MAX).read_to_string(&mut words);
    }
    words
}

fn explain(report: Option<Report>, spec: &WaiterSpec, status: String, words: String) -> WaiterError {
    let Some(Report::Failed { stage, errno, subject }) = report else { return WaiterError::Broken { status, words } };
    let source = if errno == 0 { io::Error::other("no system error") } else { io::Error::from_raw_os_error(errno) };
    let step = match stage {
        Stage::Detach => "detaching itself",
        Stage::Namespaces => "making namespaces for the processes",
        Stage::Spec => "reading its specification",
        Stage::Fifo => "making FIFO",
        Stage::Listener => "binding socket",
        Stage::Log => "opening the VMM log",
        Stage::Record => "recording",
        Stage::Lease => "locking, so that it is not removed,",
        Stage::Program => {
            let program = spec.processes.iter().find(|process| process.role == subject);
            let program = program.map(|process| process.program.clone()).unwrap_or_default();
            return WaiterError::Start { role: subject, program, source };
        }
    };
    WaiterError::Step { step, subject, source }
}
