//! When something that failed is tried again.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use reqwest::header::{HeaderMap, RETRY_AFTER};
use sandpen_types::backoff::Pauses;

/// How often something is tried without any success in between.
pub(crate) const TRIES: u32 = 5;
/// The longest pause that a registry may ask for: what is longer is told to people instead.
pub(crate) const PAUSE_MAX: Duration = Duration::from_mins(1);
/// So many bytes make up for all failures before them.
pub(crate) const PROGRESS: u64 = 1 << 20;

/// The pause after so many failures in a row: what was asked for, or twice as long as the one before. Between a half
/// and one and a half of it, so that the many who failed at once do not come back at once.
pub(crate) fn pause(first: Duration, failures: u32, asked: Option<Duration>) -> Duration {
    match asked {
        Some(asked) => asked.min(PAUSE_MAX),
        None => Pauses::new(first, PAUSE_MAX).after(failures).mul_f64(0.5 + fastrand::f64()),
    }
}

/// What `Retry-After` says, seconds or a date (RFC 9110, 10.2.3).
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u32>() {
        return Some(Duration::from_secs(seconds.into()));
    }
    let at: DateTime<Utc> = DateTime::parse_from_rfc2822(text).ok()?.into();
    (at - DateTime::<Utc>::from(now)).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let first = Duration::from_millis(500);
        for (failures, around) in [(1, 500), (2, 1000), (3, 2000), (4, 4000)] {
            let pause = pause(first, failures, None).as_millis();
            assert!((around / 2..=around * 3 / 2).contains(&pause), "{failures}: {pause}");
        }
        assert_eq!(pause(first, 1, Some(Duration::from_secs(3))), Duration::from_secs(3));
        assert_eq!(pause(first, 1, Some(Duration::from_mins(5))), PAUSE_MAX);
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        for (text, expected) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", None),
            ("soon", None),
            ("-1", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]);
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{text}");
        }
    }
}
