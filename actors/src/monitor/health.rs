//! When a workload's health is checked, and what the answers mean: pure, the clock is an argument.
//!
//! ```text
//!              failure in the start period                 failure
//!            ┌──────┐                              ┌─────────────────────┐
//!            │      ▼        success               │                     ▼
//!            └─ starting ──────────────▶ healthy ──┘    ┌──failure── failing(n) ── n = retries ─▶ a crash
//!                   │                      ▲            └───────────▶   │
//!                   └──────failure─────────┼────────────────────────────┤
//!                                          └──────────success───────────┘
//! ```

use std::time::{Duration, Instant};

use sandpen_types::health::{HealthState, HealthStatus};
use sandpen_types::spec::{HealthCheck, HealthFailure};
use sandpen_types::state::{ExitStatus, FailureReason};
use sandpen_vmm::driver::{ProbeOutcome, ProbeStatus};

/// The health of one workload.
#[derive(Debug)]
pub(super) struct Health {
    check: HealthCheck,
    /// When the next check is due; `None` while one runs.
    due: Option<Instant>,
    /// Until then failures do not count, unless there was a success.
    starts_until: Option<Instant>,
    state: HealthState,
}

impl Health {
    /// The health of a workload that has run for `ran` and was in `known` when somebody last looked.
    pub(super) fn new(check: HealthCheck, ran: Duration, known: Option<HealthState>, now: Instant) -> Self {
        let starts_until = now.checked_add(check.start_period.saturating_sub(ran));
        let due = now.checked_add(check.interval);
        Self { due, starts_until, state: known.unwrap_or_default(), check }
    }

    /// What is known.
    pub(super) fn state(&self) -> &HealthState {
        &self.state
    }

    /// When the next check is due, unless one runs.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Begins a check that is due; its answer goes to [`Health::take`].
    pub(super) fn begin(&mut self, now: Instant) -> Option<HealthCheck> {
        self.due.take_if(|due| *due <= now).map(|_| self.check.clone())
    }

    /// Takes an answer; the reason for the end when that was one failure too many.
    pub(super) fn take(&mut self, answer: &Result<ProbeOutcome, String>, now: Instant) -> Option<FailureReason> {
        self.due = now.checked_add(self.check.interval);
        let (how, output) = match answer {
            Ok(ProbeOutcome { end: ProbeStatus::Ended(ExitStatus::Code(0)), .. }) => {
                self.state = HealthState { status: HealthStatus::Healthy, failures: 0, output: String::new() };
                return None;
            }
            Ok(outcome) => (outcome.end.to_string(), outcome.output.trim()),
            Err(unreachable) => (unreachable.clone(), ""),
        };
        let output = if output.is_empty() { how } else { format!("{how}: {output}") };
        self.state.output.clone_from(&output);
        if self.state.status == HealthStatus::Starting && self.starts_until.is_some_and(|until| now < until) {
            return None;
        }
        self.state.status = HealthStatus::Failing;
        self.state.failures = self.state.failures.saturating_add(1);
        (self.state.failures >= self.check.retries && self.check.on_failure == HealthFailure::Crash)
            .then_some(FailureReason::Unhealthy { failures: self.state.failures, output })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn check() -> HealthCheck {
        HealthCheck { interval: SECOND, start_period: SECOND * 10, ..HealthCheck::new(vec!["true".into()]) }
    }

    fn ended(code: i32) -> ProbeOutcome {
        ProbeOutcome { end: ProbeStatus::Ended(ExitStatus::Code(code)), output: "words\n".into() }
    }

    #[test]
    fn failures_in_a_row_are_counted_and_a_success_forgets_them() {
        let start = Instant::now();
        let mut health = Health::new(check(), SECOND * 10, None, start);
        assert_eq!((health.begin(start), health.due()), (None, Some(start + SECOND)));
        let mut now = start;
        for (code, failures, crash) in
            [(1, 1, false), (1, 2, false), (0, 0, false), (2, 1, false), (3, 2, false), (4, 3, true)]
        {
            now += SECOND;
            assert!(health.begin(now).is_some());
            assert_eq!(health.due(), None, "one at a time");
            let reason = health.take(&Ok(ended(code)), now);
            assert_eq!((health.state().failures, reason.is_some()), (failures, crash), "{code}");
        }
        assert_eq!(health.state().output, "exit code 4: words");
    }

    #[test]
    fn in_the_start_period_failures_do_not_count_until_the_first_success() {
        let start = Instant::now();
        let mut health = Health::new(check(), SECOND, None, start);
        for _ in 0..20 {
            assert_eq!(health.take(&Ok(ended(1)), start + SECOND * 8), None);
        }
        assert_eq!((health.state().status, health.state().failures), (HealthStatus::Starting, 0));
        assert_eq!(health.take(&Ok(ended(0)), start + SECOND * 8), None);
        health.take(&Ok(ended(1)), start + SECOND * 8);
        assert_eq!((health.state().status, health.state().failures), (HealthStatus::Failing, 1));
        // Nine seconds of ten were left at first.
        let mut health = Health::new(check(), SECOND, None, start);
        health.take(&Ok(ended(1)), start + SECOND * 9);
        assert_eq!(health.state().failures, 1);
    }

    #[test]
    fn failures_without_consequence_are_only_counted() {
        let start = Instant::now();
        let mut health =
            Health::new(HealthCheck { on_failure: HealthFailure::None, ..check() }, SECOND * 10, None, start);
        for failures in 1..=10 {
            assert_eq!(health.take(&Ok(ended(1)), start), None);
            assert_eq!((health.state().status, health.state().failures), (HealthStatus::Failing, failures));
        }
    }

    #[test]
    fn a_guest_that_does_not_answer_and_a_command_that_hangs_have_failed() {
        let start = Instant::now();
        let known = HealthState { status: HealthStatus::Failing, failures: 1, output: String::new() };
        let mut health = Health::new(check(), SECOND * 10, Some(known), start);
        let hangs = Ok(ProbeOutcome { end: ProbeStatus::TimedOut, output: String::new() });
        assert_eq!(health.take(&hangs, start), None);
        let reason = health.take(&Err("it does not answer".into()), start);
        assert_eq!(reason, Some(FailureReason::Unhealthy { failures: 3, output: "it does not answer".into() }));
    }
}
