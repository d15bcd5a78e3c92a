//! Which kernel a guest of QEMU boots, and with which modules: the installed one, or the sandbox's own.
//!
//! | own kernel | modules |
//! | --- | --- |
//! | of a version that is installed (`sandpen kernel install`) | those of that version |
//! | any other | none: what the guest needs must be built in |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandpen_cache::CacheUser;
use sandpen_kernels::own::{Facts, OwnKernelError};
use sandpen_kernels::{InstalledKernel, builtin, modules};
use sandpen_types::spec::{KernelDigest, SandboxSpec};
use sandpen_vmm::driver::DriverError;
use tokio_util::sync::CancellationToken;

use super::args::{SHARES_MAX, SHARES_MAX_WITHOUT_ACPI};
use super::initramfs::Extra;
use super::{QemuConfig, initramfs};
use crate::own_kernel::OwnKernel;
use crate::step::{blocking, failed};
use crate::{cache, disk, image_root, own_kernel};

/// The driver of the guest's network device.
const NETWORK_MODULE: &str = "virtio_net";

const MODULES_HINT: &str = "no modules of this version are installed, so it must be built in, or install the kernel \
                            with its modules: sandpen kernel install --kernel FILE --modules DIR";
const DEVICES_HINT: &str = "without it, or CONFIG_ACPI, it finds no device of QEMU's microvm machine";

/// What a guest boots.
#[derive(Debug)]
pub(super) struct GuestKernel {
    /// Unpacked.
    pub(super) vmlinux: PathBuf,
    /// Whose modules go into the initramfs.
    pub(super) modules: Option<InstalledKernel>,
    /// Whether it finds its devices in ACPI's tables.
    pub(super) acpi: bool,
    /// Whether it can tell which of its memory is free.
    pub(super) has_balloon: bool,
}

impl GuestKernel {
    /// Shared directories that a machine with it has room for.
    pub(super) fn shares_max(&self) -> usize {
        if self.acpi { SHARES_MAX } else { SHARES_MAX_WITHOUT_ACPI }
    }
}

/// Modules that its workload may want, as far as the kernel has them.
fn on_demand(spec: &SandboxSpec) -> Vec<&'static str> {
    let mut on_demand = modules::ON_DEMAND.to_vec();
    if spec.network != sandpen_types::spec::Network::None {
        on_demand.extend(modules::ON_DEMAND_NETWORK);
    }
    on_demand
}

/// Modules that a sandbox needs beside those that every guest does.
fn extra(spec: &SandboxSpec, has_disk: bool) -> Vec<&'static str> {
    let mut extra = Vec::new();
    if spec.network != sandpen_types::spec::Network::None {
        extra.push(NETWORK_MODULE);
    }
    if has_disk {
        extra.extend(disk::MODULES);
        if image_root::image_of(spec).is_some() {
            extra.push(disk::IMAGE_MODULE);
        }
    } else if spec.read_only {
        // Its mount points are laid over it.
        extra.push("overlay");
    }
    extra
}

/// Judges a sandbox's own kernel; what else is wrong shows at the start.
pub(super) async fn check(config: &QemuConfig, spec: &SandboxSpec) -> Result<Option<KernelDigest>, DriverError> {
    let Some(file) = &spec.kernel else { return Ok(None) };
    let extra = extra(spec, config.state_dir.disk(spec).is_some());
    let looker = cache::nobody(config.cache());
    let kernel = own(config, &looker, file, None, extra, &CancellationToken::new()).await?;
    Ok(Some(kernel.digest))
}

/// Finds the kernel, and what its initramfs must hold beside what it always does.
pub(super) async fn find(
    config: &QemuConfig,
    user: &Arc<CacheUser>,
    spec: &SandboxSpec,
    has_disk: bool,
    cancel: &CancellationToken,
) -> Result<(GuestKernel, Extra), DriverError> {
    let mut extra = extra(spec, has_disk);
    let found = if let Some(file) = &spec.kernel {
        let kernel = own(config, user, file, spec.kernel_sha256, extra.clone(), cancel).await?;
        let Accepted { modules, acpi, has_balloon } = kernel.accepted;
        GuestKernel { vmlinux: kernel.copy, modules, acpi, has_balloon }
    } else {
        let (data_dir, extra) = (config.data_dir.clone(), extra.clone());
        blocking(move || installed(&data_dir, &extra)).await?
    };
    if has_disk {
        // Some kernels have no such file and do without.
        extra.extend(disk::OPTIONAL_MODULES);
    }
    if image_root::has_root_disks(spec) {
        // Also where there is no image: machines that differ in their root alone are restored from one template.
        extra.retain(|module| *module != disk::IMAGE_MODULE);
        extra.push(disk::IMAGE_MODULE);
    }
    Ok((found, Extra { at_boot: extra, on_demand: on_demand(spec) }))
}

fn installed(data_dir: &Path, extra: &[&str]) -> Result<GuestKernel, DriverError> {
    let kernel = sandpen_kernels::find(data_dir).map_err(|source| failed("looking for the guest kernel", source))?;
    for module in extra {
        kernel.check_has(module).map_err(|source| failed("looking for the guest kernel's modules", source))?;
    }
    let has_balloon = kernel.check_has(initramfs::BALLOON).is_ok();
    Ok(GuestKernel { vmlinux: kernel.vmlinux(), modules: Some(kernel), acpi: true, has_balloon })
}

async fn own(
    config: &QemuConfig,
    user: &Arc<CacheUser>,
    file: &Path,
    digest: Option<KernelDigest>,
    extra: Vec<&'static str>,
    cancel: &CancellationToken,
) -> Result<OwnKernel<Accepted>, DriverError> {
    let data_dir = config.data_dir.clone();
    let accept = move |facts: &Facts| accept(&data_dir, facts, &extra);
    own_kernel::ensure(user, file, digest, cancel, accept).await
}

/// What was found out about a kernel; see [`GuestKernel`].
#[derive(Debug, Clone)]
struct Accepted {
    modules: Option<InstalledKernel>,
    acpi: bool,
    has_balloon: bool,
}

fn accept(data_dir: &Path, facts: &Facts, extra: &[&'static str]) -> Result<Accepted, OwnKernelError> {
    if !facts.pvh {
        return Err(sandpen_kernels::kernel_file::KernelFileError::NoPvhNote { path: facts.path.clone() }.into());
    }
    let damaged = |source| OwnKernelError::Modules { path: facts.path.clone(), source: Box::new(source) };
    let modules = sandpen_kernels::find_version(data_dir, &facts.version).map_err(damaged)?;
    let needed: Vec<&'static str> = [&initramfs::MODULES, extra].concat();
    let is_module = |name: &&str| modules.as_ref().is_some_and(|kernel| kernel.check_has(name).is_ok());
    let rest: Vec<&'static str> = needed.into_iter().filter(|name| !is_module(name)).collect();
    facts.check_has(&rest, MODULES_HINT)?;
    // Modules are a distribution's, which has ACPI; the transport itself tells what it was built with.
    let acpi = !facts.builtin.has("virtio_mmio") || facts.builtin.has(builtin::ACPI_DEVICES);
    if !acpi {
        facts.check_has(&[builtin::COMMAND_LINE_DEVICES], DEVICES_HINT)?;
    }
    let has_balloon = is_module(&initramfs::BALLOON) || facts.builtin.has(initramfs::BALLOON);
    Ok(Accepted { modules, acpi, has_balloon })
}
