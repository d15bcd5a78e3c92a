//! The restart policy as a pure function.

use std::time::Duration;

use crate::spec::RestartPolicy;
use crate::state::{FailureReason, SandboxState};

/// Pause before the first restart in a row.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// A sandbox that ran this long was healthy: its next restart counts as the first again.
pub(super) const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// Whether and when a sandbox that ended in `state` is started again.
///
/// `in_a_row` counts the restarts since the last healthy run; `jitter` is random in 0.0..1.0 ("full
/// jitter": the pause is that share of the exponential one, so that a thousand sandboxes that died
/// together do not come back together).
pub(super) fn pause_before_restart(
    policy: RestartPolicy,
    state: &SandboxState,
    stop_requested: bool,
    in_a_row: u32,
    jitter: f64,
) -> Option<Duration> {
    if stop_requested {
        return None;
    }
    let failed = match state {
        SandboxState::Stopped { exit } => !exit.is_success(),
        // A spec that cannot be executed does not get better by trying.
        SandboxState::Failed { reason: FailureReason::WorkloadNotStarted { .. }, .. } => return None,
        SandboxState::Failed { .. } => true,
        _ => return None,
    };
    let wanted = match policy {
        RestartPolicy::No => false,
        RestartPolicy::OnFailure { max } => failed && max.is_none_or(|max| in_a_row < max),
        RestartPolicy::Always => true,
    };
    wanted.then(|| {
        let exponential = FIRST_PAUSE.saturating_mul(1u32.checked_shl(in_a_row).unwrap_or(u32::MAX)).min(LONGEST_PAUSE);
        exponential.mul_f64(jitter.clamp(0.0, 1.0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::ExitStatus;

    const OK: SandboxState = SandboxState::Stopped { exit: ExitStatus::Code(0) };
    const BAD: SandboxState = SandboxState::Stopped { exit: ExitStatus::Code(1) };

    #[test]
    fn policies() {
        let on_failure = RestartPolicy::OnFailure { max: Some(2) };
        for (policy, state, stop, in_a_row, restarted) in [
            (RestartPolicy::No, BAD, false, 0, false),
            (RestartPolicy::Always, OK, false, 1000, true),
            (RestartPolicy::Always, OK, true, 0, false),
            (on_failure, OK, false, 0, false),
            (on_failure, BAD, false, 1, true),
            (on_failure, BAD, false, 2, false),
            (on_failure, SandboxState::Failed { reason: FailureReason::Lost, exit: None }, false, 0, true),
            (RestartPolicy::Always, SandboxState::Running, false, 0, false),
        ] {
            let pause = pause_before_restart(policy, &state, stop, in_a_row, 1.0);
            assert_eq!(pause.is_some(), restarted, "{policy:?} {state:?} {stop} {in_a_row}");
        }
    }

    #[test]
    fn what_cannot_be_executed_is_not_tried_again() {
        let reason = FailureReason::WorkloadNotStarted { message: "no such file".into() };
        let state = SandboxState::Failed { reason, exit: Some(ExitStatus::Code(127)) };
        assert_eq!(pause_before_restart(RestartPolicy::Always, &state, false, 0, 1.0), None);
    }

    #[test]
    fn the_pause_doubles_up_to_the_cap_and_is_jittered() {
        let pause = |in_a_row, jitter| pause_before_restart(RestartPolicy::Always, &BAD, false, in_a_row, jitter);
        assert_eq!(pause(0, 1.0), Some(Duration::from_millis(100)));
        assert_eq!(pause(3, 1.0), Some(Duration::from_millis(800)));
        assert_eq!(pause(3, 0.5), Some(Duration::from_millis(400)));
        assert_eq!(pause(31, 1.0), Some(LONGEST_PAUSE));
        assert_eq!(pause(u32::MAX, 1.0), Some(LONGEST_PAUSE));
        assert_eq!(pause(5, 0.0), Some(Duration::ZERO));
    }
}
