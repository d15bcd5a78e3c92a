//! What a sandbox is: its name, its rootfs, its workload and its limits.
//!
//! Everything here is plain data, checked when it is made: a [`SandboxName`] that exists is a
//! safe file name, the values of a [`SandboxSpec`] that passed [`SandboxSpec::check_values`] make sense together.

mod bytes;
mod checked;
pub(crate) mod command;
mod disk;
mod driver;
mod env;
mod error;
mod extra_host;
mod health;
mod helper;
mod hostname;
mod kernel;
mod labels;
mod log;
mod names;
mod network;
mod restart;
mod rlimits;
mod root_device;
mod rootfs;
mod sysctl;
mod terminal;
#[cfg(test)]
mod tests;
mod text;
mod tmpfs;
mod user;
mod volume;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::signal::Signal;

pub use bytes::ByteString;
pub use checked::{CheckedSpec, HostPath};
pub use disk::{DISK_DEFAULT_BYTES, DISK_MAX_BYTES, DISK_MIN_BYTES, Disk};
pub use driver::DriverChoice;
pub use env::{ENV_LIST_MAX_BYTES, EnvEntry, EnvItem, EnvListError};
pub use error::SpecError;
pub use extra_host::{EXTRA_HOSTS_MAX, ExtraHost};
pub use health::{
    HEALTH_COMMAND_MAX, HEALTH_RETRIES_MAX, HEALTH_TIME_MAX, HEALTH_TIME_MIN, HealthCheck, HealthFailure,
};
pub use helper::helper_key;
pub use hostname::Hostname;
pub use kernel::{KERNEL_MAX_BYTES, KernelDigest};
pub use labels::{LABELS_MAX, Label, LabelKey, Labels};
pub use log::{LOG_KEEP_MAX, LogBacklog, LogLimits};
pub use names::{ConfigName, DiskName, SandboxKey, SandboxName, VolumeName};
pub use network::{Network, PORTS_MAX, PublishedPort};
pub use restart::{RESTART_PAUSE_MAX, RestartBackoff, RestartPolicy};
pub use rlimits::{NOFILE_MAX, Rlimit, RlimitName, RlimitValue};
pub use root_device::RootDevice;
pub use rootfs::{ImageRoot, Rootfs};
pub use sysctl::{SYSCTLS_MAX, Sysctl};
pub use terminal::TerminalSize;
pub use tmpfs::{TMPFS_MAX, Tmpfs};
pub use user::WorkloadUser;
pub use volume::{VOLUMES_MAX, Volume, VolumeSource, by_depth};

/// Least memory of a microVM in MiB: a stock kernel with its initramfs boots in it.
pub const MEMORY_MIN_MIB: u32 = 96;
/// Largest memory of a microVM in MiB that is accepted (1 TiB).
pub const MEMORY_MAX_MIB: u32 = 1 << 20;
/// Most bytes of command, environment, workdir and guest paths together. The kernel's limit for one execve is
/// a quarter of the stack limit (2 MiB); half of that leaves room for pointers and padding.
pub const WORKLOAD_MAX_BYTES: usize = 1 << 20;

/// Shortest time after which a sandbox that nobody uses is stopped.
pub const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// Longest stay of an ended sandbox that removes itself.
pub const REMOVE_DELAY_MAX: Duration = Duration::from_hours(24);
/// What a microVM may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Virtual CPUs, 1 to 64.
    pub cpus: u32,
    /// Memory in MiB, [`MEMORY_MIN_MIB`] to [`MEMORY_MAX_MIB`].
    pub memory_mib: u32,
}

impl Default for Resources {
    fn default() -> Self {
        Self { cpus: 1, memory_mib: 256 }
    }
}

/// Everything that is needed to start a sandbox. `Debug` shows the names of the environment only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that can be asked for")]
pub struct SandboxSpec {
    /// Name and config.
    pub key: SandboxKey,
    /// The root directory.
    pub rootfs: Rootfs,
    /// The driver.
    #[serde(default)]
    pub driver: DriverChoice,
    /// CPUs and memory.
    #[serde(default)]
    pub resources: Resources,
    /// Program and arguments; looked up in the guest's `PATH` when the program has no slash. With an image that was not
    /// looked at yet the arguments of its entrypoint, if it has one; empty for its own. Empty for an idle sandbox.
    pub command: Vec<ByteString>,
    /// Environment of the workload. Values may be secrets: never in argv, logs or errors.
    #[serde(default)]
    pub env: Vec<(ByteString, ByteString)>,
    /// Working directory in the guest, absolute.
    #[serde(default)]
    pub workdir: Option<ByteString>,
    /// Whether the workload gets a standard input; without, it reads its end at once.
    #[serde(default)]
    pub stdin: bool,
    /// Longest time the workload may run.
    #[serde(default)]
    pub timeout: Option<Duration>,
    /// What happens after the end.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// How soon.
    #[serde(default)]
    pub restart_backoff: RestartBackoff,
    /// Whether and how its health is checked.
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// Log size and rotation.
    #[serde(default)]
    pub log: LogLimits,
    /// Remove row and log when the sandbox has ended and nobody waits for it any more.
    #[serde(default)]
    pub remove_on_end: bool,
    /// How long it then stays for those who want its output or its end: from the end, or from when the last
    /// reader of its output left, at most [`REMOVE_DELAY_MAX`]. Zero removes it whoever reads.
    #[serde(default)]
    pub remove_delay: Duration,
    /// When the project file was last changed; `None` where none is used.
    #[serde(default)]
    pub config_last_modified: Option<DateTime<Utc>>,
    /// How it is connected.
    #[serde(default)]
    pub network: Network,
    /// Ports of the guest that the host listens for, at most [`PORTS_MAX`].
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// A terminal as the workload's standard streams, of this size at first; its output is all stdout.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Directories and files of the host beside the root, at most [`VOLUMES_MAX`].
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Limits of the workload's process, at most one of a name.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// Where an [`Rootfs::Overlayfs`] or [`Rootfs::Image`] root is written to.
    #[serde(default)]
    pub disk: Disk,
    /// How an [`Rootfs::Overlayfs`] root's directories reach the guest.
    #[serde(default)]
    pub root_device: RootDevice,
    /// The guest kernel, a file of the host, absolute; `None` for the driver's own.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// What asks the workload to end; `None` for SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// The machine's name inside; `None` for the sandbox's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Whom the workload runs as; `None` for root.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<WorkloadUser>,
    /// Whether nothing can be written to the root but where something else is mounted. The host holds the guest to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// File systems in memory, at most [`TMPFS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
    /// Most bytes of shared memory (`/dev/shm`), from 4096; `None` for half of the memory, the kernel's own limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// Names of hosts that the guest knows, at most [`EXTRA_HOSTS_MAX`]; they come before those of its root.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Settings of the guest's kernel, at most [`SYSCTLS_MAX`], in the order in which they are made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<Sysctl>,
    /// What users say of it, at most [`LABELS_MAX`].
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether it runs nothing by itself and waits for [sessions](crate::session). It has no standard input and no terminal
    /// then; a signal that would end a program ends it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// It is stopped when for so long there was no session, no input and no output of its workload; an eighth of that later
    /// at the latest. [`IDLE_TIMEOUT_MIN`] to [`TIMEOUT_MAX`](crate::session::TIMEOUT_MAX).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
    /// The ended sandbox whose root and disk it has, for what is asked of its files; see [`helper_key`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub helper_of: Option<SandboxKey>,
    /// What that file held when the sandbox was asked for, which every start of it boots. A start by request finds it
    /// out anew; `None` before that, and in rows of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_sha256: Option<KernelDigest>,
}

impl fmt::Debug for SandboxSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SandboxSpec")
            .field("key", &self.key)
            .field("rootfs", &self.rootfs)
            .field("driver", &self.driver)
            .field("resources", &self.resources)
            .field("command", &self.command)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .field("workdir", &self.workdir)
            .field("restart", &self.restart)
            .finish_non_exhaustive()
    }
}

impl SandboxSpec {
    /// A specification with defaults. A name alone is one in the `default` config.
    pub fn new(key: impl Into<SandboxKey>, rootfs: Rootfs, command: Vec<ByteString>) -> Self {
        Self {
            key: key.into(),
            rootfs,
            driver: DriverChoice::default(),
            resources: Resources::default(),
            command,
            env: Vec::new(),
            workdir: None,
            stdin: false,
            timeout: None,
            restart: RestartPolicy::default(),
            restart_backoff: RestartBackoff::default(),
            health: None,
            log: LogLimits::default(),
            remove_on_end: false,
            remove_delay: Duration::ZERO,
            config_last_modified: None,
            terminal: None,
            network: Network::default(),
            ports: Vec::new(),
            volumes: Vec::new(),
            rlimits: Vec::new(),
            disk: Disk::default(),
            root_device: RootDevice::default(),
            kernel: None,
            stop_signal: None,
            hostname: None,
            user: None,
            read_only: false,
            tmpfs: Vec::new(),
            shm_bytes: None,
            extra_hosts: Vec::new(),
            sysctls: Vec::new(),
            labels: Labels::new(),
            idle: false,
            idle_timeout: None,
            helper_of: None,
            kernel_sha256: None,
        }
    }

    /// Checks every value. What it names of the host (directories, files, ports) is looked at where it is
    /// started.
    ///
    /// # Errors
    /// The first [`SpecError`] found.
    pub fn check_values(&self) -> Result<(), SpecError> {
        if let Some(relative) = self.rootfs.paths().iter().find(|path| !path.is_absolute()) {
            return Err(SpecError::RootfsRelative(relative.to_path_buf()));
        }
        let Resources { cpus, memory_mib } = self.resources;
        if !(1..=64).contains(&cpus) {
            return Err(SpecError::Cpus(cpus));
        }
        if !(MEMORY_MIN_MIB..=MEMORY_MAX_MIB).contains(&memory_mib) {
            return Err(SpecError::Memory { mib: memory_mib, min: MEMORY_MIN_MIB, max: MEMORY_MAX_MIB });
        }
        log::check(self.log)?;
        self.check_idle()?;
        let times = IDLE_TIMEOUT_MIN..=crate::session::TIMEOUT_MAX;
        if let Some(limit) = self.idle_timeout.filter(|limit| !times.contains(limit)) {
            return Err(SpecError::IdleTimeout(limit));
        }
        // That of an image is known when the image was looked at.
        let is_known = !self.rootfs.is_unresolved() && !self.idle;
        if self.command.first().map_or(is_known, |program| program.as_bytes().is_empty()) {
            return Err(SpecError::NoCommand);
        }
        let bytes = command::check(&self.command, &self.env, self.workdir.as_ref())?
            + self.volumes.iter().map(|volume| volume.guest.as_bytes().len()).sum::<usize>()
            + self.tmpfs.iter().map(|tmpfs| tmpfs.guest.as_bytes().len()).sum::<usize>()
            + self.sysctls.iter().map(|sysctl| sysctl.name().len() + sysctl.value().len()).sum::<usize>()
            + self.extra_hosts.iter().map(|host| host.name.as_str().len()).sum::<usize>();
        if bytes > WORKLOAD_MAX_BYTES {
            return Err(SpecError::TooLarge { bytes, max: WORKLOAD_MAX_BYTES });
        }
        self.health.as_ref().map_or(Ok(()), health::check)?;
        if self.remove_delay > REMOVE_DELAY_MAX {
            return Err(SpecError::RemoveDelay(self.remove_delay));
        }
        restart::check(self.restart, self.restart_backoff, self.remove_on_end)?;
        network::check(self.network, &self.ports)?;
        volume::check(&self.volumes)?;
        self.check_inside()?;
        rlimits::check(&self.rlimits)?;
        disk::check(&self.rootfs, &self.disk)?;
        root_device::check(&self.rootfs, self.root_device)?;
        labels::check(&self.labels)?;
        self.kernel.as_deref().map_or(Ok(()), kernel::check)
    }

    /// One that runs nothing asks for nothing of that.
    fn check_idle(&self) -> Result<(), SpecError> {
        let has_entrypoint = matches!(&self.rootfs, Rootfs::Image(image) if image.entrypoint.is_some());
        let asked = [
            (!self.command.is_empty(), "command"),
            (has_entrypoint, "entrypoint"),
            (self.stdin, "standard input"),
            (self.terminal.is_some(), "terminal"),
        ];
        match asked.into_iter().find(|(is_asked, _)| self.idle && *is_asked) {
            Some((_, what)) => Err(SpecError::Idle { what }),
            None => Ok(()),
        }
    }

    /// What the guest arranges inside.
    fn check_inside(&self) -> Result<(), SpecError> {
        tmpfs::check(&self.tmpfs)?;
        if let Some(both) =
            self.tmpfs.iter().find(|tmpfs| self.volumes.iter().any(|volume| volume.guest == tmpfs.guest))
        {
            return Err(SpecError::tmpfs(both.guest.as_bytes(), "a volume has this path"));
        }
        let memory = u64::from(self.resources.memory_mib) << 20;
        if let Some(bytes) = self.shm_bytes.filter(|bytes| !(4096..=memory).contains(bytes)) {
            return Err(SpecError::ShmSize(bytes));
        }
        let covers_hosts = |volume: &Volume| volume.guest.as_bytes() == b"/etc/hosts";
        if let Some(volume) =
            self.volumes.iter().find(|volume| covers_hosts(volume)).filter(|_| !self.extra_hosts.is_empty())
        {
            let reason = "the additional names of hosts would be in that file; put them into yours";
            return Err(SpecError::volume(volume.guest.as_bytes(), reason));
        }
        if self.extra_hosts.len() > EXTRA_HOSTS_MAX {
            return Err(SpecError::ExtraHosts(self.extra_hosts.len()));
        }
        if self.sysctls.len() > SYSCTLS_MAX {
            return Err(SpecError::Sysctls(self.sysctls.len()));
        }
        Ok(())
    }
}
