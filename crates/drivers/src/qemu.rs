//! MicroVMs of QEMU's `microvm` machine: KVM where it works, emulation anywhere else.
//!
//! ```text
//!   launch ──▶ prepare (kernel, initramfs, command lines) ──▶ waiter starts virtiofsd and QEMU
//!                 └─▶ a machine like it was saved: the waiter starts QEMU, which restores that one
//! ```
//!
//! The root directory comes by virtiofs, from a process of ours beside QEMU; the workload's streams
//! and the control port are FIFOs that the waiter holds, so nothing is lost while no daemon runs.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_cache::Cache;
use sandpen_types::reconcile::Leftover;
use sandpen_types::spec::{KernelDigest, SandboxSpec};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::{Capabilities, Driver, DriverError, Launch, OPEN_FILES_OF_GUEST, Vmm};

use self::prepare::MachinePlan;
#[cfg(feature = "testing")]
pub use self::prepare::policy;
use self::templates::Templates;
use super::confine::cgroup;
use super::confine::rights::is_initial_root;
use super::launching::launching;
use super::network::NetworkKind;
use super::{cache, step, waited};

pub mod args;
mod handed_over;
pub mod initramfs;
mod kernel;
mod prepare;
pub mod program;
mod qmp;
mod template;
mod template_file;
mod templates;
pub mod tsc;

#[cfg(test)]
mod tests;

/// The driver's name.
pub const NAME: &str = "qemu";

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
    /// Whether microVMs are started only where their processes can be put into jails and have lists of system calls. By
    /// default where the host's root runs them.
    pub require_confinement: bool,
    /// How long a guest may take until its workload runs; `None` for a minute with KVM and three
    /// under emulation.
    pub boot_limit: Option<Duration>,
    /// The budget of the cache, in bytes.
    pub cache_bytes: u64,
}

impl QemuConfig {
    /// Everything by default but the directories. Blocking, for microseconds.
    pub fn new(state_dir: StateDir, data_dir: impl Into<PathBuf>) -> Self {
        let (data_dir, cache_bytes) = (data_dir.into(), cache::default_budget(&state_dir));
        let require_confinement = is_initial_root();
        Self { data_dir, state_dir, helper: None, qemu: None, require_confinement, boot_limit: None, cache_bytes }
    }

    fn cache(&self) -> Cache {
        Cache::new(self.state_dir.cache(), self.cache_bytes)
    }
}

/// The driver.
#[derive(Debug, Clone)]
pub struct QemuDriver {
    config: Arc<QemuConfig>,
    templates: Arc<Templates>,
}

impl QemuDriver {
    /// A driver; what is missing on this host shows at a launch, with what to do about it.
    pub fn new(config: QemuConfig) -> Self {
        let templates = Arc::new(Templates::new(config.cache()));
        Self { config: Arc::new(config), templates }
    }
}

impl Driver for QemuDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            networks: NetworkKind::User.networks(),
            terminals: true,
            kernels: true,
            open_files: OPEN_FILES_OF_GUEST,
            open_files_of_stdin: 0,
        }
    }

    fn check(&self, spec: Arc<SandboxSpec>) -> BoxFuture<'static, Result<Option<KernelDigest>, DriverError>> {
        let config = self.config.clone();
        async move { kernel::check(&config, &spec).await }.boxed()
    }

    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let (config, templates) = (self.config.clone(), self.templates.clone());
        launching(launch, move |launch| async move {
            let (runtime_dir, bin_dir) = (launch.runtime_dir.clone(), config.state_dir.bin());
            let plan = MachinePlan::new(&config, launch).await?;
            if let Some(vmm) = templates.restored(&plan, &bin_dir).await? {
                return Ok(vmm);
            }
            let prepared = step::blocking(move || plan.prepared(&plan.args, Vec::new())).await?;
            waited::launch(runtime_dir, &bin_dir, prepared, "starting QEMU").await
        })
        .boxed()
    }

    fn kill(&self, launch: &Launch) {
        waited::kill(launch);
    }

    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let config = self.config.clone();
        async move {
            qmp::restore_again(&launch.runtime_dir).await;
            let bin_dir = config.state_dir.bin();
            waited::adopt(launch.runtime_dir, bin_dir, launch.timings, move || prepare::boot_limit(&config)).await
        }
        .boxed()
    }

    fn remove_leftovers(&self, state_id: &str) -> BoxFuture<'static, Vec<Leftover>> {
        let (state_id, config, templates) = (state_id.to_owned(), self.config.clone(), self.templates.clone());
        let removed = async move {
            let mut removed = cgroup::remove_leftovers(state_id).await;
            removed.extend(templates.remove_leftovers(&config.state_dir.bin()).await);
            removed.extend(cache::remove_leftovers(config.cache()).await);
            removed
        };
        removed.boxed()
    }
}
