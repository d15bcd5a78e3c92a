//! The restart policy as pure functions of what the row says: asked again, also by the next
//! orchestrator, they answer the same.

use std::time::Duration;

use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{RestartBackoff, RestartPolicy};
use sandpen_types::state::{FailureReason, SandboxState, StoppedBy};

/// When the policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// The sandbox has just ended.
    Ended,
    /// An orchestrator has started and found it so.
    OrchestratorStarted,
    /// The same, and the host was restarted since the sandbox's last transition.
    HostRestarted,
}

/// Whether a sandbox that ended is started again.
///
/// `in_a_row` counts the restarts since the last healthy run, before this one.
pub(super) fn wants_restart(
    policy: RestartPolicy,
    state: &SandboxState,
    stopped_by: Option<StoppedBy>,
    in_a_row: u32,
    occasion: Occasion,
) -> bool {
    let failed = match state {
        SandboxState::Stopped { exit } => !exit.is_success(),
        // A spec that cannot be executed does not get better by trying.
        SandboxState::Failed { reason: FailureReason::WorkloadNotStarted { .. }, .. } => return false,
        SandboxState::Failed { .. } => true,
        _ => return false,
    };
    let keeps_running = matches!(policy, RestartPolicy::Always | RestartPolicy::UnlessStopped);
    match stopped_by {
        Some(StoppedBy::Request) => policy == RestartPolicy::Always && occasion == Occasion::HostRestarted,
        // It was stopped for the orchestrator's sake and comes back with the next one.
        Some(StoppedBy::Shutdown) => keeps_running && occasion != Occasion::Ended,
        None => match policy {
            RestartPolicy::No => false,
            RestartPolicy::OnFailure { max } => failed && max.is_none_or(|max| in_a_row < max),
            RestartPolicy::Always | RestartPolicy::UnlessStopped => true,
        },
    }
}

/// [`wants_restart`] of a row.
pub(super) fn row_wants_restart(row: &SandboxRow, occasion: Occasion) -> bool {
    wants_restart(row.spec.restart, &row.state, row.stopped_by, row.restarts_in_a_row, occasion)
}

/// The pause before a restart; `jitter` is random in 0.0..1.0: the pause is that share of the
/// exponential one, so that a thousand sandboxes that died together do not come back together.
pub(super) fn pause_before_restart(backoff: RestartBackoff, in_a_row: u32, jitter: f64) -> Duration {
    let doubled = backoff.initial.saturating_mul(1u32.checked_shl(in_a_row).unwrap_or(u32::MAX));
    doubled.min(backoff.max).mul_f64(jitter.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use sandpen_types::state::ExitStatus;

    const OK: SandboxState = SandboxState::Stopped { exit: ExitStatus::Code(0) };
    const BAD: SandboxState = SandboxState::Stopped { exit: ExitStatus::Code(1) };
    const LOST: SandboxState = SandboxState::Failed { reason: FailureReason::Lost, exit: None };

    #[test]
    fn policies() {
        use Occasion as O;
        use RestartPolicy as P;
        let on_failure = P::OnFailure { max: Some(2) };
        let (request, shutdown) = (Some(StoppedBy::Request), Some(StoppedBy::Shutdown));
        for (policy, state, stopped_by, in_a_row, occasion, restarted) in [
            (P::No, BAD, None, 0, O::Ended, false),
            (P::No, LOST, None, 0, O::HostRestarted, false),
            (P::Always, OK, None, 1000, O::Ended, true),
            (P::UnlessStopped, OK, None, 1000, O::Ended, true),
            (on_failure, OK, None, 0, O::Ended, false),
            (on_failure, BAD, None, 1, O::Ended, true),
            (on_failure, BAD, None, 2, O::Ended, false),
            (P::OnFailure { max: None }, BAD, None, u32::MAX, O::Ended, true),
            // Undecided when we died: decided by the next one.
            (on_failure, LOST, None, 0, O::OrchestratorStarted, true),
            (P::Always, OK, None, 0, O::OrchestratorStarted, true),
            // Stopped by request.
            (P::Always, OK, request, 0, O::Ended, false),
            (P::Always, OK, request, 0, O::OrchestratorStarted, false),
            (P::Always, OK, request, 0, O::HostRestarted, true),
            (P::UnlessStopped, OK, request, 0, O::HostRestarted, false),
            (on_failure, BAD, request, 0, O::HostRestarted, false),
            // Stopped with the orchestrator.
            (P::Always, OK, shutdown, 0, O::Ended, false),
            (P::Always, OK, shutdown, 0, O::OrchestratorStarted, true),
            (P::UnlessStopped, OK, shutdown, 0, O::OrchestratorStarted, true),
            (on_failure, BAD, shutdown, 0, O::OrchestratorStarted, false),
            (P::Always, SandboxState::Running, None, 0, O::Ended, false),
            (P::Always, SandboxState::Created, None, 0, O::HostRestarted, false),
        ] {
            let wanted = wants_restart(policy, &state, stopped_by, in_a_row, occasion);
            assert_eq!(wanted, restarted, "{policy:?} {state:?} {stopped_by:?} {in_a_row} {occasion:?}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_not_tried_again() {
        let reason = FailureReason::WorkloadNotStarted { message: "no such file".into() };
        let state = SandboxState::Failed { reason, exit: Some(ExitStatus::Code(127)) };
        assert!(!wants_restart(RestartPolicy::Always, &state, None, 0, Occasion::Ended));
    }

    #[test]
    fn the_pause_doubles_up_to_the_cap_and_is_jittered() {
        let backoff = RestartBackoff::default();
        let pause = |in_a_row, jitter| pause_before_restart(backoff, in_a_row, jitter);
        assert_eq!(pause(0, 1.0), Duration::from_millis(100));
        assert_eq!(pause(3, 1.0), Duration::from_millis(800));
        assert_eq!(pause(3, 0.5), Duration::from_millis(400));
        assert_eq!(pause(31, 1.0), backoff.max);
        assert_eq!(pause(u32::MAX, 1.0), backoff.max);
        assert_eq!(pause(5, 0.0), Duration::ZERO);
    }

    proptest! {
        /// Within its limits for all values; without jitter it never gets shorter.
        #[test]
        fn the_pause_is_bounded(
            initial in 0u64..=86_400_000,
            max in 0u64..=86_400_000,
            in_a_row in any::<u32>(),
            jitter in -1.0f64..2.0,
        ) {
            let (initial, max) = (Duration::from_millis(initial.min(max)), Duration::from_millis(max));
            let backoff = RestartBackoff { initial, max, ..RestartBackoff::default() };
            let pause = pause_before_restart(backoff, in_a_row, jitter);
            let limit = pause_before_restart(backoff, in_a_row, 1.0);
            prop_assert!(pause <= limit && limit <= max);
            prop_assert!(limit >= pause_before_restart(backoff, in_a_row.saturating_sub(1), 1.0));
            prop_assert_eq!(limit.is_zero(), initial.is_zero());
        }

        /// The most restarts in a row of `on-failure:MAX` is MAX, wherever one begins to count.
        #[test]
        fn on_failure_ends(max in 1u32..50) {
            let policy = RestartPolicy::OnFailure { max: Some(max) };
            let restarts = (0..).take_while(|in_a_row| wants_restart(policy, &BAD, None, *in_a_row, Occasion::Ended));
            prop_assert_eq!(restarts.count(), usize::try_from(max).unwrap());
        }
    }
}
