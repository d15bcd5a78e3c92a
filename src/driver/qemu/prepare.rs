//! What is looked up and made before a microVM can be started: QEMU, the kernel, the initramfs and
//! the processes' command lines. Blocking.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, access};
use sandpen_actors::driver::{DriverError, Launch};
use sandpen_actors::spec::Rootfs;
use sandpen_actors::waiter::{ProcessSpec, StdioSpec, VMM_ROLE, WaiterSpec};
use sandpen_guest::protocol::{PowerOff, ROOTFS_TAG, RootfsSource, Start};

use super::{QemuConfig, failed};
use crate::driver::control::start_message;
use crate::driver::qemu_args::{Accelerator, PORTS, QemuArgs, VIRTIOFS_SOCKET};
use crate::driver::virtiofs::{self, OPEN_FILES_MIN};
use crate::driver::{guest_binary, host, initramfs, tsc};

/// The role of the process that shares the root directory.
pub(super) const VIRTIOFS_ROLE: &str = "virtiofsd";
/// Most bytes of the VMM's own messages and the guest's console: a guest can write there without end.
const VMM_LOG_LIMIT: u64 = 1 << 20;
/// Variables of our environment that QEMU and virtiofsd get; others may be secrets, and QEMU is what
/// a guest attacks first.
const INHERITED: [&str; 3] = ["PATH", "LD_LIBRARY_PATH", "TMPDIR"];

/// Why the processes could only fail.
#[derive(Debug, thiserror::Error)]
enum HostError {
    /// The root directory cannot be shared.
    #[error("the root directory {path:?} cannot be used by this user; it must be readable and not locked away")]
    Rootfs {
        /// The directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// virtiofsd would not start.
    #[error(
        "at most {limit} open files are allowed, {OPEN_FILES_MIN} are needed; raise the hard limit (ulimit -Hn, LimitNOFILE=)"
    )]
    OpenFiles {
        /// The hard limit.
        limit: u64,
    },
}

/// All that a launch needs.
pub(super) struct Prepared {
    pub(super) waiter: WaiterSpec,
    pub(super) start: Box<Start>,
    pub(super) boot_limit: Duration,
}

/// How long a guest may take to report itself.
pub(super) fn boot_limit(config: &QemuConfig) -> Duration {
    config.boot_limit.unwrap_or_else(|| match host::acceleration().accelerator {
        Accelerator::Kvm => Duration::from_mins(1),
        // Two to three seconds alone, much more where many start on few processors.
        Accelerator::Tcg => Duration::from_mins(3),
    })
}

pub(super) fn prepare(config: &QemuConfig, launch: &Launch) -> Result<Prepared, DriverError> {
    let shared = shared_directory(&launch.spec.rootfs)?;
    check_open_files().map_err(|source| failed("sharing the root directory", source))?;
    let qemu = match &config.qemu {
        Some(path) => host::open_qemu(path.clone()),
        None => host::find_qemu(),
    };
    let qemu = qemu.map_err(|source| failed("looking for QEMU", source))?;
    let kernel =
        crate::kernel::find(&config.data_dir).map_err(|source| failed("looking for the guest kernel", source))?;
    let initramfs = initramfs::ensure(&config.state_dir.cache(), guest_binary(), &kernel)
        .map_err(|source| failed("making the initramfs", source))?;
    let acceleration = host::acceleration();
    let accelerator = acceleration.accelerator;
    let resources = launch.spec.resources;
    let tag = format!("{}/{}/{}", launch.state_id, launch.spec.key, launch.generation);
    let args = QemuArgs {
        tag: tag.clone(),
        accelerator,
        cpus: resources.cpus,
        memory_mib: resources.memory_mib,
        tsc_khz: if accelerator == Accelerator::Tcg { tsc::khz() } else { None },
        kernel: kernel.vmlinux(),
        initramfs,
    };
    let helper = match &config.helper {
        Some(helper) => helper.clone(),
        None => std::env::current_exe().map_err(|source| failed("finding sandpen's own program", source))?,
    };
    let companion = process(
        VIRTIOFS_ROLE,
        &helper,
        vec![virtiofs::SUBCOMMAND.into(), "--shared-dir".into(), shared.into()],
        StdioSpec::Listener(VIRTIOFS_SOCKET.to_owned()),
    );
    let vmm = process(VMM_ROLE, &qemu.path, args.to_argv(), StdioSpec::Null);
    let waiter = WaiterSpec {
        tags: vec![tag],
        fifos: PORTS.iter().flat_map(|(name, _)| [format!("{name}.in"), format!("{name}.out")]).collect(),
        processes: vec![companion, vmm],
        vmm_log: launch.vmm_log.clone(),
        vmm_log_limit: VMM_LOG_LIMIT,
    };
    let rootfs = RootfsSource::Virtiofs { tag: ROOTFS_TAG.to_owned() };
    let start = start_message(&launch.spec, rootfs, PowerOff::Reset)
        .map_err(|source| failed("getting random bytes for the guest", source))?;
    Ok(Prepared { waiter, start: Box::new(start), boot_limit: boot_limit(config) })
}

fn process(role: &str, program: &Path, args: Vec<OsString>, stdin: StdioSpec) -> ProcessSpec {
    let env = INHERITED.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    ProcessSpec {
        role: role.to_owned(),
        program: program.to_owned(),
        args,
        env: env.collect(),
        clear_env: true,
        stdin,
        stdout: StdioSpec::VmmLog,
        stderr: StdioSpec::VmmLog,
    }
}

/// The directory that becomes the guest's root.
fn shared_directory(rootfs: &Rootfs) -> Result<String, DriverError> {
    let unsupported = |what: &str| DriverError::Unsupported { driver: super::NAME.to_owned(), what: what.to_owned() };
    let path = match rootfs {
        Rootfs::Native(path) => path,
        Rootfs::Overlayfs(_) => {
            return Err(unsupported("an overlayfs rootfs; use native: with one directory"));
        }
    };
    // Here with words of our own: virtiofsd and QEMU would only be found dead.
    access(path, AccessFlags::R_OK | AccessFlags::X_OK)
        .map_err(|source| failed("sharing the root directory", HostError::Rootfs { path: path.clone(), source }))?;
    warn_if_exposed(path);
    // The virtiofsd library takes text.
    path.to_str().map(str::to_owned).ok_or_else(|| unsupported("a rootfs whose path is not UTF-8; rename it"))
}

/// A limit that cannot be read is virtiofsd's to complain about.
fn check_open_files() -> Result<(), HostError> {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, limit)) if limit < OPEN_FILES_MIN => Err(HostError::OpenFiles { limit }),
        _ => Ok(()),
    }
}

/// The guest of a root's sandbox can make setuid programs: others on this host must not get there.
fn warn_if_exposed(path: &Path) {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let reachable = path.ancestors().all(|directory| {
        std::fs::metadata(directory).is_ok_and(|meta| meta.uid() == 0 && meta.permissions().mode() & 0o011 != 0)
    });
    let no_suid =
        nix::sys::statvfs::statvfs(path).is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    if reachable && !no_suid {
        tracing::warn!(
            rootfs = ?path,
            "other users can reach this directory, and its guest can make setuid-root programs in it; \
             put it below a directory of mode 0700 or on a file system mounted nosuid,nodev"
        );
    }
}
