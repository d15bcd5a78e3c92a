//! Why a sandbox is FAILED, in a word for programs.

use super::FailureReason;

/// A [`FailureReason`] without its details.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// The VMM process could not be made.
    SpawnFailed,
    /// The workload could not be executed.
    WorkloadNotStarted,
    /// The VMM process ended by itself.
    VmmLost,
    /// The kernel ended a process of the microVM for want of memory.
    OutOfMemory,
    /// A process that the VMM needs ended.
    CompanionLost,
    /// The guest did not come up in time.
    BootTimedOut,
    /// The workload ran longer than allowed.
    TimedOut,
    /// The health check failed too often.
    Unhealthy,
    /// The guest broke the control protocol.
    ProtocolBroken,
    /// Nothing of the microVM was left when a daemon looked for it.
    Lost,
    /// An actor of ours failed more often than it may.
    Internal,
}

impl FailureKind {
    /// Every one.
    pub const ALL: [Self; 11] = [
        Self::SpawnFailed,
        Self::WorkloadNotStarted,
        Self::VmmLost,
        Self::OutOfMemory,
        Self::CompanionLost,
        Self::BootTimedOut,
        Self::TimedOut,
        Self::Unhealthy,
        Self::ProtocolBroken,
        Self::Lost,
        Self::Internal,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SpawnFailed => "spawn_failed",
            Self::WorkloadNotStarted => "workload_not_started",
            Self::VmmLost => "vmm_lost",
            Self::OutOfMemory => "out_of_memory",
            Self::CompanionLost => "companion_lost",
            Self::BootTimedOut => "boot_timed_out",
            Self::TimedOut => "timed_out",
            Self::Unhealthy => "unhealthy",
            Self::ProtocolBroken => "protocol_broken",
            Self::Lost => "lost",
            Self::Internal => "internal",
        }
    }
}

impl FailureReason {
    /// It without its details.
    pub const fn kind(&self) -> FailureKind {
        match self {
            Self::SpawnFailed { .. } => FailureKind::SpawnFailed,
            Self::WorkloadNotStarted { .. } => FailureKind::WorkloadNotStarted,
            Self::VmmLost { .. } => FailureKind::VmmLost,
            Self::OutOfMemory => FailureKind::OutOfMemory,
            Self::CompanionLost { .. } => FailureKind::CompanionLost,
            Self::BootTimedOut { .. } => FailureKind::BootTimedOut,
            Self::TimedOut { .. } => FailureKind::TimedOut,
            Self::Unhealthy { .. } => FailureKind::Unhealthy,
            Self::ProtocolBroken { .. } => FailureKind::ProtocolBroken,
            Self::Lost => FailureKind::Lost,
            Self::Internal { .. } => FailureKind::Internal,
        }
    }
}
