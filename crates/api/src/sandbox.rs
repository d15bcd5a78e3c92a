//! A sandbox as users see it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use chrono::{DateTime, Utc};
use sandpen_types::confinement::ProcessConfinement;
use sandpen_types::health::HealthState;
use sandpen_types::row::SandboxRow;
use sandpen_types::signal::Signal;
use sandpen_types::spec::{
    ByteString, DISK_DEFAULT_BYTES, Disk, DiskName, ExtraHost, HealthCheck, Hostname, KernelDigest, Labels, LogBacklog,
    Network, PublishedPort, RestartBackoff, RestartPolicy, Rlimit, RootDevice, Sysctl, TerminalSize, Tmpfs, Volume,
    WorkloadUser,
};
use sandpen_types::state::{FailureKind, SandboxState, Status, StoppedBy};
use sandpen_types::state_dir::StateDir;
use serde::{Deserialize, Serialize};

use crate::transition::exit_fields;
use crate::{Timings, Word};

/// A sandbox as users see it. Environment values are left out on purpose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a thing of its own that can be asked for")]
pub struct Sandbox {
    /// Its name.
    pub name: String,
    /// The config it belongs to; `default` where none is used.
    pub config_file: String,
    /// Its state in a word.
    pub state: Word<Status>,
    /// The driver's name, once one was chosen.
    pub driver: Option<String>,
    /// The VMM process, while there is one.
    pub microvm_pid: Option<u32>,
    /// The workload's exit code; null while it runs or when a signal ended it.
    pub exit_code: Option<i32>,
    /// The signal that ended the workload.
    pub exit_signal: Option<i32>,
    /// Why it is FAILED, one line.
    pub failure: Option<String>,
    /// The same as a word, for programs.
    pub failure_kind: Option<Word<FailureKind>>,
    /// Starts by the restart policy since the last start by request.
    pub restarts: u32,
    /// Starts in all.
    pub generation: u64,
    /// When it was first made.
    pub created_at: DateTime<Utc>,
    /// When its workload last started.
    pub started_at: Option<DateTime<Utc>>,
    /// When its workload last ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// When a restart is due (BACKOFF).
    pub restart_at: Option<DateTime<Utc>>,
    /// `native:PATH` or `overlayfs:LOWER:LOWER`.
    pub rootfs: String,
    /// Program and arguments.
    pub command: Vec<ByteString>,
    /// Names of the environment entries.
    pub env_names: Vec<ByteString>,
    /// Working directory in the guest.
    pub workdir: Option<ByteString>,
    /// The driver asked for: `auto` or a name.
    pub driver_wanted: String,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory_mib: u32,
    /// Longest run time in milliseconds.
    pub timeout_ms: Option<u64>,
    /// What happens after the end.
    pub restart: RestartPolicy,
    /// How soon.
    pub restart_backoff: RestartBackoff,
    /// Who asked for the end of the latest start, if somebody did: `request` or `shutdown`.
    pub stopped_by: Option<StoppedBy>,
    /// How its health is checked; null where it is not.
    pub health_check: Option<HealthCheck>,
    /// What the check last said; null without one and before its first answer.
    pub health: Option<HealthState>,
    /// Whether the workload has a standard input.
    pub stdin: bool,
    /// Whether it is removed when it has ended.
    pub remove_on_end: bool,
    /// The current log file.
    pub log: PathBuf,
    /// What the VMM and the guest's console printed.
    pub vmm_log: PathBuf,
    /// How it is connected.
    pub network: Network,
    /// Ports of the guest that the host listens for.
    pub ports: Vec<PublishedPort>,
    /// The size that the workload's terminal had at first; null without one.
    pub terminal: Option<TerminalSize>,
    /// What each process of its live microVM has given up, by the process's role; null in lists,
    /// and where nothing runs.
    pub confinement: Option<BTreeMap<String, ProcessConfinement>>,
    /// Host directories beside the root.
    pub volumes: Vec<Volume>,
    /// Limits of the workload's process.
    pub rlimits: Vec<Rlimit>,
    /// What a root of layers is written to; null where the root directory is written in place.
    pub disk: Option<SandboxDisk>,
    /// How a root of layers reaches the guest.
    pub root_device: RootDevice,
    /// The file of its own guest kernel; null for the driver's.
    pub kernel: Option<PathBuf>,
    /// What happens to output while the log cannot be written.
    pub log_backlog: LogBacklog,
    /// What of its latest start's output was dropped, as far as the log is marked; null in lists, and with
    /// `block`.
    pub log_dropped: Option<DroppedBytes>,
    /// Where the time of its latest start went; null in lists, and where this daemon never had it live.
    pub timings: Option<Timings>,
    /// The process that the guest's kernel has ended in its latest start because the machine's memory was used up, as the
    /// guest says; absent where there was none, and in lists.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<String>,
    /// SHA-256 of its own guest kernel, unpacked, as it was when the sandbox was asked for; null for the driver's.
    pub kernel_sha256: Option<KernelDigest>,
    /// What asks the workload to end, by its number; null for SIGTERM.
    pub stop_signal: Option<Signal>,
    /// The machine's name inside; null for the sandbox's own.
    pub hostname: Option<Hostname>,
    /// Whom the workload runs as; null for root.
    pub user: Option<WorkloadUser>,
    /// Whether nothing can be written to the root.
    #[serde(default)]
    pub read_only: bool,
    /// File systems in memory.
    #[serde(default)]
    pub tmpfs: Vec<Tmpfs>,
    /// Most bytes of shared memory; null for the kernel's own limit.
    pub shm_bytes: Option<u64>,
    /// Names of hosts that the guest knows.
    #[serde(default)]
    pub extra_hosts: Vec<ExtraHost>,
    /// Settings of the guest's kernel.
    #[serde(default)]
    pub sysctls: Vec<Sysctl>,
    /// What users say of it.
    #[serde(default)]
    pub labels: Labels,
    /// Whether it runs nothing by itself and waits for sessions.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// After how long without any use it is stopped, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout_ms: Option<u64>,
}

impl Sandbox {
    /// The view of a row.
    pub fn new(row: &SandboxRow, dir: &StateDir) -> Self {
        let spec = &row.spec;
        let (exit_code, exit_signal) = exit_fields(row.state.exit());
        Self {
            name: spec.key.name.to_string(),
            config_file: spec.key.config.to_string(),
            state: row.state.status().into(),
            driver: row.driver.clone(),
            microvm_pid: row.microvm_pid,
            exit_code,
            exit_signal,
            failure: row.state.failure().map(ToString::to_string),
            failure_kind: row.state.failure().map(|reason| reason.kind().into()),
            restarts: row.restarts,
            generation: row.generation,
            created_at: row.created_at,
            started_at: row.started_at,
            ended_at: row.ended_at,
            restart_at: match row.state {
                SandboxState::Backoff { until } => Some(until),
                _ => None,
            },
            rootfs: spec.rootfs.to_text(),
            command: spec.command.clone(),
            env_names: spec.env.iter().map(|(name, _)| name.clone()).collect(),
            workdir: spec.workdir.clone(),
            driver_wanted: spec.driver.to_string(),
            cpus: spec.resources.cpus,
            memory_mib: spec.resources.memory_mib,
            timeout_ms: spec.timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
            restart: spec.restart,
            restart_backoff: spec.restart_backoff,
            stopped_by: row.stopped_by,
            health_check: spec.health.clone(),
            health: row.health.clone(),
            stdin: spec.stdin,
            remove_on_end: spec.remove_on_end,
            log: dir.log(&spec.key),
            vmm_log: dir.vmm_log(&spec.key),
            network: spec.network,
            terminal: spec.terminal,
            ports: spec.ports.clone(),
            confinement: None,
            volumes: spec.volumes.clone(),
            rlimits: spec.rlimits.clone(),
            disk: dir.disk(spec).map(|path| SandboxDisk::new(&spec.disk, path)),
            root_device: spec.root_device,
            kernel: spec.kernel.clone(),
            log_backlog: spec.log.backlog,
            log_dropped: None,
            timings: None,
            out_of_memory: None,
            kernel_sha256: spec.kernel_sha256,
            stop_signal: spec.stop_signal,
            hostname: spec.hostname.clone(),
            user: spec.user.clone(),
            read_only: spec.read_only,
            tmpfs: spec.tmpfs.clone(),
            shm_bytes: spec.shm_bytes,
            extra_hosts: spec.extra_hosts.clone(),
            sysctls: spec.sysctls.clone(),
            labels: spec.labels.clone(),
            idle: spec.idle,
            idle_timeout_ms: spec.idle_timeout.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        }
    }

    /// Whether nothing more happens without a new request.
    pub fn is_ended(&self) -> bool {
        self.state.known().is_some_and(Status::is_ended)
    }

    /// The generation of the latest start by request; those after it are restarts by the policy.
    pub fn first_generation(&self) -> u64 {
        self.generation.saturating_sub(u64::from(self.restarts))
    }

    /// Whether it should be listed as active: everything but ended and never started.
    pub fn is_active(&self) -> bool {
        !self.is_ended() && self.state != Status::Created
    }

    /// What a shell would report of the workload; `None` while nothing is known.
    pub fn shell_code(&self) -> Option<i32> {
        self.exit_code.or(self.exit_signal.map(|signal| 128 + signal))
    }

    /// The exit code of `sandpen run` for an ended sandbox: the workload's as a shell would report
    /// it, 124 for one that was stopped after its time limit before it said so itself (as
    /// timeout(1) does), 125 for every failure that is not the workload's.
    pub fn run_code(&self) -> u8 {
        const TIMED_OUT: u8 = 124;
        const FAILED: u8 = 125;
        let workload = self.shell_code().and_then(|code| u8::try_from(code).ok());
        match self.failure_kind.as_ref().map(Word::known) {
            None | Some(Some(FailureKind::WorkloadNotStarted)) => workload.unwrap_or(FAILED),
            Some(Some(FailureKind::TimedOut)) => workload.unwrap_or(TIMED_OUT),
            Some(_) => FAILED,
        }
    }
}

/// Output that was dropped, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DroppedBytes {
    /// Of stdout.
    pub stdout: u64,
    /// Of stderr.
    pub stderr: u64,
}

/// The disk of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxDisk {
    /// The name under which it is kept; null for one that goes with the sandbox.
    pub name: Option<DiskName>,
    /// The size that was asked for, or the default; null where a named disk may have another one.
    pub bytes: Option<u64>,
    /// Its file on the host.
    pub path: PathBuf,
}

impl SandboxDisk {
    fn new(disk: &Disk, path: PathBuf) -> Self {
        let default = disk.name.is_none().then_some(DISK_DEFAULT_BYTES);
        Self { name: disk.name.clone(), bytes: disk.bytes.or(default), path }
    }
}
