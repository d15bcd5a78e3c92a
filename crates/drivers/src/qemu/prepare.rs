//! What is looked up and made before a microVM can be started: QEMU, the kernel, the initramfs, disks and
//! the processes' command lines. What is not at hand is [long work](crate::work), which a start that is
//! cancelled leaves.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use sandpen_cache::CacheUser;
use sandpen_guest::protocol::{ROOTFS_TAG, RootfsSource};
use sandpen_kernels::InstalledKernel;
use sandpen_types::spec::{Network, SandboxSpec};
use sandpen_types::start_step::StartStep;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::{DriverError, Launch};
use sandpen_vmm::waiter::{DescriptorSpec, LOG_FIFO, ProcessSpec, StdioSpec, VMM_ROLE, WaiterSpec};
use tokio_util::sync::CancellationToken;

use super::args::{
    FreeMemory, Memory, Monitor, QMP, QemuArgs, SESSION_PORT_MIB, SHARES_MAX, UserNetwork, share_socket,
};
use super::handed_over::handed_over;
use super::initramfs::{Extra, Initramfs, InitramfsError};
use super::kernel::{self, GuestKernel};
use super::program::{self, QemuError};
use super::{QemuConfig, tsc};
use crate::acceleration::{Accelerator, acceleration};
use crate::confine::{self, Needs, Policy, SandboxJail, cgroup};
use crate::disk_maker::DiskMaker;
use crate::image_root::Lease;
use crate::program_files::ProgramFiles;
use crate::shares::{Share, Shares};
use crate::step::{blocking, failed};
use crate::storage::{Storage, storage};
use crate::virtiofs::{self, OPEN_FILES_MIN};
use crate::waited::{self, GuestSetup, Prepared, fifos, process};
use crate::work::{Lane, Piece, Stop};
use crate::{cache, guest_binary, memory, network, shares};

/// Why the processes could only fail.
#[derive(Debug, thiserror::Error)]
enum HostError {
    /// virtiofsd would not start.
    #[error(
        "at most {limit} open files are allowed, {OPEN_FILES_MIN} are needed; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    )]
    OpenFiles {
        /// The hard limit.
        limit: u64,
    },
}

/// How long QEMU may take to say its version.
const QEMU_LIMIT: Duration = Duration::from_secs(30);
/// How long an initramfs of some megabytes may take to be written.
const INITRAMFS_LIMIT: Duration = Duration::from_mins(1);

/// How long a guest may take to report itself.
pub(super) fn boot_limit(config: &QemuConfig) -> Duration {
    config.boot_limit.unwrap_or_else(|| match acceleration().accelerator {
        Accelerator::Kvm => Duration::from_mins(1),
        // Two to three seconds alone, much more where many start on few processors.
        Accelerator::Tcg => Duration::from_mins(3),
    })
}

/// All that may take long to have.
struct Parts {
    shares: Shares,
    network: Option<network::NetworkPlan>,
    /// The program.
    qemu: PathBuf,
    /// Sandpen's own.
    helper: PathBuf,
    jail: SandboxJail,
    kernel: GuestKernel,
    initramfs: PathBuf,
    disk: Option<PathBuf>,
    storage: Storage,
}

/// What can be told from the specification and a look at its directories. Blocking, for milliseconds.
fn looked_at(spec: &SandboxSpec, dir: &StateDir) -> Result<(Shares, Option<network::NetworkPlan>), DriverError> {
    let shares = shares::find(spec, dir, super::NAME, SHARES_MAX)?;
    let network = network::plan(spec, super::NAME, network::NetworkKind::User)?;
    memory::check(spec.resources.memory_mib, super::NAME)?;
    check_open_files().map_err(|source| failed("sharing the root directory", source))?;
    Ok((shares, network))
}

/// The program, which has said its version.
async fn qemu(config: &QemuConfig, network: Network, cancel: &CancellationToken) -> Result<PathBuf, DriverError> {
    static ASKED: Lane<PathBuf, QemuError> = Lane::new(2);
    let step = looking_for_qemu(network);
    let configured = config.qemu.clone();
    let located = move || {
        let path = configured.map_or_else(program::locate, Ok)?;
        Ok::<_, QemuError>((program::known(&path)?.is_some(), path))
    };
    let (is_known, path) = blocking(move || located().map_err(|source| failed(step, source))).await?;
    if is_known {
        return Ok(path);
    }
    let piece = Piece {
        key: path.display().to_string(),
        what: format!("asking {} for its version", path.display()),
        limit: QEMU_LIMIT,
        advice: "see whether it runs (sandpen doctor), or try again when the host is less busy",
    };
    let asked = move |stop: &Stop| program::ask(path, |command| stop.output(command)).map(|qemu| qemu.path);
    ASKED.on_thread(piece, cancel, asked).await.map_err(|error| error.of_step(step))
}

async fn initramfs(
    user: &Arc<CacheUser>,
    kernel: Option<InstalledKernel>,
    extra: Extra,
    cancel: &CancellationToken,
) -> Result<PathBuf, DriverError> {
    static MADE: Lane<(), InitramfsError> = Lane::new(2);
    let (looker, maker) = (user.clone(), user.clone());
    let looked = move || {
        let wanted = Initramfs::new(looker.cache().directory(), guest_binary(), kernel.as_ref(), &extra);
        looker.uses(wanted.path()).map_err(|source| failed("noting which initramfs is in use", source))?;
        let is_there = wanted.is_there();
        if is_there {
            sandpen_cache::mark_used(wanted.path());
        }
        Ok((is_there, wanted))
    };
    let (is_there, wanted) = blocking(looked).await?;
    let path = wanted.path().to_owned();
    if !is_there {
        let piece = Piece {
            key: path.display().to_string(),
            what: format!("making the initramfs {}", path.display()),
            limit: INITRAMFS_LIMIT,
            advice: "try again when the host's disk is less busy",
        };
        let make = move |_: &Stop| {
            wanted.make(guest_binary())?;
            maker.cache().keep_within_budget();
            Ok(())
        };
        let made = MADE.on_thread(piece, cancel, make).await;
        made.map_err(|error| error.of_step("making the initramfs"))?;
    }
    Ok(path)
}

/// Everything that is known before the processes are.
#[derive(Debug, Clone)]
pub(super) struct MachinePlan {
    launch: Launch,
    qemu: PathBuf,
    helper: PathBuf,
    /// The command line of a machine that boots.
    pub(super) args: QemuArgs,
    shares: Vec<Share>,
    /// Of the image, if the root is one.
    lease: Option<Lease>,
    guest: GuestSetup,
    cgroup: Result<cgroup::CgroupPlan, String>,
    jail: SandboxJail,
    /// How long the guest may take until its workload runs.
    pub(super) boot_limit: Duration,
}

impl MachinePlan {
    /// What `launch` needs; all that takes long ends soon after its token is cancelled.
    pub(super) async fn new(config: &QemuConfig, launch: Launch) -> Result<Self, DriverError> {
        let (spec, dir) = (launch.spec.clone(), config.state_dir.clone());
        let (shares, network) = blocking(move || looked_at(&spec, &dir)).await?;
        let helper = waited::helper_program(config.helper.as_deref())?;
        let needs = Needs {
            network: network::of_vmm(network.as_ref()),
            shares: shares.all().next().is_some(),
            confinement: config.require_confinement,
        };
        let jail = waited::jail(&launch, needs, &helper).await?;
        let qemu = qemu(config, launch.spec.network, &launch.cancel).await?;
        let disk = config.state_dir.disk(&launch.spec);
        let user = cache::user(config.cache(), &config.state_dir, &launch);
        let (kernel, extra) = kernel::find(config, &user, &launch.spec, disk.is_some(), &launch.cancel).await?;
        shares::check_room(&launch.spec, super::NAME, kernel.shares_max())?;
        let initramfs = initramfs(&user, kernel.modules.clone(), extra, &launch.cancel).await?;
        launch.timings.mark(StartStep::KernelReady);
        let maker = Arc::new(DiskMaker::new(&helper, jail.plan_alone()));
        let dirs = (&config.state_dir, config.data_dir.as_path());
        let storage = storage(&launch, dirs, &user, &maker, disk.as_deref(), &shares.imaged).await?;
        let config = config.clone();
        let parts = Parts { shares, network, qemu, helper, jail, kernel, initramfs, disk, storage };
        blocking(move || Ok(Self::of_parts(&config, launch, parts))).await
    }

    /// Blocking, for milliseconds.
    fn of_parts(config: &QemuConfig, launch: Launch, parts: Parts) -> Self {
        let Parts { shares, network, qemu, helper, jail, kernel, initramfs, disk, storage } = parts;
        let Storage { root_disks, lease } = storage;
        let acceleration = acceleration();
        let accelerator = acceleration.accelerator;
        let resources = launch.spec.resources;
        let args = QemuArgs {
            cpus: resources.cpus,
            memory_mib: resources.memory_mib.saturating_add(SESSION_PORT_MIB),
            tsc_khz: if accelerator == Accelerator::Tcg { tsc::khz() } else { None },
            acpi: kernel.acpi,
            shares: shares.all().map(|share| share.tag.clone()).collect(),
            network: network.as_ref().map(|plan| UserNetwork {
                restricted: plan.restricted,
                ports: plan.ports.iter().map(|(address, port)| (*address, port.host, port.guest)).collect(),
            }),
            disk,
            root_disks,
            free_memory: if kernel.has_balloon { FreeMemory::Reported } else { FreeMemory::Kept },
            ..QemuArgs::plain(launch.tag(), accelerator, kernel.vmlinux, initramfs)
        };
        let cgroup = cgroup::plan(&launch, overhead_mib(accelerator, args.shares.len()));
        let rootfs = match args.disk {
            None => RootfsSource::Virtiofs { tag: ROOTFS_TAG.to_owned() },
            Some(_) => shares.layered_root(),
        };
        let guest = GuestSetup { rootfs, volumes: shares.mounts.clone(), files: shares.files.clone(), network };
        let shares = shares.all().cloned().collect();
        launch.timings.mark(StartStep::RootReady);
        let boot_limit = boot_limit(config);
        let mut plan = Self { launch, qemu, helper, args, shares, lease, guest, cgroup, jail, boot_limit };
        if plan.args.free_memory == FreeMemory::Reported && plan.can_be_restored() {
            // Without filters QEMU would not give the copy of a template's memory back, but complain each time.
            let has_filters = confine::seccomp_available().is_ok();
            plan.args.free_memory = if has_filters { FreeMemory::ReportedOfCopies } else { FreeMemory::Kept };
        }
        plan
    }

    /// The program.
    pub(super) fn qemu(&self) -> &Path {
        &self.qemu
    }

    /// The start that it is for.
    pub(super) fn launch(&self) -> &Launch {
        &self.launch
    }

    /// The same machine with a runtime directory and a cgroup of its own: one that belongs to no start, and has nobody's
    /// disks.
    pub(super) fn apart(&self, runtime_dir: PathBuf, name: &str) -> Self {
        let launch = Launch { runtime_dir, ..self.launch.clone() };
        Self { launch, cgroup: self.cgroup.clone().map(|plan| plan.named(name)), lease: None, ..self.clone() }
    }

    /// Whether the machine has nothing but memory, disks and ports: all that can be saved and restored.
    pub(super) fn can_be_restored(&self) -> bool {
        let is_plain = self.shares.is_empty() && self.guest.network.is_none();
        // A kernel of the sandbox's own may never come up, and would be waited for twice.
        is_plain && self.args.accelerator == Accelerator::Tcg && self.args.acpi
    }

    /// Its cgroup, if one can be made.
    pub(super) fn cgroup(&self) -> Option<cgroup::CgroupPlan> {
        self.cgroup.clone().ok()
    }

    /// The processes for this command line. `more` are what QEMU gets open, behind the sockets of its shares.
    pub(super) fn processes(
        &self,
        args: &QemuArgs,
        more: Vec<DescriptorSpec>,
    ) -> Result<Vec<ProcessSpec>, DriverError> {
        let mut policy = Policy { cgroup: self.cgroup.clone(), jail: self.jail.plan(), ..policy(&self.qemu, args) };
        let args = handed_over(args, &mut policy);
        let sockets = (0..self.shares.len()).map(|number| DescriptorSpec::Connected(share_socket(number)));
        let mut descriptors: Vec<_> = sockets.chain(more).collect();
        self.jail.hand_over(&mut policy, &mut descriptors);
        network::permit(self.guest.network.as_ref(), &mut policy);
        let policy = serde_json::to_vec(&policy).map_err(|source| failed("describing what QEMU may do", source))?;
        let mut confined = vec![confine::helper::SUBCOMMAND.into(), self.qemu.clone().into_os_string()];
        confined.extend(args.to_argv());
        let shares = self.shares.iter().enumerate();
        let mut processes =
            shares.map(|(number, share)| self.virtiofsd(number, share)).collect::<Result<Vec<_>, _>>()?;
        let vmm = process(VMM_ROLE, &self.helper, confined, StdioSpec::Data(policy));
        processes.push(ProcessSpec { descriptors, ..vmm });
        Ok(processes)
    }

    /// The process that shares a directory; it sees nothing else of the host.
    fn virtiofsd(&self, number: usize, share: &Share) -> Result<ProcessSpec, DriverError> {
        let mut policy = virtiofs::policy(number, share.tree());
        policy.cgroup.clone_from(&self.cgroup);
        policy.jail = self.jail.plan_without_network();
        let mut descriptors = Vec::new();
        self.jail.hand_over(&mut policy, &mut descriptors);
        let policy =
            serde_json::to_string(&policy).map_err(|source| failed("describing what virtiofsd may do", source))?;
        let mut args: Vec<OsString> = vec![virtiofs::SUBCOMMAND.into()];
        args.extend([virtiofs::SHARED_DIR.into(), (&share.directory).into(), confine::POLICY.into(), policy.into()]);
        let socket = StdioSpec::Listener(share_socket(number));
        let served = process(&virtiofs::role(number), &self.helper, args, socket);
        Ok(ProcessSpec { descriptors, ..served })
    }

    /// What the waiter is told.
    pub(super) fn waiter_spec(&self, processes: Vec<ProcessSpec>) -> WaiterSpec {
        waited::waiter_spec(&self.launch, processes, &self.jail, self.lease.as_ref())
    }

    /// What waiter and guest are told.
    pub(super) fn prepared(&self, args: &QemuArgs, more: Vec<DescriptorSpec>) -> Result<Prepared, DriverError> {
        let processes = self.processes(args, more)?;
        let waiter = self.waiter_spec(processes);
        waited::prepared(&self.launch, waiter, self.lease.clone(), self.guest.clone(), self.boot_limit, self.cgroup())
    }
}

/// Memory in MiB that the processes may use beside the guest's. Emulation keeps what it translated: up
/// to 1 GiB, QEMU's default. The rest is QEMU, virtiofsd, and the page cache of shared files.
fn overhead_mib(accelerator: Accelerator, shares: usize) -> u32 {
    let translated = match accelerator {
        Accelerator::Kvm => 0,
        Accelerator::Tcg => 1024,
    };
    let companions = u32::try_from(shares).unwrap_or(u32::MAX).saturating_mul(64);
    companions.saturating_add(translated + 384)
}

/// What the loader, the C library and QEMU look at besides.
const LOOKED_AT: [&str; 7] = [
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/proc/self",
    "/proc/filesystems",
    "/proc/sys/vm",
    "/sys/devices/system",
    "/dev/urandom",
];

/// What QEMU may do. It executes nothing itself, but is executed under this policy.
pub fn policy(qemu: &Path, args: &QemuArgs) -> Policy {
    let mut policy = Policy::new(VMM_ROLE);
    let ProgramFiles { execute, read } = ProgramFiles::of(qemu);
    policy.execute.extend(execute);
    policy.read.extend(read);
    policy.read.extend(LOOKED_AT.map(PathBuf::from));
    policy.modify.push("/dev/null".into());
    policy.private_memory = matches!(args.memory, Memory::CopyOf(_));
    // QEMU opens its standard output once more, for the console.
    policy.modify.extend(fifos().into_iter().map(PathBuf::from).chain([LOG_FIFO.into()]));
    if args.monitor == Monitor::Fifos {
        policy.modify.extend(qmp_fifos().map(PathBuf::from));
    }
    if args.accelerator == Accelerator::Kvm {
        policy.devices.push("/dev/kvm".into());
    }
    policy
}

/// The FIFOs of QEMU's monitor, in the runtime directory.
pub(super) fn qmp_fifos() -> [String; 2] {
    [format!("{QMP}.in"), format!("{QMP}.out")]
}

/// What is being done when QEMU is not found: a host that has libkrun alone may do with another network.
fn looking_for_qemu(network: Network) -> &'static str {
    match network {
        Network::Published => {
            "looking for QEMU, which published ports without a way out (-p without --net) need; \
                               libkrun's, with one, are --net tsi"
        }
        _ => "looking for QEMU",
    }
}

/// A limit that cannot be read is virtiofsd's to complain about.
fn check_open_files() -> Result<(), HostError> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, limit)) if limit < OPEN_FILES_MIN => Err(HostError::OpenFiles { limit }),
        _ => Ok(()),
    }
}
