//! A machine that was booted up to the guest waiting for its orders, and saved: starting one like it means
//! to restore this instead of booting.
//!
//! ```text
//!   build:    QEMU boots, blank disks, memory in a file ─ Ready ─▶ devices saved ─▶ QEMU ends ─▶ files sealed
//!   restore:  QEMU, memory a private copy of the file, devices from the other ─▶ RESUME ─▶ start message
//! ```
//!
//! The files live in this process's memory and are sealed: no machine that is restored from them, however
//! hostile, can change what the next one gets. What they hold is the same for all, so each guest gets
//! fresh random bytes, clock and name with its start message before anything of a workload's runs.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use sandpen_guest::protocol::{FrameError, FrameReader, Garbage, GuestMessage};
use sandpen_vmm::driver::{DriverError, Vmm};
use sandpen_vmm::start_timings::StartTimings;
use sandpen_vmm::waiter::{DescriptorSpec, open_fifo_read, prepare_runtime_dir};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::args::{Memory, Monitor, QemuArgs};
use super::prepare::{MachinePlan, qmp_fifos};
use super::qmp::{self, LISTENER_FD, MEMORY_FD, Qmp, QmpError};
use crate::confine::descriptor_path;
use crate::control::LinkMode;
use crate::image_root::RootDisk;
use crate::step;
use crate::waited::{self, StartedVmm};

/// Most bytes of the devices' state; it has 0.2 MiB.
const STATE_MAX: u64 = 64 << 20;
/// How long QEMU may take to save or restore a machine that is at hand.
const STEP_LIMIT: Duration = Duration::from_secs(30);

/// Why there is no template, or no machine from it.
#[derive(Debug, thiserror::Error)]
pub(super) enum TemplateError {
    /// A file in memory.
    #[error("{action} a template's file in memory")]
    Memory {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The processes.
    #[error("running QEMU for a template")]
    Driver(#[from] DriverError),
    /// The guest.
    #[error("the guest of a template says what it must not")]
    Guest(#[from] FrameError),
    /// QEMU's monitor.
    #[error(transparent)]
    Monitor(#[from] QmpError),
    /// More than any machine of ours has.
    #[error("QEMU saved more than {STATE_MAX} bytes of a template's devices")]
    StateTooLarge,
    /// It took too long.
    #[error("{0} took too long")]
    TimedOut(&'static str),
    /// QEMU ended.
    #[error("QEMU ended; see its log")]
    Ended,
}

pub(super) fn failed(action: &'static str) -> impl FnOnce(io::Error) -> TemplateError {
    move |source| TemplateError::Memory { action, source }
}

/// A saved machine.
#[derive(Debug)]
pub(super) struct Template {
    /// The guest's memory; sealed.
    pub(super) memory: File,
    /// The devices' state; sealed.
    pub(super) state: File,
}

/// A file in memory, not yet sealed.
pub(super) fn memory_file(name: &str, bytes: u64) -> Result<File, TemplateError> {
    let created = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    let file = File::from(created.map_err(|errno| failed("making")(errno.into()))?);
    file.set_len(bytes).map_err(failed("sizing"))?;
    Ok(file)
}

/// Nobody can write to it any more. Fails while somebody has it mapped for that.
pub(super) fn seal(file: &File) -> Result<(), TemplateError> {
    let seals = SealFlag::F_SEAL_SEAL | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_WRITE;
    let sealed: Result<_, Errno> = fcntl(file, FcntlArg::F_ADD_SEALS(seals));
    sealed.map(drop).map_err(|errno| failed("sealing")(errno.into()))
}

/// An open file of ours, for the waiter to hand over.
fn handed_over(file: &File) -> DescriptorSpec {
    DescriptorSpec::File(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into())
}

fn inherited_memory() -> PathBuf {
    descriptor_path(MEMORY_FD)
}

/// The machine of a template for `args`: the same devices, but nobody's disks.
pub(super) fn blank(args: &QemuArgs) -> QemuArgs {
    QemuArgs {
        tag: String::new(),
        disk: args.disk.as_ref().map(|_| "blank-disk.img".into()),
        // Whatever they are: a machine with a disk of several files cannot be saved, and is restored with one all the same.
        root_disks: (0..args.root_disks.len()).map(blank_root_disk).map(RootDisk::File).collect(),
        memory: Memory::File(inherited_memory()),
        monitor: Monitor::Listener(LISTENER_FD),
        ..args.clone()
    }
}

fn blank_root_disk(number: usize) -> PathBuf {
    format!("blank-image-{number}.img").into()
}

/// The sizes of a machine's disks, in the order of its devices. Blocking.
pub(super) fn disk_sizes(args: &QemuArgs) -> io::Result<Vec<u64>> {
    let disk = args.disk.iter().map(|path| Ok(std::fs::metadata(path)?.len()));
    disk.chain(args.root_disks.iter().map(RootDisk::bytes)).collect()
}

impl Template {
    /// Boots and saves a machine like the one of `plan`, in that one's runtime directory, of which nothing stays. Ends
    /// soon after `stop` is cancelled.
    pub(super) async fn build(
        plan: &MachinePlan,
        bin_dir: &Path,
        stop: &CancellationToken,
    ) -> Result<Self, TemplateError> {
        let memory = memory_file("sandpen-template-memory", u64::from(plan.args.memory_mib) << 20)?;
        let args = QemuArgs { tag: plan.args.tag.clone(), ..blank(&plan.args) };
        let runtime_dir = plan.launch().runtime_dir.clone();
        let (dir, blanks, of) = (runtime_dir.clone(), args.clone(), plan.args.clone());
        step::blocking(move || {
            let failed = |source| step::failed("making a template's blank disks", source);
            let sizes = disk_sizes(&of).map_err(failed)?;
            prepare_runtime_dir(&dir).map_err(|source| step::failed("making the runtime directory", source))?;
            let root_disks = (0..blanks.root_disks.len()).map(blank_root_disk);
            for (path, bytes) in blanks.disk.into_iter().chain(root_disks).zip(sizes) {
                File::create(dir.join(path)).and_then(|file| file.set_len(bytes)).map_err(failed)?;
            }
            Ok(())
        })
        .await?;
        let listener = DescriptorSpec::Listening(qmp::socket());
        let processes = plan.processes(&args, vec![handed_over(&memory), listener])?;
        let waiter = plan.waiter_spec(processes);
        // Its steps are no steps of the start, which waits for the whole.
        let untold = StartTimings::default();
        let started =
            StartedVmm::new(runtime_dir.clone(), bin_dir, waiter, plan.cgroup(), "starting QEMU", untold, stop).await?;
        let saved = tokio::select! {
            saved = save(&runtime_dir, plan.boot_limit) => saved,
            _ = started.waited().ended() => Err(TemplateError::Ended),
            () = stop.cancelled() => Err(DriverError::Cancelled.into()),
        };
        // QEMU has ended, or is of no more use; its mapping of the memory is gone with it.
        started.clear_away().await;
        let state = saved?;
        seal(&memory)?;
        Ok(Self { memory, state })
    }

    /// How long [`Template::build`] may take.
    pub(super) fn build_limit(plan: &MachinePlan) -> Duration {
        plan.boot_limit.saturating_add(STEP_LIMIT * 2)
    }

    /// Starts a machine from this; given up, and nothing of it left, soon after the launch is cancelled.
    pub(super) async fn restore(&self, plan: &MachinePlan, bin_dir: &Path) -> Result<Vmm, TemplateError> {
        let args = QemuArgs {
            memory: Memory::CopyOf(inherited_memory()),
            monitor: Monitor::Fifos,
            incoming: true,
            ..plan.args.clone()
        };
        let files = vec![handed_over(&self.memory), handed_over(&self.state)];
        let planned = plan.clone();
        let mut prepared = step::blocking(move || planned.prepared(&args, files)).await?;
        prepared.waiter.fifos.extend(qmp_fifos());
        let runtime_dir = plan.launch().runtime_dir.clone();
        // The plan has the lease too.
        let waited::Prepared { waiter, lease: _, start, boot_limit, cgroup, timings, cancel } = prepared;
        let started =
            StartedVmm::new(runtime_dir.clone(), bin_dir, waiter, cgroup, "starting QEMU", timings, &cancel).await?;
        let restored = tokio::select! {
            restored = restore(&runtime_dir) => restored,
            _ = started.waited().ended() => Err(TemplateError::Ended),
            () = cancel.cancelled() => Err(DriverError::Cancelled.into()),
        };
        match restored {
            Ok(()) => Ok(started.watch(LinkMode::Restored(start), boot_limit).await?),
            Err(error) => {
                started.clear_away().await;
                Err(error)
            }
        }
    }
}

async fn restore(runtime_dir: &Path) -> Result<(), TemplateError> {
    let mut qmp = Qmp::open(runtime_dir)?;
    timeout(STEP_LIMIT, qmp.restore()).await.map_err(|_| TemplateError::TimedOut("restoring a template"))??;
    Ok(())
}

/// Waits until the guest is up, and takes its devices' state.
async fn save(runtime_dir: &Path, boot_limit: Duration) -> Result<File, TemplateError> {
    let control = open_fifo_read(&runtime_dir.join("control.out")).and_then(pipe::Receiver::from_owned_fd);
    let control = control.map_err(failed("listening to the guest of"))?;
    timeout(boot_limit, ready(control)).await.map_err(|_| TemplateError::TimedOut("booting a template"))??;
    let file = memory_file("sandpen-template-state", 0)?;
    let mut qmp = Qmp::connect(runtime_dir, &file)?;
    timeout(STEP_LIMIT, qmp.save()).await.map_err(|_| TemplateError::TimedOut("saving a template"))??;
    if file.metadata().map_err(failed("looking at"))?.len() > STATE_MAX {
        return Err(TemplateError::StateTooLarge);
    }
    seal(&file)?;
    // It would end by force as well, which is told in the log of the VMM.
    if let Err(error) = qmp.quit().await {
        tracing::debug!(%error, "QEMU of a template");
    }
    Ok(file)
}

/// Resolves when the guest waits for its orders.
async fn ready(mut control: pipe::Receiver) -> Result<(), TemplateError> {
    let mut reader = FrameReader::<GuestMessage>::new(Garbage::Refuse);
    let mut chunk = [0; 256];
    loop {
        let length = control.read(&mut chunk).await.map_err(failed("listening to the guest of"))?;
        if length == 0 || reader.push(&chunk[..length]) != length {
            return Err(TemplateError::Guest(FrameError::Garbage));
        }
        match reader.next()? {
            Some(GuestMessage::Ready { .. }) => return Ok(()),
            Some(_) => return Err(TemplateError::Guest(FrameError::Payload)),
            None => {}
        }
    }
}
