//! When a sandbox that ended is started again, and how soon.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Longest pause before a restart that is accepted: a day.
pub const RESTART_PAUSE_MAX: Duration = Duration::from_hours(24);

/// When a sandbox that ended is started again. A stop or kill that was asked for is an end without a
/// restart; how `Always` and `UnlessStopped` differ, see there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartPolicy {
    /// Never.
    #[default]
    No,
    /// After FAILED or a non-zero exit, at most `max` times in a row (no limit if `None`).
    OnFailure {
        /// Most restarts in a row, from 1.
        max: Option<u32>,
    },
    /// After every end. One that was stopped by request stays so until the host restarts.
    Always,
    /// After every end; one that was stopped by request stays stopped.
    UnlessStopped,
}

impl fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max: None } => f.write_str("on-failure"),
            Self::OnFailure { max: Some(max) } => write!(f, "on-failure:{max}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

impl FromStr for RestartPolicy {
    type Err = SpecError;

    /// Reads `no`, `on-failure[:MAX]`, `always` or `unless-stopped`.
    fn from_str(text: &str) -> Result<Self, SpecError> {
        let refused = || SpecError::RestartPolicy(text.to_owned());
        match text.split_once(':') {
            Some(("on-failure", max)) if max.bytes().all(|byte| byte.is_ascii_digit()) => {
                let max = max.parse().ok().filter(|max| *max > 0).ok_or_else(refused)?;
                Ok(Self::OnFailure { max: Some(max) })
            }
            Some(_) => Err(refused()),
            None => match text {
                "no" => Ok(Self::No),
                "on-failure" => Ok(Self::OnFailure { max: None }),
                "always" => Ok(Self::Always),
                "unless-stopped" => Ok(Self::UnlessStopped),
                _ => Err(refused()),
            },
        }
    }
}

/// The pauses before restarts: each is random between nothing and a limit ("full jitter"), which
/// doubles with every restart in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestartBackoff {
    /// The limit for the first restart in a row; zero: no pauses at all.
    pub initial: Duration,
    /// The limit never grows beyond this, at most [`RESTART_PAUSE_MAX`].
    pub max: Duration,
    /// A workload that ran this long was healthy: its next restart counts as the first again.
    pub healthy_after: Duration,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self {
            initial: Duration::from_millis(100),
            max: Duration::from_mins(1),
            healthy_after: Duration::from_secs(10),
        }
    }
}

/// Checks what the fields alone cannot say.
pub(super) fn check(policy: RestartPolicy, backoff: RestartBackoff, remove_on_end: bool) -> Result<(), SpecError> {
    if policy == (RestartPolicy::OnFailure { max: Some(0) }) {
        return Err(SpecError::RestartPolicy("on-failure:0".to_owned()));
    }
    if backoff.initial > backoff.max || backoff.max > RESTART_PAUSE_MAX {
        return Err(SpecError::RestartBackoff { initial: backoff.initial, max: backoff.max });
    }
    if remove_on_end && policy != RestartPolicy::No {
        return Err(SpecError::RestartAndRemove(policy));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn policies_have_dockers_grammar() {
        for (text, policy) in [
            ("no", RestartPolicy::No),
            ("on-failure", RestartPolicy::OnFailure { max: None }),
            ("on-failure:1", RestartPolicy::OnFailure { max: Some(1) }),
            ("on-failure:4294967295", RestartPolicy::OnFailure { max: Some(u32::MAX) }),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
        ] {
            assert_eq!(text.parse::<RestartPolicy>().unwrap(), policy);
            assert_eq!(policy.to_string(), text);
        }
        for text in [
            "",
            "No",
            "never",
            "on-failure:",
            "on-failure:0",
            "on-failure:-1",
            "on-failure:+1",
            "on-failure:4294967296",
            "on-failure:1:2",
            "always:3",
            "unless-stopped ",
            "on_failure",
        ] {
            assert!(text.parse::<RestartPolicy>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let seconds = Duration::from_secs;
        let backoff = |initial, max| RestartBackoff { initial, max, ..RestartBackoff::default() };
        let always = RestartPolicy::Always;
        assert!(check(always, backoff(seconds(0), seconds(0)), false).is_ok());
        assert!(check(always, backoff(seconds(2), seconds(1)), false).is_err());
        assert!(check(always, backoff(seconds(1), RESTART_PAUSE_MAX + seconds(1)), false).is_err());
        assert!(check(always, RestartBackoff::default(), true).is_err());
        assert!(check(RestartPolicy::No, RestartBackoff::default(), true).is_ok());
        assert!(check(RestartPolicy::OnFailure { max: Some(0) }, RestartBackoff::default(), false).is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(on-failure:)?[ -~]{0,12}") {
            if let Ok(policy) = text.parse::<RestartPolicy>() {
                prop_assert_eq!(policy.to_string().parse::<RestartPolicy>().unwrap(), policy);
            }
        }
    }
}
