//! What a monitor does when time runs out: pure, the clock is an argument.
//!
//! ```text
//!   stop asked ──grace──▶ SIGTERM to the VMM ──2 s──▶ SIGKILL
//!   exit acknowledged ───────────10 s───────────────▶ SIGKILL
//!   time limit ─▶ fault TimedOut, then as if stop had been asked
//! ```

use std::time::{Duration, Instant};

/// How long a VMM may take to end after SIGTERM. QEMU needs a few milliseconds.
const TERM_TO_KILL: Duration = Duration::from_secs(2);
/// How long a guest may take to power off once its exit was acknowledged. Under emulation on a busy
/// host it needs up to two seconds.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// SIGTERM to the VMM process.
    TerminateVmm,
    /// SIGKILL to the VMM process.
    KillVmm,
    /// The workload ran as long as it may.
    TimeLimit,
}

/// The deadlines of one microVM.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Deadlines {
    time_limit: Option<Instant>,
    escalation: Option<(Instant, Due)>,
}

impl Deadlines {
    /// The workload may run until `at`.
    pub(super) fn limit_run_time(&mut self, at: Instant) {
        self.time_limit = Some(at);
    }

    /// The end was asked for; `grace` is what the workload may take.
    pub(super) fn stop_asked(&mut self, now: Instant, grace: Duration) {
        self.time_limit = None;
        self.escalate(now.checked_add(grace), Due::TerminateVmm);
    }

    /// The guest was told to power off.
    pub(super) fn exit_acknowledged(&mut self, now: Instant) {
        self.time_limit = None;
        self.escalation = now.checked_add(POWER_OFF_LIMIT).map(|at| (at, Due::KillVmm));
    }

    /// The workload ended: nothing of the old plan holds while its output is drained.
    pub(super) fn workload_ended(&mut self) {
        *self = Self::default();
    }

    /// A sooner escalation wins; a later one changes nothing.
    fn escalate(&mut self, at: Option<Instant>, due: Due) {
        let Some(at) = at else { return };
        if self.escalation.is_none_or(|(planned, _)| at < planned) {
            self.escalation = Some((at, due));
        }
    }

    /// When something is due next.
    pub(super) fn next(&self) -> Option<Instant> {
        [self.time_limit, self.escalation.map(|(at, _)| at)].into_iter().flatten().min()
    }

    /// Takes what is due at `now`, planning what comes after it.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Due> {
        if self.time_limit.is_some_and(|at| at <= now) {
            self.time_limit = None;
            return Some(Due::TimeLimit);
        }
        self.take_escalation(now)
    }

    /// When the next step of an end that was asked for is due.
    pub(super) fn next_escalation(&self) -> Option<Instant> {
        self.escalation.map(|(at, _)| at)
    }

    /// [`Deadlines::take_due`] without the time limit.
    pub(super) fn take_escalation(&mut self, now: Instant) -> Option<Due> {
        let (at, due) = self.escalation?;
        if at > now {
            return None;
        }
        self.escalation = match due {
            Due::TerminateVmm => now.checked_add(TERM_TO_KILL).map(|at| (at, Due::KillVmm)),
            // A process in uninterruptible sleep: ask again until it is gone.
            Due::KillVmm => now.checked_add(TERM_TO_KILL).map(|at| (at, Due::KillVmm)),
            Due::TimeLimit => None,
        };
        Some(due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stop_escalates_from_term_to_kill() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut deadlines = Deadlines::default();
        assert_eq!(deadlines.next(), None);
        deadlines.stop_asked(start, Duration::from_secs(10));
        assert_eq!(deadlines.take_due(after(9)), None);
        assert_eq!(deadlines.take_due(after(10)), Some(Due::TerminateVmm));
        assert_eq!(deadlines.take_due(after(11)), None);
        assert_eq!(deadlines.take_due(after(12)), Some(Due::KillVmm));
        assert_eq!(deadlines.take_due(after(14)), Some(Due::KillVmm));
    }

    #[test]
    fn a_second_stop_can_only_shorten() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.stop_asked(start, Duration::from_secs(10));
        deadlines.stop_asked(start, Duration::from_mins(1));
        assert_eq!(deadlines.next(), Some(start + Duration::from_secs(10)));
        deadlines.stop_asked(start, Duration::ZERO);
        assert_eq!(deadlines.take_due(start), Some(Due::TerminateVmm));
    }

    #[test]
    fn the_time_limit_fires_once_and_an_absurd_one_never() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(start);
        assert_eq!(deadlines.take_due(start), Some(Due::TimeLimit));
        assert_eq!(deadlines.take_due(start), None);
        deadlines.stop_asked(start, Duration::MAX);
        assert_eq!(deadlines.next(), None);
    }
}
