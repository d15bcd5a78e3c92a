//! What sandboxes take of their host, and what their guests say of themselves.

use std::time::Duration;

use sandpen_types::state::Status;
use sandpen_types::stats::{GuestUsage, HostUsage, SandboxUsage, UsageSample};
use serde::{Deserialize, Serialize};

use crate::Word;

/// Answer of `GET /v1/stats`: one sample. Counters only grow within one generation: two samples make rates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// When, in microseconds of a clock of the host's that nobody sets.
    pub at_us: u64,
    /// By their names.
    pub sandboxes: Vec<SandboxStats>,
}

/// One sandbox at that moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxStats {
    /// Its name.
    pub name: String,
    /// Its config.
    pub config_file: String,
    /// Which of its starts.
    pub generation: u64,
    /// Its state.
    pub state: Word<Status>,
    /// How long it runs; null where it does not.
    pub uptime_ms: Option<u64>,
    /// Its virtual processors.
    pub cpus: u32,
    /// What its processes take of the host; null where none run.
    pub host: Option<HostStats>,
    /// What its guest says; null where that does not tell, or not within a second.
    pub guest: Option<GuestStats>,
    /// What its disk takes of the host's; null where it has none of its own.
    pub disk_bytes: Option<u64>,
    /// Bytes that it has written to its log since its first start.
    pub log_bytes: u64,
}

/// What the processes of a microVM take of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostStats {
    /// Processor time since they began, in microseconds.
    pub cpu_us: u64,
    /// Their memory.
    pub memory_bytes: u64,
    /// How many they are.
    pub processes: u32,
}

/// What a guest says of itself; no part is more than its whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestStats {
    /// Ticks of all processors in which something was done.
    pub cpu_busy_ticks: u64,
    /// All ticks.
    pub cpu_total_ticks: u64,
    /// Memory in use.
    pub memory_used_bytes: u64,
    /// All of it.
    pub memory_total_bytes: u64,
    /// What is in use of the file system of `/`.
    pub disk_used_bytes: u64,
    /// Its size.
    pub disk_total_bytes: u64,
    /// Threads, the guest kernel's own included.
    pub tasks: u32,
}

/// What a sandbox did between two samples. Processors count 1000 each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct StatsRates {
    /// Thousandths of one of the host's processors that its processes took.
    pub host_cpu_permille: Option<u64>,
    /// Thousandths of one of its own processors that its guest took, as that says.
    pub guest_cpu_permille: Option<u64>,
    /// Bytes per second that it wrote to its log.
    pub log_bytes_per_second: Option<u64>,
}

impl StatsRates {
    /// Between two samples of a sandbox, so long after each other; nothing of one that was started meanwhile.
    pub fn between(before: &SandboxStats, after: &SandboxStats, elapsed: Duration) -> Self {
        let us = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        let is_same = (&before.name, &before.config_file, before.generation)
            == (&after.name, &after.config_file, after.generation);
        if us == 0 || !is_same {
            return Self::default();
        }
        let grown = |before: u64, after: u64| u128::from(after.saturating_sub(before));
        let per = |grown: u128, unit: u64, all: u64| {
            let all = u128::from(all);
            (all > 0).then(|| u64::try_from(grown.saturating_mul(u128::from(unit)) / all).unwrap_or(u64::MAX))
        };
        let host =
            before.host.zip(after.host).and_then(|(before, after)| per(grown(before.cpu_us, after.cpu_us), 1000, us));
        let guest = before.guest.zip(after.guest).and_then(|(before, after)| {
            let all = after.cpu_total_ticks.saturating_sub(before.cpu_total_ticks);
            let busy = grown(before.cpu_busy_ticks, after.cpu_busy_ticks).min(u128::from(all));
            per(busy, 1000, all)
        });
        Self {
            host_cpu_permille: host,
            guest_cpu_permille: guest.map(|permille| permille.saturating_mul(u64::from(after.cpus))),
            log_bytes_per_second: per(grown(before.log_bytes, after.log_bytes), 1_000_000, us),
        }
    }
}

impl From<UsageSample> for Stats {
    fn from(sample: UsageSample) -> Self {
        let sandboxes = sample.sandboxes.into_iter().map(SandboxStats::from).collect();
        Self { at_us: u64::try_from(sample.at.as_micros()).unwrap_or(u64::MAX), sandboxes }
    }
}

impl From<SandboxUsage> for SandboxStats {
    fn from(usage: SandboxUsage) -> Self {
        let SandboxUsage { key, generation, state, uptime, cpus, host, guest, disk_bytes, log_bytes } = usage;
        Self {
            name: key.name.to_string(),
            config_file: key.config.to_string(),
            generation,
            state: state.into(),
            uptime_ms: uptime.map(|uptime| u64::try_from(uptime.as_millis()).unwrap_or(u64::MAX)),
            cpus,
            host: host.map(HostStats::from),
            guest: guest.map(GuestStats::from),
            disk_bytes,
            log_bytes,
        }
    }
}

impl From<HostUsage> for HostStats {
    fn from(HostUsage { cpu, memory, processes }: HostUsage) -> Self {
        Self { cpu_us: u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX), memory_bytes: memory, processes }
    }
}

impl From<GuestUsage> for GuestStats {
    fn from(usage: GuestUsage) -> Self {
        let GuestUsage { cpu_busy, cpu_total, memory_total, memory_used, disk_total, disk_used, tasks } = usage;
        Self {
            cpu_busy_ticks: cpu_busy,
            cpu_total_ticks: cpu_total,
            memory_used_bytes: memory_used,
            memory_total_bytes: memory_total,
            disk_used_bytes: disk_used,
            disk_total_bytes: disk_total,
            tasks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(cpu_us: u64, busy: u64, total: u64, log_bytes: u64) -> SandboxStats {
        let usage = GuestUsage { cpu_busy: busy, cpu_total: total, ..GuestUsage::default() };
        SandboxStats {
            name: "a".into(),
            config_file: "default".into(),
            generation: 1,
            state: Status::Running.into(),
            uptime_ms: Some(5),
            cpus: 2,
            host: Some(HostStats { cpu_us, memory_bytes: 0, processes: 1 }),
            guest: Some(usage.into()),
            disk_bytes: None,
            log_bytes,
        }
    }

    #[test]
    fn two_samples_make_rates_whatever_a_guest_says() {
        let second = Duration::from_secs(1);
        let (before, after) = (sample(1_000_000, 100, 1000, 50), sample(1_500_000, 150, 1200, 2050));
        let rates = StatsRates::between(&before, &after, second);
        let expected = StatsRates {
            host_cpu_permille: Some(500),
            guest_cpu_permille: Some(500),
            log_bytes_per_second: Some(2000),
        };
        assert_eq!(rates, expected);
        let half = StatsRates::between(&before, &after, second * 2);
        assert_eq!((half.host_cpu_permille, half.log_bytes_per_second), (Some(250), Some(1000)));
        // More than all, back in time, no time.
        let lies = sample(2_000_000, u64::MAX, 1200, 50);
        assert_eq!(StatsRates::between(&before, &lies, second).guest_cpu_permille, Some(2000));
        let back = StatsRates::between(&after, &before, second);
        assert_eq!((back.host_cpu_permille, back.guest_cpu_permille), (Some(0), None));
        assert_eq!(StatsRates::between(&before, &after, Duration::ZERO), StatsRates::default());
        let restarted = SandboxStats { generation: 2, ..after.clone() };
        assert_eq!(StatsRates::between(&before, &restarted, second), StatsRates::default());
        let silent = SandboxStats { guest: None, host: None, ..after };
        let rates = StatsRates::between(&before, &silent, second);
        assert_eq!((rates.host_cpu_permille, rates.guest_cpu_permille), (None, None));
    }
}
