//! Where the time of a start goes: one [`StartTimings`] is made when a start is asked for, goes along
//! with it through supervisor, driver, monitor and log writer, and is marked at each [`StartStep`].
//!
//! ```text
//!   [`LatestTimings`] ─begin─▶ StartTimings ─mark─▶ … ─mark─▶ released
//!        └─ of a sandbox that was found again: what was before is not known, and said so
//! ```
//!
//! Times are the host's monotonic clock, which all its processes share. Nothing is stored on disk: the
//! next orchestrator knows no more than what happens under it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use sandpen_types::start_step::StartStep;

use sandpen_types::spec::SandboxKey;

/// Microseconds of the host's monotonic clock, at least 1: the same in all processes of one boot. 0 where
/// the system has no such clock.
pub fn monotonic_us() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| {
        let (seconds, nanos) = (now.tv_sec().unsigned_abs(), now.tv_nsec().unsigned_abs());
        seconds.saturating_mul(1_000_000).saturating_add(nanos / 1000).max(1)
    })
}

/// The times of one start; clones share them. Any thread may mark and read it.
#[derive(Debug, Clone)]
pub struct StartTimings(Arc<Marks>);

#[derive(Debug)]
struct Marks {
    began_us: u64,
    adopted: bool,
    /// [`monotonic_us`] of each step of [`StartStep::ALL`]; 0: not (yet) done.
    at_us: [AtomicU64; StartStep::ALL.len()],
}

/// A step that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedStep {
    /// Which.
    pub step: StartStep,
    /// Since the start was asked for, or the microVM was adopted.
    pub at: Duration,
    /// Since the step before it.
    pub took: Duration,
}

impl Default for StartTimings {
    /// Times that begin now and are marked by nobody yet.
    fn default() -> Self {
        Self::new(false)
    }
}

impl StartTimings {
    fn new(adopted: bool) -> Self {
        let at_us = std::array::from_fn(|_| AtomicU64::new(0));
        Self(Arc::new(Marks { began_us: monotonic_us(), adopted, at_us }))
    }

    /// A start that is asked for now.
    pub fn requested() -> Self {
        let timings = Self::default();
        timings.0.at_us[StartStep::Requested as usize].store(timings.0.began_us, Ordering::Relaxed);
        timings
    }

    /// A microVM that is found again now: nothing is known of what was before.
    pub fn adopted() -> Self {
        Self::new(true)
    }

    /// A step is done. The first time counts; costs next to nothing from the second on.
    pub fn mark(&self, step: StartStep) {
        let at = &self.0.at_us[step as usize];
        if at.load(Ordering::Relaxed) == 0 {
            let _ = at.compare_exchange(0, monotonic_us(), Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Whether the microVM was found again by this orchestrator, so that its start is not known.
    pub fn is_adopted(&self) -> bool {
        self.0.adopted
    }

    /// When it was asked for or adopted ([`monotonic_us`]).
    pub fn began_us(&self) -> u64 {
        self.0.began_us
    }

    /// The steps that are done, in the order in which they were; the sum of what they took is the last
    /// one's time.
    pub fn steps(&self) -> Vec<TimedStep> {
        let began = self.0.began_us;
        let marked = StartStep::ALL.map(|step| (self.0.at_us[step as usize].load(Ordering::Relaxed), step));
        let mut marked: Vec<_> = marked.into_iter().filter(|(at, _)| *at != 0).collect();
        marked.sort_unstable();
        let mut before = Duration::ZERO;
        let timed = marked.into_iter().map(|(at, step)| {
            let at = Duration::from_micros(at.saturating_sub(began));
            let took = at.saturating_sub(std::mem::replace(&mut before, at));
            TimedStep { step, at, took }
        });
        timed.collect()
    }
}

/// The times of the latest start of each sandbox, until it is removed; clones share them.
#[derive(Debug, Clone, Default)]
pub struct LatestTimings(Arc<Mutex<HashMap<SandboxKey, StartTimings>>>);

impl LatestTimings {
    /// Another start takes the place of the one before it.
    pub fn begin(&self, key: &SandboxKey, timings: StartTimings) {
        self.lock().insert(key.clone(), timings);
    }

    /// Those of a start that is under way; of one that another orchestrator made they begin here.
    pub fn of_live(&self, key: &SandboxKey) -> StartTimings {
        self.lock().entry(key.clone()).or_insert_with(StartTimings::adopted).clone()
    }

    /// Those of the latest start; `None` where this orchestrator never had it live.
    pub fn get(&self, key: &SandboxKey) -> Option<StartTimings> {
        self.lock().get(key).cloned()
    }

    /// The sandbox is removed.
    pub fn forget(&self, key: &SandboxKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SandboxKey, StartTimings>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_come_in_their_order_and_add_up() {
        let timings = StartTimings::requested();
        // Output may be on file before RUNNING is durable.
        for step in [StartStep::Recorded, StartStep::FirstOutput, StartStep::Running, StartStep::Recorded] {
            timings.mark(step);
            std::thread::sleep(Duration::from_micros(50));
        }
        let steps = timings.steps();
        let order: Vec<_> = steps.iter().map(|timed| timed.step).collect();
        assert_eq!(order, [StartStep::Requested, StartStep::Recorded, StartStep::FirstOutput, StartStep::Running]);
        assert_eq!((steps[0].at, steps[0].took), (Duration::ZERO, Duration::ZERO));
        assert_eq!(steps.iter().map(|timed| timed.took).sum::<Duration>(), steps[3].at);
    }

    #[test]
    fn what_is_found_again_says_so() {
        let latest = LatestTimings::default();
        let key = SandboxKey::new(sandpen_types::spec::SandboxName::new("box").unwrap());
        assert!(latest.get(&key).is_none());
        let adopted = latest.of_live(&key);
        adopted.mark(StartStep::WorkloadEnded);
        assert!(latest.get(&key).unwrap().is_adopted());
        assert_eq!(latest.of_live(&key).steps().len(), 1);
        latest.begin(&key, StartTimings::requested());
        assert!(!latest.of_live(&key).is_adopted());
        latest.forget(&key);
        assert!(latest.get(&key).is_none());
    }
}
