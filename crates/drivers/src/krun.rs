//! MicroVMs of libkrun: the VMM is a library, in a process of its own for each microVM.
//!
//! ```text
//!   launch ──▶ prepare ──▶ waiter starts `sandpen __krun`, its specification on standard input
//!                              │ opens the FIFOs, loads libkrunfw (the guest kernel)
//!                              ▼
//!                          becomes the microVM; our PID 1 in it speaks over virtio ports
//! ```
//!
//! libkrun shares the root directory itself, so there is no second process. Nothing of the user's is
//! on the kernel's command line: everything comes over the control port, as with QEMU.

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

use super::confine::cgroup;
use super::confine::rights::is_initial_root;
use super::launching::launching;
use super::network::NetworkKind;
use super::{cache, waited};

mod ffi;
pub mod helper;
mod prepare;
#[cfg(feature = "testing")]
pub use prepare::policy_of_root;
#[cfg(test)]
mod tests;
mod vm_spec;

/// The driver's name.
pub const NAME: &str = "krun";
/// The name of the driver for bare-metal programs in the place of Linux ([`KrunDriver::bare`]).
pub const BARE_NAME: &str = "krun-bare";
/// How long a guest may take until its workload runs.
const BOOT_LIMIT: Duration = Duration::from_mins(1);

/// Where a [`KrunDriver`] finds and puts things.
#[derive(Debug, Clone)]
pub struct KrunConfig {
    /// Where libkrunfw is installed (`sandpen kernel install --krunfw`).
    pub data_dir: PathBuf,
    /// Where the waiter program is kept.
    pub state_dir: StateDir,
    /// The program that becomes the microVM when it is called with [`helper::SUBCOMMAND`]: `sandpen`,
    /// or one that calls [`run_helper_if_asked`](crate::run_helper_if_asked) first. `None` for this
    /// process's own.
    pub helper: Option<PathBuf>,
    /// libkrunfw; `None` to look for it.
    pub firmware: Option<PathBuf>,
    /// Whether microVMs are started only where their processes can be put into jails and have lists of system calls. By
    /// default where the host's root runs them.
    pub require_confinement: bool,
    /// How long a guest may take until its workload runs; `None` for a minute.
    pub boot_limit: Option<Duration>,
    /// The budget of the cache, in bytes.
    pub cache_bytes: u64,
}

impl KrunConfig {
    /// Everything by default but the directories. Blocking, for microseconds.
    pub fn new(state_dir: StateDir, data_dir: impl Into<PathBuf>) -> Self {
        let cache_bytes = cache::default_budget(&state_dir);
        let require_confinement = is_initial_root();
        Self {
            data_dir: data_dir.into(),
            state_dir,
            helper: None,
            firmware: None,
            require_confinement,
            boot_limit: None,
            cache_bytes,
        }
    }

    fn cache(&self) -> Cache {
        Cache::new(self.state_dir.cache(), self.cache_bytes)
    }

    fn boot_limit(&self) -> Duration {
        self.boot_limit.unwrap_or(BOOT_LIMIT)
    }
}

/// What runs in the microVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payload {
    Linux,
    /// The workload's first word is a host's ELF file, which is loaded as the kernel.
    Bare,
}

/// The driver.
#[derive(Debug, Clone)]
pub struct KrunDriver {
    config: Arc<KrunConfig>,
    payload: Payload,
}

impl KrunDriver {
    /// A driver; what is missing on this host shows at a launch, with what to do about it.
    pub fn new(config: KrunConfig) -> Self {
        Self { config: Arc::new(config), payload: Payload::Linux }
    }

    /// A driver that runs bare-metal programs: the first word of the command is an ELF file on the
    /// host, loaded in the place of Linux, which has to speak the control protocol as our PID 1 does.
    /// For tests: everything else is as with Linux, and it works on hosts whose KVM boots no Linux.
    pub fn bare(config: KrunConfig) -> Self {
        Self { config: Arc::new(config), payload: Payload::Bare }
    }
}

/// What [`helper::SUBCOMMAND`] reads from its standard input to become a microVM with the ELF file
/// `kernel`: for measuring the bare command beside the driver.
///
/// # Errors
/// When the path is not UTF-8.
pub fn bare_command_input(kernel: PathBuf, cpus: u8, memory_mib: u32) -> serde_json::Result<Vec<u8>> {
    let boot = vm_spec::Boot::Bare { kernel, shares: Vec::new() };
    serde_json::to_vec(&vm_spec::VmSpec { cpus, memory_mib, policy: prepare::policy(&boot), boot, tsi: None })
}

impl Driver for KrunDriver {
    fn name(&self) -> &'static str {
        match self.payload {
            Payload::Linux => NAME,
            Payload::Bare => BARE_NAME,
        }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            networks: NetworkKind::Tsi.networks(),
            terminals: true,
            kernels: self.payload == Payload::Linux,
            open_files: OPEN_FILES_OF_GUEST,
            open_files_of_stdin: 0,
        }
    }

    fn check(&self, spec: Arc<SandboxSpec>) -> BoxFuture<'static, Result<Option<KernelDigest>, DriverError>> {
        let (config, payload) = (self.config.clone(), self.payload);
        let check = async move {
            match payload {
                Payload::Bare if spec.kernel.is_some() => Err(DriverError::no_kernel(BARE_NAME)),
                Payload::Bare => Ok(None),
                Payload::Linux => prepare::check_kernel(&config, &spec).await,
            }
        };
        check.boxed()
    }

    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let (config, payload) = (self.config.clone(), self.payload);
        launching(launch, move |launch| async move {
            let (runtime_dir, bin_dir) = (launch.runtime_dir.clone(), config.state_dir.bin());
            let prepared = prepare::prepare(&config, payload, launch).await?;
            waited::launch(runtime_dir, &bin_dir, prepared, "starting the process of the microVM").await
        })
        .boxed()
    }

    fn kill(&self, launch: &Launch) {
        waited::kill(launch);
    }

    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let config = self.config.clone();
        waited::adopt(launch.runtime_dir, config.state_dir.bin(), launch.timings, move || config.boot_limit()).boxed()
    }

    fn remove_leftovers(&self, state_id: &str) -> BoxFuture<'static, Vec<Leftover>> {
        let (state_id, cache) = (state_id.to_owned(), self.config.cache());
        let removed = async move {
            let mut removed = cgroup::remove_leftovers(state_id).await;
            removed.extend(cache::remove_leftovers(cache).await);
            removed
        };
        removed.boxed()
    }
}
