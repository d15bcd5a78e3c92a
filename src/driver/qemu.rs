//! MicroVMs of QEMU's `microvm` machine: KVM where it works, emulation anywhere else.
//!
//! ```text
//!   launch ──▶ prepare ──▶ waiter starts virtiofsd and QEMU ──▶ session with the guest
//!                                                                     │ events, merged
//!   adopt ──▶ waiter found ──▶ QEMU lives: session that asks ─────────┤ by one task
//!                         └──▶ QEMU is gone: the pipes' last words ───┤
//!                                                                     ▼
//!                      … [Faulted(CompanionLost)] VmmExited, always last
//! ```
//!
//! The root directory comes by virtiofs, from a process of ours beside QEMU; the workload's streams
//! and the control port are FIFOs that the waiter holds, so nothing is lost while no daemon runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::libc::SIGKILL;
use sandpen_actors::driver::{Driver, DriverError, Launch, OutputStream, Vmm, VmmProcess};
use sandpen_actors::state_dir::StateDir;
use sandpen_actors::waiter::{WaitedVmm, WaiterError, open_fifo_read, open_fifo_write};
use tokio::sync::mpsc;

use super::control::{self, ControlFifos, GuestSession, SessionMode};

mod last_words;
mod prepare;
mod watch;

#[cfg(test)]
mod tests;

/// The driver's name.
pub const NAME: &str = "qemu";
/// Events that may wait for the monitor: more than one microVM ever has.
const EVENTS: usize = 8;

/// Where a [`QemuDriver`] finds and puts things.
#[derive(Debug, Clone)]
pub struct QemuConfig {
    /// Where kernels are installed.
    pub data_dir: PathBuf,
    /// Where the initramfs and the waiter program are kept.
    pub state_dir: StateDir,
    /// The program that shares root directories when it is called with
    /// [`SUBCOMMAND`](super::virtiofs::SUBCOMMAND): `sandpen`, or one that calls
    /// [`run_helper_if_asked`](crate::run_helper_if_asked) first. `None` for this process's own.
    pub helper: Option<PathBuf>,
    /// QEMU; `None` for the one in `PATH`.
    pub qemu: Option<PathBuf>,
    /// How long a guest may take until its workload runs; `None` for a minute with KVM and three
    /// under emulation.
    pub boot_limit: Option<Duration>,
}

impl QemuConfig {
    /// Everything by default but the directories.
    pub fn new(state_dir: StateDir, data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: data_dir.into(), state_dir, helper: None, qemu: None, boot_limit: None }
    }
}

/// The driver.
#[derive(Debug, Clone)]
pub struct QemuDriver {
    config: Arc<QemuConfig>,
}

impl QemuDriver {
    /// A driver; what is missing on this host shows at a launch, with what to do about it.
    pub fn new(config: QemuConfig) -> Self {
        Self { config: Arc::new(config) }
    }
}

fn failed(step: &str, source: impl std::error::Error + Send + Sync + 'static) -> DriverError {
    DriverError::Launch { step: step.to_owned(), source: Box::new(source) }
}

/// Runs what may wait for the disk off the calling thread.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DriverError> + Send + 'static,
) -> Result<T, DriverError> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(failed("preparing the microVM", error)))
}

impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let config = self.config.clone();
        async move {
            let (runtime_dir, bin_dir) = (launch.runtime_dir.clone(), config.state_dir.bin());
            let prepared = blocking(move || prepare::prepare(&config, &launch)).await?;
            let waited = WaitedVmm::launch(&runtime_dir, &bin_dir, prepared.waiter)
                .await
                .map_err(|error| failed("starting QEMU", error))?;
            let begun = begin(&waited, runtime_dir, SessionMode::Launch(prepared.start), prepared.boot_limit).await;
            if begun.is_err() {
                // Nobody will watch it: nothing of it may stay.
                let _ = waited.signal(SIGKILL);
                if let Err(error) = waited.release().await {
                    tracing::warn!(%error, "clearing up after a microVM that could not be started");
                }
            }
            begun
        }
        .boxed()
    }

    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let config = self.config.clone();
        async move {
            let waited = match WaitedVmm::adopt(&launch.runtime_dir).await {
                Ok(waited) => waited,
                Err(WaiterError::Gone) => return Err(DriverError::Gone),
                Err(error) => return Err(failed("finding the microVM again", error)),
            };
            if waited.has_ended().map_err(|error| failed("looking at QEMU", error))? {
                return ended(waited, launch.runtime_dir).await;
            }
            let boot_limit = blocking(move || Ok(prepare::boot_limit(&config))).await?;
            begin(&waited, launch.runtime_dir, SessionMode::Adopt, boot_limit).await
        }
        .boxed()
    }
}

/// Opens the pipes of a running microVM and begins to watch it.
async fn begin(
    waited: &WaitedVmm,
    runtime_dir: PathBuf,
    mode: SessionMode,
    boot_limit: Duration,
) -> Result<Vmm, DriverError> {
    let opened = blocking(move || Ok((open_outputs(&runtime_dir)?, open_control(&runtime_dir)?)));
    let (outputs, fifos) = opened.await?;
    let (session, listen, told) =
        control::open(fifos, mode, boot_limit).map_err(|error| failed("watching the control port", error))?;
    let (sender, events) = mpsc::channel(EVENTS);
    // Its end closes the channel, which the monitor sees; it ends when the monitor is gone.
    drop(tokio::spawn(watch::watch(waited.clone(), listen, told, sender)));
    let process = Process { waited: waited.clone(), session: Some(session) };
    Ok(Vmm { process: Arc::new(process), outputs, events })
}

/// A microVM that ended while no daemon was there: what it left, and its end.
async fn ended(waited: WaitedVmm, runtime_dir: PathBuf) -> Result<Vmm, DriverError> {
    let end = waited.ended().await;
    let (outputs, last_word) = blocking(move || {
        let outputs = open_outputs(&runtime_dir)?;
        let control = open(&runtime_dir, "control.out", open_fifo_read)?;
        Ok((outputs, last_words::read(control)))
    })
    .await?;
    let (sender, events) = mpsc::channel(EVENTS);
    for event in last_word.into_iter().chain(watch::events_of(&end)) {
        // There is room for all, and the receiver is in our hand.
        let _ = sender.try_send(event);
    }
    Ok(Vmm { process: Arc::new(Process { waited, session: None }), outputs, events })
}

type Opener = fn(&Path) -> std::io::Result<std::os::fd::OwnedFd>;

fn open(runtime_dir: &Path, name: &str, opener: Opener) -> Result<std::os::fd::OwnedFd, DriverError> {
    opener(&runtime_dir.join(name)).map_err(|error| failed(&format!("opening the pipe {name}"), error))
}

fn open_outputs(runtime_dir: &Path) -> Result<Vec<(OutputStream, std::os::fd::OwnedFd)>, DriverError> {
    [(OutputStream::Stdout, "stdout.out"), (OutputStream::Stderr, "stderr.out")]
        .into_iter()
        .map(|(stream, name)| Ok((stream, open(runtime_dir, name, open_fifo_read)?)))
        .collect()
}

fn open_control(runtime_dir: &Path) -> Result<ControlFifos, DriverError> {
    Ok(ControlFifos {
        control_out: open(runtime_dir, watch::CONTROL_OUT, open_fifo_read)?,
        control_in: open(runtime_dir, "control.in", open_fifo_write)?,
        stdin_in: open(runtime_dir, "stdin.in", open_fifo_write)?,
    })
}

/// Acts on a microVM.
struct Process {
    waited: WaitedVmm,
    /// `None` when QEMU was gone already.
    session: Option<GuestSession>,
}

impl Process {
    fn session(&self) -> Result<GuestSession, DriverError> {
        self.session.clone().ok_or_else(|| DriverError::Unreachable("its VMM process has ended".to_owned()))
    }
}

impl VmmProcess for Process {
    fn pid(&self) -> Option<u32> {
        Some(self.waited.pid())
    }

    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        let session = self.session();
        async move { session?.signal(signal).await }.boxed()
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let session = self.session();
        async move { session?.acknowledge_exit().await }.boxed()
    }

    fn signal_vmm(&self, signal: i32) -> Result<(), DriverError> {
        self.waited.signal(signal).map_err(|source| DriverError::Signal { signal, source })
    }

    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        let session = self.session();
        async move { session?.write_stdin(&bytes).await }.boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let session = self.session();
        async move { session?.close_stdin().await }.boxed()
    }

    fn release(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let waited = self.waited.clone();
        async move { waited.release().await.map_err(|error| failed("clearing up after the microVM", error)) }.boxed()
    }
}
