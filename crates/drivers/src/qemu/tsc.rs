//! How fast this host's time stamp counter runs.
//!
//! Under emulation the guest sees the host's counter, but measures it against an emulated timer,
//! which a loaded host delays: the measurement fails and the guest hangs while booting. So the
//! rate is measured here and handed over (`tsc_early_khz=`).
#![allow(unsafe_code)] // reading the counter has no safe wrapper

use std::sync::OnceLock;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Time between the two samples.
const SPAN: Duration = Duration::from_millis(20);
/// Readings per sample; the least disturbed one counts.
const READINGS: usize = 16;
/// Measurements of 20 ms differ by some 1 kHz on an idle host.
const STEP_KHZ: u32 = 10;

/// The counter's rate in kHz, measured once in a process; takes 20 ms the first time. `None` where
/// there is no such counter or it cannot be measured: the guest then tries by itself.
pub fn khz() -> Option<u32> {
    static KHZ: OnceLock<Option<u32>> = OnceLock::new();
    *KHZ.get_or_init(measure)
}

fn measure() -> Option<u32> {
    let (time_before, ticks_before) = sample()?;
    std::thread::sleep(SPAN);
    let (time_after, ticks_after) = sample()?;
    rate(time_after.checked_sub(time_before)?, ticks_after.checked_sub(ticks_before)?)
}

/// Ticks in a time, as kHz; `None` where it cannot be a processor's (100 MHz to 100 GHz). Rounded to what two measurements
/// agree about (a few millionths, less than any clock drifts): it is a part of what a saved machine is known by, and the
/// next daemon has to find that again.
fn rate(time: Duration, ticks: u64) -> Option<u32> {
    let step = u128::from(STEP_KHZ);
    let steps = (u128::from(ticks) * 1_000_000 / time.as_nanos().max(1) + step / 2) / step;
    u32::try_from(steps * step).ok().filter(|khz| (100_000..=100_000_000).contains(khz))
}

/// The clock and the counter at about the same moment: of several readings the one that was
/// interrupted least.
fn sample() -> Option<(Duration, u64)> {
    let reading = || {
        let before = clock()?;
        let ticks = ticks()?;
        let after = clock()?;
        let gap = after.checked_sub(before)?;
        Some((gap, before + gap / 2, ticks))
    };
    (0..READINGS).filter_map(|_| reading()).min_by_key(|(gap, ..)| *gap).map(|(_, time, ticks)| (time, ticks))
}

fn clock() -> Option<Duration> {
    clock_gettime(ClockId::CLOCK_MONOTONIC_RAW).ok().map(Duration::from)
}

#[cfg(target_arch = "x86_64")]
#[allow(clippy::unnecessary_wraps)] // other architectures have none
fn ticks() -> Option<u64> {
    // SAFETY: RDTSC reads a counter into registers and touches no memory. Every x86-64 processor
    // has it; Linux lets programs use it unless they forbade it themselves with PR_SET_TSC, which
    // ends the process with SIGSEGV and is no memory unsafety.
    Some(unsafe { core::arch::x86_64::_rdtsc() })
}

#[cfg(not(target_arch = "x86_64"))]
fn ticks() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use sandpen_skip::{Reason, skip};

    use super::*;

    #[test]
    fn two_measurements_agree() {
        let (Some(first), Some(second)) = (measure(), measure()) else {
            return skip(Reason::NoTsc, "nothing was measured");
        };
        assert!(first.abs_diff(second) < first / 1000, "{first} and {second} kHz");
        assert_eq!(khz(), khz());
    }

    #[test]
    fn measurements_that_differ_by_a_moment_are_the_same_rate() {
        for nanos in [19_999_970, 19_999_999, 20_000_001, 20_000_030] {
            assert_eq!(rate(Duration::from_nanos(nanos), 52_000_000), Some(2_600_000), "{nanos}");
        }
    }

    #[test]
    fn nonsense_is_no_rate() {
        assert_eq!(rate(Duration::from_millis(20), 52_000_000), Some(2_600_000));
        assert_eq!(rate(Duration::ZERO, 52_000_000), None);
        assert_eq!(rate(Duration::from_millis(20), 0), None);
        assert_eq!(rate(Duration::from_secs(1), u64::MAX), None);
    }
}
