//! What is looked up before a microVM can be started: whether this host runs it, libkrunfw, and the
//! specification for its process. What is not at hand is [long work](crate::work), which a start that is
//! cancelled leaves.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandpen_cache::CacheUser;
use sandpen_guest::protocol::{RootfsSource, Settings, Volume};
use sandpen_kernels::builtin;
use sandpen_kernels::own::Facts;
use sandpen_types::spec::{KernelDigest, Network, SandboxSpec};
use sandpen_types::start_step::StartStep;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::{DriverError, Launch};
use sandpen_vmm::waiter::{LOG_FIFO, ProcessSpec, StdioSpec, VMM_ROLE};
use tokio_util::sync::CancellationToken;

use super::vm_spec::{Boot, GuestKernel, SharedDir, VmSpec};
use super::{BARE_NAME, KrunConfig, NAME, Payload, helper};
use crate::confine::{Needs, Policy, SandboxJail, SystemCalls, cgroup};
use crate::disk_maker::DiskMaker;
use crate::image_root::Lease;
use crate::krun_host::{self, KrunUnusable};
use crate::own_kernel::OwnKernel;
use crate::shares::Share;
use crate::step::{blocking, failed};
use crate::storage::{Storage, storage};
use crate::virtiofs::{FILE_CAPABILITIES, OPEN_FILES_MAX};
use crate::waited::{self, GuestSetup, Prepared, fifos, process};
use crate::{cache, control, disk, image_root, memory, network, own_kernel, sessions, shares};

/// Shared directories that a machine has room for. libkrun gives each virtio device of an x86-64
/// machine an interrupt line of its own, 5 to 15. Four are taken by its balloon, its random number
/// generator, the console and the ports; two are kept for a disk and a network.
const SHARES_MAX: usize = 5;

/// Memory in MiB that the process may use beside the guest's: libkrun's own, which is small, and the
/// page cache of shared files.
const OVERHEAD_MIB: u32 = 256;

/// What `launch` needs; all that takes long ends soon after its token is cancelled.
pub(super) async fn prepare(config: &KrunConfig, payload: Payload, launch: Launch) -> Result<Prepared, DriverError> {
    let spec = launch.spec.clone();
    let looked = blocking(move || {
        let network = network::plan(&spec, NAME, network::NetworkKind::Tsi)?;
        memory::check(spec.resources.memory_mib, NAME)?;
        Ok(network)
    });
    let network = looked.await?;
    let needs =
        Needs { network: network::of_vmm(network.as_ref()), shares: false, confinement: config.require_confinement };
    let program = waited::helper_program(config.helper.as_deref())?;
    let planned = match payload {
        Payload::Linux => linux(config, &launch, needs, &program).await?,
        Payload::Bare => {
            let (spec, dir) = (launch.spec.clone(), config.state_dir.clone());
            let boot = blocking(move || bare(&spec, &dir)).await?;
            let needs = Needs { shares: matches!(&boot, Boot::Bare { shares, .. } if !shares.is_empty()), ..needs };
            let jail = waited::jail(&launch, needs, &program).await?;
            let (rootfs, volumes, files) = (RootfsSource::Current, Vec::new(), Vec::new());
            Planned { boot, jail, lease: None, rootfs, volumes, files }
        }
    };
    let limit = config.boot_limit();
    blocking(move || prepared(&program, limit, &launch, planned, network)).await
}

/// Blocking, for milliseconds.
fn prepared(
    program: &Path,
    boot_limit: Duration,
    launch: &Launch,
    planned: Planned,
    network: Option<network::NetworkPlan>,
) -> Result<Prepared, DriverError> {
    let Planned { boot, jail, lease, rootfs, volumes, files } = planned;
    let is_bare = matches!(boot, Boot::Bare { .. });
    let resources = launch.spec.resources;
    let port_map = |plan: &network::NetworkPlan| plan.ports.iter().map(|(_, port)| (port.host, port.guest)).collect();
    let tsi = network.as_ref().map(port_map);
    let cpus = u8::try_from(resources.cpus).map_err(|error| failed("counting virtual CPUs", error))?;
    let cgroup = cgroup::plan(launch, OVERHEAD_MIB);
    let mut policy = Policy { cgroup: cgroup.clone(), jail: jail.plan(), ..policy(&boot) };
    network::permit(network.as_ref(), &mut policy);
    let mut descriptors = Vec::new();
    jail.hand_over(&mut policy, &mut descriptors);
    let spec = VmSpec { cpus, memory_mib: resources.memory_mib, policy, boot, tsi };
    let spec = serde_json::to_vec(&spec).map_err(|source| failed("describing the microVM", source))?;
    let vmm = process(VMM_ROLE, program, vec![helper::SUBCOMMAND.into(), launch.tag().into()], StdioSpec::Data(spec));
    let vmm = ProcessSpec { descriptors, ..vmm };
    let waiter = waited::waiter_spec(launch, vec![vmm], &jail, lease.as_ref());
    let guest = GuestSetup { rootfs, volumes, files, network };
    let prepared = waited::prepared(launch, waiter, lease, guest, boot_limit, cgroup.ok())?;
    if is_bare {
        sessions::leave_out(&launch.runtime_dir).map_err(|error| failed("marking the runtime directory", error))?;
    }
    Ok(prepared)
}

/// What the process of the microVM needs when it enters it. libkrunfw is loaded by then; what it gets open is in the order
/// in which [`Boot`] names it.
pub(super) fn policy(boot: &Boot) -> Policy {
    let mut policy = Policy::new(VMM_ROLE);
    policy.system_calls = SystemCalls::Krun;
    policy.devices.push("/dev/kvm".into());
    policy.modify.extend(fifos().into_iter().map(PathBuf::from).chain([LOG_FIFO.into()]));
    match boot {
        Boot::Linux { kernel, root, shares, disk, root_disks } => {
            if let GuestKernel::Own(file) = kernel {
                policy.inherit(file, false);
            }
            if let Some(file) = disk {
                policy.inherit(file, true);
            }
            for (number, disk) in root_disks.iter().enumerate() {
                disk.inherit(number, &mut policy);
            }
            policy.shares = root.iter().chain(shares.iter().map(|share| &share.tree)).cloned().collect();
        }
        Boot::Bare { kernel, shares } => {
            policy.inherit(kernel, false);
            policy.shares = shares.iter().map(|share| share.tree.clone()).collect();
        }
    }
    if !policy.shares.is_empty() {
        policy.capabilities = FILE_CAPABILITIES.iter().map(ToString::to_string).collect();
        // Every file that the guest's kernel remembers is an open one.
        policy.open_files = OPEN_FILES_MAX;
    }
    policy
}

/// What the process of a microVM with this root directory may do, and with a network, for tests.
#[cfg(feature = "testing")]
pub fn policy_of_root(root: &Path, with_network: bool) -> Policy {
    let kernel = GuestKernel::Firmware(PathBuf::from("libkrunfw.so"));
    let root = Some(crate::confine::SharedTree {
        directory: root.to_owned(),
        is_file: false,
        read_only: false,
        identity: None,
    });
    let boot = Boot::Linux { kernel, root, shares: Vec::new(), disk: None, root_disks: Vec::new() };
    Policy { tcp: with_network, ..policy(&boot) }
}

/// What boots, and where.
struct Planned {
    boot: Boot,
    jail: SandboxJail,
    /// Of the image, if the root is one.
    lease: Option<Lease>,
    /// The guest's root, volumes and those of them that are files.
    rootfs: RootfsSource,
    volumes: Vec<Volume>,
    files: Vec<String>,
}

async fn linux(config: &KrunConfig, launch: &Launch, needs: Needs, program: &Path) -> Result<Planned, DriverError> {
    let disk = config.state_dir.disk(&launch.spec);
    // The empty first root of a guest that makes its own is one device more.
    let (spec, most) = (launch.spec.clone(), SHARES_MAX - usize::from(disk.is_some()));
    let dir = config.state_dir.clone();
    let shares = blocking(move || shares::find(&spec, &dir, NAME, most)).await?;
    let needs = Needs { shares: shares.all().next().is_some(), ..needs };
    let user = cache::user(config.cache(), &config.state_dir, launch);
    let kernel = guest_kernel(config, &user, &launch.spec, &launch.cancel).await?;
    launch.timings.mark(StartStep::KernelReady);
    let jail = waited::jail(launch, needs, program).await?;
    let rootfs = if disk.is_some() { shares.layered_root() } else { RootfsSource::Current };
    let maker = Arc::new(DiskMaker::new(program, jail.plan_alone()));
    let dirs = (&config.state_dir, config.data_dir.as_path());
    let Storage { root_disks, lease } = storage(launch, dirs, &user, &maker, disk.as_deref(), &shares.imaged).await?;
    let root_disks = root_disks.into_iter().map(Into::into).collect();
    let mut root = shares.root;
    let native = if disk.is_none() { root.pop().map(|root| root.tree()) } else { None };
    let shares_beside = root.into_iter().chain(shares.volumes).map(shared).collect();
    let boot = Boot::Linux { kernel, root: native, shares: shares_beside, disk, root_disks };
    Ok(Planned { boot, jail, lease, rootfs, volumes: shares.mounts, files: shares.files })
}

fn shared(share: Share) -> SharedDir {
    SharedDir { tree: share.tree(), tag: share.tag }
}

async fn guest_kernel(
    config: &KrunConfig,
    user: &Arc<CacheUser>,
    spec: &SandboxSpec,
    cancel: &CancellationToken,
) -> Result<GuestKernel, DriverError> {
    let own = match &spec.kernel {
        None => None,
        Some(file) => Some(own_kernel(config, user, file, spec.kernel_sha256, spec, cancel).await?.copy),
    };
    let config = config.clone();
    let looked = move || match own {
        None => krun_host::find(config.firmware.as_deref(), &config.data_dir).map(GuestKernel::Firmware),
        // libkrunfw is neither needed nor loaded.
        Some(file) => krun_host::check_kvm().map(|()| GuestKernel::Own(file)),
    };
    blocking(move || looked().map_err(unusable)).await
}

fn unusable(error: KrunUnusable) -> DriverError {
    match error {
        KrunUnusable::Kvm(_) | KrunUnusable::LeftOut => {
            DriverError::Unavailable { name: NAME.to_owned(), reason: format!("{error}; use --driver qemu") }
        }
        KrunUnusable::Firmware(_) | KrunUnusable::Named(_) => failed("looking for the guest kernel", error),
    }
}

/// Judges a sandbox's own kernel; what else is wrong shows at the start.
pub(super) async fn check_kernel(config: &KrunConfig, spec: &SandboxSpec) -> Result<Option<KernelDigest>, DriverError> {
    let Some(file) = &spec.kernel else { return Ok(None) };
    let looker = cache::nobody(config.cache());
    let kernel = own_kernel(config, &looker, file, None, spec, &CancellationToken::new()).await?;
    Ok(Some(kernel.digest))
}

/// The copy of a sandbox's own kernel that is booted.
async fn own_kernel(
    config: &KrunConfig,
    user: &Arc<CacheUser>,
    file: &Path,
    digest: Option<KernelDigest>,
    spec: &SandboxSpec,
    cancel: &CancellationToken,
) -> Result<OwnKernel<()>, DriverError> {
    const HINT: &str = "libkrun loads no modules, so the guest's drivers must be built in; use a kernel that has \
                        them, or --driver qemu";
    let mut needed = vec!["virtio_mmio", builtin::COMMAND_LINE_DEVICES, "virtio_console", "virtiofs"];
    if config.state_dir.disk(spec).is_some() {
        needed.extend(disk::MODULES);
        if image_root::image_of(spec).is_some() {
            needed.push(disk::IMAGE_MODULE);
        }
    } else if spec.read_only {
        // Its mount points are laid over it.
        needed.push("overlay");
    }
    if spec.network != Network::None {
        needed.push(builtin::TSI);
    }
    let accept = move |facts: &Facts| facts.check_has(&needed, HINT);
    own_kernel::ensure(user, file, digest, cancel, accept).await
}

/// The program, and its volumes. Blocking, for microseconds.
fn bare(spec: &SandboxSpec, dir: &StateDir) -> Result<Boot, DriverError> {
    let program = spec.command.first().map(|program| Path::new(program.as_os_str()));
    let kernel = program.filter(|program| program.is_absolute() && program.is_file()).map(PathBuf::from);
    let kernel = kernel.ok_or_else(|| DriverError::Unsupported {
        driver: BARE_NAME.to_owned(),
        what: "the command must begin with the absolute path of an ELF file on this host".to_owned(),
    })?;
    if control::settings(spec) != Settings::default() {
        let what =
            "settings of the inside (user, read-only root, tmpfs, shared memory, hosts, sysctls): its programs are \
                    their own kernels"
                .to_owned();
        return Err(DriverError::Unsupported { driver: BARE_NAME.to_owned(), what });
    }
    let has_volumes = !spec.volumes.is_empty();
    let volumes = if has_volumes { shares::find(spec, dir, BARE_NAME, SHARES_MAX)?.volumes } else { Vec::new() };
    Ok(Boot::Bare { kernel, shares: volumes.into_iter().map(shared).collect() })
}
