//! A point in time as users write it: a date, a time, or how long ago.

use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use crate::units::TimeSpan;

/// Formats without a zone, which are UTC as all times that are shown.
const WITHOUT_ZONE: [&str; 3] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M"];

/// Why a text is no point in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MomentError {
    /// No form that there is.
    #[error(
        "{0:?} is not a time; give a date (2026-01-31), a time (2026-01-31T12:00:00Z, UTC where no zone is given) or how long \
         ago (10m, 2h30m)"
    )]
    Form(String),
    /// Longer ago than there are dates.
    #[error("{0:?} ago is before the year 0")]
    TooLongAgo(String),
}

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Moment {
    /// This one.
    At(DateTime<Utc>),
    /// So long before whatever is now.
    Ago(Duration),
}

impl Moment {
    /// The time that is meant, asked at `now`.
    ///
    /// # Errors
    /// [`MomentError::TooLongAgo`].
    pub fn from(&self, now: DateTime<Utc>) -> Result<DateTime<Utc>, MomentError> {
        match self {
            Self::At(time) => Ok(*time),
            Self::Ago(ago) => {
                let too_long = || MomentError::TooLongAgo(humantime::format_duration(*ago).to_string());
                let delta = TimeDelta::from_std(*ago).map_err(|_| too_long())?;
                now.checked_sub_signed(delta).filter(|time| *time >= year_0()).ok_or_else(too_long)
            }
        }
    }
}

/// The first moment that RFC 3339 can say.
fn year_0() -> DateTime<Utc> {
    NaiveDate::from_ymd_opt(0, 1, 1).unwrap_or_default().and_time(chrono::NaiveTime::MIN).and_utc()
}

impl FromStr for Moment {
    type Err = MomentError;

    fn from_str(text: &str) -> Result<Self, MomentError> {
        if let Ok(time) = DateTime::parse_from_rfc3339(text) {
            return Ok(Self::At(time.to_utc()));
        }
        // `%Y` would take a sign and any number of digits.
        let is_date = text
            .split_once('-')
            .is_some_and(|(year, _)| year.len() == 4 && year.bytes().all(|byte| byte.is_ascii_digit()));
        if is_date {
            let with_time = || WITHOUT_ZONE.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
            let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").map(|date| date.and_time(chrono::NaiveTime::MIN));
            if let Some(time) = date.ok().or_else(with_time) {
                return Ok(Self::At(time.and_utc()));
            }
        }
        let span = text.parse::<TimeSpan>().map_err(|_| MomentError::Form(text.to_owned()))?;
        Ok(Self::Ago(span.duration()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Option<String> {
        let now = DateTime::parse_from_rfc3339("2026-01-31T12:00:00Z").unwrap().to_utc();
        text.parse::<Moment>().and_then(|moment| moment.from(now)).ok().map(|time| time.to_rfc3339())
    }

    #[test]
    fn dates_times_and_how_long_ago_are_times() {
        for (text, expected) in [
            ("2026-01-30", "2026-01-30T00:00:00+00:00"),
            ("2026-01-30T10:11:12Z", "2026-01-30T10:11:12+00:00"),
            ("2026-01-30T10:11:12.5+02:00", "2026-01-30T08:11:12.500+00:00"),
            ("2026-01-30T10:11:12", "2026-01-30T10:11:12+00:00"),
            ("2026-01-30 10:11:12.25", "2026-01-30T10:11:12.250+00:00"),
            ("2026-01-30T10:11", "2026-01-30T10:11:00+00:00"),
            ("0000-01-01", "0000-01-01T00:00:00+00:00"),
            ("9999-12-31", "9999-12-31T00:00:00+00:00"),
            ("10m", "2026-01-31T11:50:00+00:00"),
            ("2h30m", "2026-01-31T09:30:00+00:00"),
        ] {
            assert_eq!(at(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_in_words() {
        for text in
            ["", " ", "now", "yesterday", "-10m", "10", "0s", "2026-02-30", "2026-13-01", "10000-01-01", "+2026-01-01"]
        {
            assert_eq!(at(text), None, "{text:?}");
            assert!(text.parse::<Moment>().unwrap_err().to_string().contains("is not a time"), "{text:?}");
        }
        assert_eq!(at("9000years"), None, "before the year 0");
        assert_eq!(at("500000000000years"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[-+0-9TZ:. a-z]{0,24}") {
            let _ = at(&text);
        }
    }
}
