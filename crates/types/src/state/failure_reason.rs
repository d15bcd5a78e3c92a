//! Why a sandbox is FAILED, in words for people.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ExitStatus;

/// Why a sandbox is FAILED.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum FailureReason {
    /// The VMM process could not be made.
    #[error("the microVM could not be started: {message}")]
    SpawnFailed {
        /// The driver's words, with causes.
        message: String,
    },
    /// The guest booted, but the workload could not be executed (exit code 126 or 127).
    #[error("the workload could not be started: {message}")]
    WorkloadNotStarted {
        /// The guest's words.
        message: String,
    },
    /// The VMM process ended without an EXIT report from the guest.
    #[error(
        "the VMM process ended by itself ({status}{}) without an exit report from the guest; its own output: `sandpen logs --vmm`", hint(*status)
    )]
    VmmLost {
        /// How the VMM process ended; never taken for the workload's.
        status: ExitStatus,
    },
    /// The kernel ended a process of the microVM for want of memory.
    #[error("the microVM's processes used more memory than their cgroup allows; give it more with --memory")]
    OutOfMemory,
    /// A process that the VMM needs ended.
    #[error("{process} ended unexpectedly, without it the guest cannot go on")]
    CompanionLost {
        /// For example `virtiofsd`.
        process: String,
    },
    /// The guest did not report in time.
    #[error("the guest did not come up within {} s", limit.as_secs())]
    BootTimedOut {
        /// How long was waited.
        limit: Duration,
    },
    /// The workload ran longer than allowed.
    #[error("the workload was stopped after its time limit of {limit:?}")]
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// The health check failed too often.
    #[error("the health check failed {failures} times in a row; the last time: {output}")]
    Unhealthy {
        /// How often.
        failures: u32,
        /// How the last check ended, and the last of what it wrote.
        output: String,
    },
    /// The guest broke the control protocol.
    #[error("the guest broke the control protocol: {message}")]
    ProtocolBroken {
        /// What was wrong.
        message: String,
    },
    /// Nothing of the microVM was left when a daemon looked for it.
    #[error("the microVM ended while no daemon was watching (host restart, or everything was killed)")]
    Lost,
    /// An actor of ours failed more often than it may.
    #[error("internal fault: {message}")]
    Internal {
        /// What failed.
        message: String,
    },
}

/// What a VMM's end means where its status alone says it.
fn hint(status: ExitStatus) -> &'static str {
    // The same on x86-64 and aarch64.
    const SIGSYS: i32 = 31;
    const SIGXFSZ: i32 = 25;
    const SIGXCPU: i32 = 24;
    match status {
        ExitStatus::Signal(SIGXFSZ) => {
            ", SIGXFSZ: the daemon was started with a limit on the size of files; start it with none (ulimit -f unlimited)"
        }
        ExitStatus::Signal(SIGXCPU) => {
            ", SIGXCPU: the daemon was started with a limit on processor time; start it with none (ulimit -t unlimited)"
        }
        ExitStatus::Signal(SIGSYS) => ", SIGSYS: a system call that it is not allowed; the kernel's log may name it",
        _ => "",
    }
}
