//! A sandbox as it is asked for.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_types::signal::Signal;
use sandpen_types::spec::{
    ByteString, CheckedSpec, Disk, DriverChoice, ExtraHost, HealthCheck, Hostname, Labels, LogLimits, Network,
    PublishedPort, Resources, RestartBackoff, RestartPolicy, Rlimit, RootDevice, Rootfs, SandboxKey, SandboxSpec,
    SpecError, Sysctl, TerminalSize, Tmpfs, Volume, WorkloadUser,
};
use serde::{Deserialize, Serialize};

/// Body of `POST /v1/sandboxes`. Only `key`, `rootfs` and `command` are required. `Debug` shows the names of the
/// environment only.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that can be asked for")]
pub struct CreateSandbox {
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
    /// Program and arguments.
    pub command: Vec<ByteString>,
    /// Environment of the workload, which may hold secrets.
    #[serde(default)]
    pub env: Vec<(ByteString, ByteString)>,
    /// Working directory in the guest.
    #[serde(default)]
    pub workdir: Option<ByteString>,
    /// Whether the workload gets a standard input.
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
    /// Remove it when it has ended.
    #[serde(default)]
    pub remove_on_end: bool,
    /// How long it then stays for its readers.
    #[serde(default)]
    pub remove_delay: Duration,
    /// When the project file was last changed.
    #[serde(default)]
    pub config_last_modified: Option<DateTime<Utc>>,
    /// How it is connected.
    #[serde(default)]
    pub network: Network,
    /// Ports of the guest that the host listens for.
    #[serde(default)]
    pub ports: Vec<PublishedPort>,
    /// A terminal of this size at first.
    #[serde(default)]
    pub terminal: Option<TerminalSize>,
    /// Host directories beside the root.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// Limits of the workload's process.
    #[serde(default)]
    pub rlimits: Vec<Rlimit>,
    /// What a root of layers is written to.
    #[serde(default)]
    pub disk: Disk,
    /// How a root of layers reaches the guest.
    #[serde(default)]
    pub root_device: RootDevice,
    /// A guest kernel of its own.
    #[serde(default)]
    pub kernel: Option<PathBuf>,
    /// What asks the workload to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// The machine's name inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<Hostname>,
    /// Whom the workload runs as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<WorkloadUser>,
    /// Whether nothing can be written to the root.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub read_only: bool,
    /// File systems in memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs: Vec<Tmpfs>,
    /// Most bytes of shared memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shm_bytes: Option<u64>,
    /// Names of hosts that the guest knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra_hosts: Vec<ExtraHost>,
    /// Settings of the guest's kernel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sysctls: Vec<Sysctl>,
    /// What users say of it.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// Whether it runs nothing by itself and waits for sessions; `command` is empty then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// After how long without any use it is stopped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<Duration>,
}

impl CreateSandbox {
    /// A sandbox with defaults. A name alone is one in the `default` config.
    pub fn new(key: impl Into<SandboxKey>, rootfs: Rootfs, command: Vec<ByteString>) -> Self {
        SandboxSpec::new(key, rootfs, command).into()
    }
}

impl fmt::Debug for CreateSandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreateSandbox")
            .field("key", &self.key)
            .field("rootfs", &self.rootfs)
            .field("command", &self.command)
            .field("env", &self.env.iter().map(|(name, _)| name).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

/// Both sides are taken apart by one list, so that a field of one that the other lacks does not compile.
macro_rules! same_fields {
    ($($field:ident),+ $(,)?) => {
        impl From<SandboxSpec> for CreateSandbox {
            // What a kernel's file holds is found out by whoever starts it.
            fn from(SandboxSpec { $($field),+, helper_of: _, kernel_sha256: _ }: SandboxSpec) -> Self {
                Self { $($field),+ }
            }
        }

        impl TryFrom<CreateSandbox> for CheckedSpec {
            type Error = SpecError;

            /// The specification, if its values can be together ([`SandboxSpec::check_values`]).
            fn try_from(CreateSandbox { $($field),+ }: CreateSandbox) -> Result<Self, SpecError> {
                Self::try_from(SandboxSpec { $($field),+, helper_of: None, kernel_sha256: None })
            }
        }
    };
}

same_fields! {
    key,
    rootfs,
    driver,
    resources,
    command,
    env,
    workdir,
    stdin,
    timeout,
    restart,
    restart_backoff,
    health,
    log,
    remove_on_end,
    remove_delay,
    config_last_modified,
    network,
    ports,
    terminal,
    volumes,
    rlimits,
    disk,
    root_device,
    kernel,
    stop_signal,
    hostname,
    user,
    read_only,
    tmpfs,
    shm_bytes,
    extra_hosts,
    sysctls,
    labels,
    idle,
    idle_timeout,
}
