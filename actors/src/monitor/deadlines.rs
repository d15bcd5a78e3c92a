//! What a monitor does when time runs out: pure, the clock is an argument.
//!
//! ```text
//!   stop asked ──grace──▶ SIGTERM to the VMM ──2 s──▶ SIGKILL, again and again
//!   workload's end reported ──30 s for its last output──▶ SIGTERM (a plan for an earlier time waits for that)
//!   exit acknowledged ───────────10 s───────────────▶ SIGKILL
//!   time limit ─▶ fault TimedOut, then as if stop had been asked
//! ```
//!
//! What is planned is never taken back, whatever a guest says: the one report that it can make puts an end off
//! once, by the time that its output may take.

use std::time::{Duration, Instant};

/// How long a VMM may take to end after SIGTERM. QEMU needs a few milliseconds.
const TERM_TO_KILL: Duration = Duration::from_secs(2);
/// How long a guest may take to power off once its exit was acknowledged. Under emulation on a busy
/// host it needs up to two seconds.
const POWER_OFF_LIMIT: Duration = Duration::from_secs(10);
/// How long the last output of a workload that has ended may take to be on file. What is on its way then, 16 MiB
/// at most, takes a slow disk some seconds. A full disk alone is waited for longer, until an end is asked for.
pub(super) const DRAIN_LIMIT: Duration = Duration::from_secs(if cfg!(test) { 3 } else { 30 });

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
    /// Until then the output of a workload that has ended may arrive.
    drained_by: Option<Instant>,
}

impl Deadlines {
    /// The workload may run until `at`.
    pub(super) fn limit_run_time(&mut self, at: Instant) {
        self.time_limit = Some(at);
    }

    /// The end was asked for; `grace` is what the workload may take, or its last output where it has ended.
    pub(super) fn stop_asked(&mut self, now: Instant, grace: Duration) {
        self.time_limit = None;
        let at = now.checked_add(grace).map(|at| self.drained_by.map_or(at, |drained_by| at.max(drained_by)));
        self.escalate(at, Due::TerminateVmm);
    }

    /// The VMM is being killed.
    pub(super) fn kill_asked(&mut self, now: Instant) {
        self.time_limit = None;
        self.escalate(Some(now), Due::KillVmm);
    }

    /// The guest was told to power off.
    pub(super) fn exit_acknowledged(&mut self, now: Instant) {
        self.time_limit = None;
        self.escalate(now.checked_add(POWER_OFF_LIMIT), Due::KillVmm);
    }

    /// The guest reported the workload's end: its last output is to arrive before the VMM is ended. The time limit
    /// stays, for an output that never does.
    pub(super) fn workload_ended(&mut self, now: Instant) {
        let drained_by = now.checked_add(DRAIN_LIMIT).unwrap_or(now);
        self.drained_by = Some(drained_by);
        if let Some((at, Due::TerminateVmm)) = &mut self.escalation {
            *at = drained_by.max(*at);
        }
    }

    /// The VMM process is gone: nothing is due any more.
    pub(super) fn vmm_ended(&mut self) {
        (self.time_limit, self.escalation) = (None, None);
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

    const SECOND: Duration = Duration::from_secs(1);

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
    fn a_reported_end_puts_a_stop_off_once_and_takes_nothing_back() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let moment = Duration::from_millis(1);
        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(after(100));
        deadlines.stop_asked(start, Duration::from_secs(10));
        deadlines.workload_ended(after(9));
        let drained_by = after(9) + DRAIN_LIMIT;
        assert_eq!(deadlines.take_due(drained_by.checked_sub(moment).unwrap()), None, "its output has its time");
        assert_eq!(deadlines.take_due(drained_by), Some(Due::TerminateVmm));
        assert_eq!(deadlines.take_due(drained_by + TERM_TO_KILL), Some(Due::KillVmm));

        // A SIGTERM that has been sent is followed by SIGKILL all the same.
        let mut deadlines = Deadlines::default();
        deadlines.stop_asked(start, Duration::ZERO);
        assert_eq!(deadlines.take_due(start), Some(Due::TerminateVmm));
        deadlines.workload_ended(after(1));
        assert_eq!(deadlines.take_due(after(2)), Some(Due::KillVmm));

        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(start + DRAIN_LIMIT / 2);
        deadlines.workload_ended(start);
        assert_eq!(deadlines.take_due(start + DRAIN_LIMIT / 2), Some(Due::TimeLimit), "the limit stays");
        deadlines.stop_asked(start + DRAIN_LIMIT / 2, Duration::ZERO);
        assert_eq!(deadlines.next(), Some(start + DRAIN_LIMIT));
        deadlines.stop_asked(start + DRAIN_LIMIT / 2, Duration::from_mins(2));
        assert_eq!(deadlines.next(), Some(start + DRAIN_LIMIT), "a later plan changes nothing");
    }

    #[test]
    fn a_power_off_that_does_not_come_is_a_kill_and_no_later_than_planned() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.exit_acknowledged(start);
        assert_eq!(deadlines.take_due(start + POWER_OFF_LIMIT), Some(Due::KillVmm));
        let mut deadlines = Deadlines::default();
        deadlines.stop_asked(start, Duration::from_secs(1));
        deadlines.exit_acknowledged(start);
        assert_eq!(deadlines.take_due(start + Duration::from_secs(1)), Some(Due::TerminateVmm));
    }

    #[test]
    fn a_stop_long_after_a_reported_end_has_its_grace_and_a_kill_has_none() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let mut deadlines = Deadlines::default();
        // The disk is full: nothing is due, whatever time passes.
        deadlines.workload_ended(start);
        assert_eq!(deadlines.next(), None);
        deadlines.stop_asked(after(3600), Duration::from_secs(10));
        assert_eq!(deadlines.next(), Some(after(3610)));
        deadlines.kill_asked(after(3601));
        assert_eq!(deadlines.take_due(after(3601)), Some(Due::KillVmm));
        assert_eq!(deadlines.take_due(after(3603)), Some(Due::KillVmm));
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

    #[test]
    fn a_guest_has_ten_seconds_to_power_off_whatever_was_planned() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(start + SECOND);
        deadlines.stop_asked(start, SECOND * 60);
        deadlines.exit_acknowledged(start);
        assert_eq!(deadlines.take_due(start + SECOND * 9), None);
        assert_eq!(deadlines.take_due(start + SECOND * 10), Some(Due::KillVmm));
    }

    #[test]
    fn a_stop_puts_off_no_kill_that_is_due_as_soon() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.stop_asked(start, Duration::ZERO);
        assert_eq!(deadlines.take_due(start), Some(Due::TerminateVmm));
        let kill = deadlines.next().unwrap();
        deadlines.stop_asked(start, kill - start);
        assert_eq!(deadlines.take_due(kill), Some(Due::KillVmm));
    }

    #[test]
    fn the_time_limit_is_no_step_of_an_end() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(start);
        assert_eq!(deadlines.take_due(start), Some(Due::TimeLimit));
        assert_eq!((deadlines.next(), deadlines.take_due(start + SECOND * 60)), (None, None), "no signal follows");
        deadlines.limit_run_time(start);
        deadlines.stop_asked(start, SECOND);
        assert_eq!(deadlines.next(), Some(start + SECOND));
    }

    #[test]
    fn nothing_is_due_once_the_vmm_has_ended() {
        let start = Instant::now();
        let mut deadlines = Deadlines::default();
        deadlines.limit_run_time(start);
        deadlines.stop_asked(start, SECOND);
        deadlines.limit_run_time(start);
        deadlines.vmm_ended();
        assert_eq!((deadlines.next(), deadlines.take_due(start + SECOND * 60)), (None, None));
    }
}
