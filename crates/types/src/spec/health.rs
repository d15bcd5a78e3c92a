//! A command that says whether a workload is well.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ByteString, SpecError};

/// Most bytes of a health check's command, with one more for each argument: it has to fit one frame of
/// the control protocol.
pub const HEALTH_COMMAND_MAX: usize = 3072;
/// Shortest interval and limit: a check costs the guest a process.
pub const HEALTH_TIME_MIN: Duration = Duration::from_millis(100);
/// Longest interval, limit and start period.
pub const HEALTH_TIME_MAX: Duration = Duration::from_hours(24);
/// Most failures in a row that may be asked for.
pub const HEALTH_RETRIES_MAX: u32 = 1000;

/// What follows when a check has failed too often in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthFailure {
    /// The sandbox has crashed: it is ended, and its restart policy is asked.
    #[default]
    Crash,
    /// Nothing: it is only said, as container engines have it.
    None,
}

impl HealthFailure {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
    fn is_crash(&self) -> bool {
        *self == Self::Crash
    }
}

/// A command that is run beside the workload, with its environment, again and again. It is well when
/// the command's exit code is 0; too many failures in a row count as a crash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Program and arguments; at most [`HEALTH_COMMAND_MAX`] bytes.
    pub command: Vec<ByteString>,
    /// From the end of one check to the next, and before the first one.
    #[serde(default = "interval")]
    pub interval: Duration,
    /// How long a check may take; it has failed then.
    #[serde(default = "timeout")]
    pub timeout: Duration,
    /// How many failures in a row are too many, from 1.
    #[serde(default = "retries")]
    pub retries: u32,
    /// For so long after its start, until the first success, failures do not count.
    #[serde(default)]
    pub start_period: Duration,
    /// What follows then.
    #[serde(default, skip_serializing_if = "HealthFailure::is_crash")]
    pub on_failure: HealthFailure,
}

/// Docker's default.
fn interval() -> Duration {
    Duration::from_secs(30)
}

/// Docker's default.
fn timeout() -> Duration {
    Duration::from_secs(30)
}

/// Docker's default.
fn retries() -> u32 {
    3
}

impl HealthCheck {
    /// A check with Docker's defaults: every 30 s, for at most 30 s, three failures are too many.
    pub fn new(command: Vec<ByteString>) -> Self {
        Self {
            command,
            interval: interval(),
            timeout: timeout(),
            retries: retries(),
            start_period: Duration::ZERO,
            on_failure: HealthFailure::default(),
        }
    }

    /// Checks its values, as [`SandboxSpec::check_values`](super::SandboxSpec::check_values) does.
    ///
    /// # Errors
    /// [`SpecError::Health`].
    pub fn check(&self) -> Result<(), SpecError> {
        check(self)
    }
}

/// Checks the values.
pub(super) fn check(health: &HealthCheck) -> Result<(), SpecError> {
    let refused = |what: &'static str| Err(SpecError::Health(what));
    if health.command.first().is_none_or(|program| program.as_bytes().is_empty()) {
        return refused("its command is empty");
    }
    if health.command.iter().any(|part| part.as_bytes().contains(&0)) {
        return refused("its command contains a NUL byte");
    }
    if health.command.iter().map(|part| part.as_bytes().len() + 1).sum::<usize>() > HEALTH_COMMAND_MAX {
        return refused("its command has more than 3072 bytes; put it into a script in the rootfs");
    }
    if [health.interval, health.timeout].iter().any(|time| !(HEALTH_TIME_MIN..=HEALTH_TIME_MAX).contains(time)) {
        return refused("interval and timeout must be 100ms to 24h");
    }
    if health.start_period > HEALTH_TIME_MAX {
        return refused("its start period must be at most 24h");
    }
    if !(1..=HEALTH_RETRIES_MAX).contains(&health.retries) {
        return refused("retries must be 1 to 1000");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_refused() {
        let good = HealthCheck::new(vec!["true".into()]);
        assert!(check(&good).is_ok());
        let mut bad = Vec::new();
        let mut change = |edit: &dyn Fn(&mut HealthCheck)| {
            let mut health = good.clone();
            edit(&mut health);
            bad.push(health);
        };
        change(&|health| health.command.clear());
        change(&|health| health.command = vec!["".into()]);
        change(&|health| health.command = vec!["a".into(), "b\0".into()]);
        change(&|health| health.command = vec!["x".repeat(HEALTH_COMMAND_MAX).as_str().into()]);
        change(&|health| health.interval = Duration::ZERO);
        change(&|health| health.timeout = Duration::MAX);
        change(&|health| health.start_period = HEALTH_TIME_MAX + Duration::from_nanos(1));
        change(&|health| health.retries = 0);
        change(&|health| health.retries = HEALTH_RETRIES_MAX + 1);
        for health in bad {
            assert!(check(&health).is_err(), "{health:?}");
        }
        let read: HealthCheck = serde_json::from_str(r#"{"command": ["true"]}"#).unwrap();
        assert_eq!(read, good);
        assert!(!serde_json::to_string(&good).unwrap().contains("on_failure"));
        let read: HealthCheck = serde_json::from_str(r#"{"command": ["true"], "on_failure": "none"}"#).unwrap();
        assert_eq!(read, HealthCheck { on_failure: HealthFailure::None, ..good });
    }
}
