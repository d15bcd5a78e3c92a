//! What a sandbox takes of its host at one moment, and what its guest says of itself. Counters only grow within one start:
//! two samples make a rate.

use std::time::Duration;

use crate::spec::SandboxKey;
use crate::state::Status;

/// What the processes of a microVM take of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// Processor time of all of them since they began.
    pub cpu: Duration,
    /// Their memory in bytes: what is shared among processes counts by its share, where the kernel tells.
    pub memory: u64,
    /// How many they are.
    pub processes: u32,
}

/// What a guest says of itself, bounded by what it can have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestUsage {
    /// Processor time that was spent, in the guest kernel's ticks, over all its processors.
    pub cpu_busy: u64,
    /// The same with the time in which nothing was to be done.
    pub cpu_total: u64,
    /// Its memory in bytes.
    pub memory_total: u64,
    /// What is in use of it: what could not be had at once.
    pub memory_used: u64,
    /// The size of the file system of `/`, in bytes.
    pub disk_total: u64,
    /// What is in use of it.
    pub disk_used: u64,
    /// Threads, the guest kernel's own included.
    pub tasks: u32,
}

impl GuestUsage {
    /// What can be true of a machine with so much memory: whatever a guest says, no part is more than its whole.
    #[must_use]
    pub fn bounded(self, memory_bytes: u64) -> Self {
        let memory_total = self.memory_total.min(memory_bytes);
        Self {
            cpu_busy: self.cpu_busy.min(self.cpu_total),
            memory_total,
            memory_used: self.memory_used.min(memory_total),
            disk_used: self.disk_used.min(self.disk_total),
            ..self
        }
    }
}

/// One sandbox at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxUsage {
    /// Which.
    pub key: SandboxKey,
    /// Which of its starts: the counters of another one are others.
    pub generation: u64,
    /// Its state.
    pub state: Status,
    /// How long it runs; `None` where it does not.
    pub uptime: Option<Duration>,
    /// Its virtual processors.
    pub cpus: u32,
    /// What its processes take; `None` where none run.
    pub host: Option<HostUsage>,
    /// What its guest says; `None` where that does not tell, or not in time.
    pub guest: Option<GuestUsage>,
    /// What its disk takes of the host's, in bytes; `None` where it has none of its own.
    pub disk_bytes: Option<u64>,
    /// Bytes that it has written to its log since its first start.
    pub log_bytes: u64,
}

/// Several sandboxes at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageSample {
    /// When, by a clock of the host's that nobody sets.
    pub at: Duration,
    /// By their names.
    pub sandboxes: Vec<SandboxUsage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_more_than_its_whole() {
        let all = u64::MAX;
        let lies = GuestUsage {
            cpu_busy: all,
            cpu_total: 5,
            memory_total: all,
            memory_used: all,
            disk_total: 7,
            disk_used: all,
            tasks: u32::MAX,
        };
        let bounded = lies.bounded(100);
        assert_eq!((bounded.cpu_busy, bounded.memory_total, bounded.memory_used, bounded.disk_used), (5, 100, 100, 7));
        let truth =
            GuestUsage { cpu_busy: 1, cpu_total: 5, memory_total: 90, memory_used: 30, ..GuestUsage::default() };
        assert_eq!(truth.bounded(100), truth);
    }
}
