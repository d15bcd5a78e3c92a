//! The query of `GET …/output`, as clients write it and the daemon reads it.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
use sandpen_types::log_start::LogStart;
use sandpen_types::output_stream::OutputStream;

/// Which output is wanted. `Display` is the query.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputQuery {
    /// Where to begin.
    pub from: LogStart,
    /// Whether to go on until the sandbox has ended.
    pub follow: bool,
    /// Only this stream.
    pub stream: Option<OutputStream>,
    /// Nothing before the first byte that was written at this time or later.
    pub since: Option<DateTime<Utc>>,
    /// Nothing after the last byte that was written before this time.
    pub until: Option<DateTime<Utc>>,
}

/// Not before this time, and before that one.
pub type TimeWindow = (Option<DateTime<Utc>>, Option<DateTime<Utc>>);

/// A place to begin at that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputQueryError {
    /// Two of them.
    #[error("tail goes with no from but generation:NUMBER")]
    Both,
    /// None that there is.
    #[error("from={0:?} is not oldest, generation, generation:NUMBER or a position")]
    From(String),
    /// No time.
    #[error("{key}={value:?} is not a time in RFC 3339, for example 2026-01-31T12:00:00Z")]
    Time {
        /// `since` or `until`.
        key: &'static str,
        /// What it says.
        value: String,
    },
    /// A window that holds nothing.
    #[error("since={} is not before until={}: nothing was written between them", text(*.since), text(*.until))]
    Window {
        /// Its begin.
        since: DateTime<Utc>,
        /// Its end.
        until: DateTime<Utc>,
    },
}

/// A time as queries have it.
fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

impl OutputQuery {
    /// What the keys `since` and `until` say together.
    ///
    /// # Errors
    /// One is no time, or nothing can be between them.
    pub fn window(since: Option<&str>, until: Option<&str>) -> Result<TimeWindow, OutputQueryError> {
        let read = |key: &'static str, value: Option<&str>| {
            let time = value.map(|value| DateTime::parse_from_rfc3339(value).map_err(|_| value.to_owned())).transpose();
            time.map(|time| time.map(|time| time.to_utc())).map_err(|value| OutputQueryError::Time { key, value })
        };
        Self::check_window(read("since", since)?, read("until", until)?)
    }

    /// Both times, unless nothing can be between them.
    ///
    /// # Errors
    /// The first is not before the second.
    pub fn check_window(
        since: Option<DateTime<Utc>>,
        until: Option<DateTime<Utc>>,
    ) -> Result<TimeWindow, OutputQueryError> {
        match (since, until) {
            (Some(since), Some(until)) if since >= until => Err(OutputQueryError::Window { since, until }),
            window => Ok(window),
        }
    }

    /// What the keys `from` and `tail` say together.
    ///
    /// # Errors
    /// They do not go together, or make no sense.
    pub fn start(from: Option<&str>, tail: Option<usize>) -> Result<LogStart, OutputQueryError> {
        match (from, tail) {
            (Some(from), Some(lines)) => match Self::start(Some(from), None)? {
                LogStart::Generation(generation) => Ok(LogStart::TailOf { lines, generation }),
                _ => Err(OutputQueryError::Both),
            },
            (None, Some(lines)) => Ok(LogStart::Tail(lines)),
            (None | Some("oldest"), None) => Ok(LogStart::Oldest),
            (Some("generation"), None) => Ok(LogStart::LatestGeneration),
            (Some(from), None) => {
                let start = match from.strip_prefix("generation:") {
                    Some(number) => number.parse().map(LogStart::Generation),
                    None => from.parse().map(LogStart::Position),
                };
                start.map_err(|_| OutputQueryError::From(from.to_owned()))
            }
        }
    }
}

impl fmt::Display for OutputQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "follow={}", self.follow)?;
        match self.from {
            LogStart::Oldest => {}
            LogStart::LatestGeneration => f.write_str("&from=generation")?,
            LogStart::Generation(number) => write!(f, "&from=generation:{number}")?,
            LogStart::Position(position) => write!(f, "&from={position}")?,
            LogStart::Tail(lines) => write!(f, "&tail={lines}")?,
            LogStart::TailOf { lines, generation } => write!(f, "&tail={lines}&from=generation:{generation}")?,
        }
        self.stream.map_or(Ok(()), |stream| write!(f, "&stream={stream}"))?;
        self.since.map_or(Ok(()), |since| write!(f, "&since={}", text(since)))?;
        self.until.map_or(Ok(()), |until| write!(f, "&until={}", text(until)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn queries_are_those_of_version_1() {
        let whole = OutputQuery::default();
        let stderr = OutputQuery { follow: true, stream: Some(OutputStream::Stderr), ..whole };
        for (query, expected) in [
            (whole, "follow=false"),
            (stderr, "follow=true&stream=stderr"),
            (OutputQuery { from: LogStart::Generation(3), ..whole }, "follow=false&from=generation:3"),
            (OutputQuery { from: LogStart::LatestGeneration, ..whole }, "follow=false&from=generation"),
            (OutputQuery { from: LogStart::Position(17), ..stderr }, "follow=true&from=17&stream=stderr"),
            (OutputQuery { from: LogStart::Tail(20), ..whole }, "follow=false&tail=20"),
            (
                OutputQuery { from: LogStart::TailOf { lines: 20, generation: 3 }, ..whole },
                "follow=false&tail=20&from=generation:3",
            ),
        ] {
            assert_eq!(query.to_string(), expected);
        }
    }

    #[test]
    fn times_are_read_as_they_are_written_and_anything_else_is_refused() {
        let time = |text: &str| Some(DateTime::parse_from_rfc3339(text).unwrap().to_utc());
        let (since, until) = (time("2026-01-31T12:00:00.123456Z"), time("2026-02-01T00:00:00Z"));
        let query = OutputQuery { since, until, ..OutputQuery::default() };
        let written = "follow=false&since=2026-01-31T12:00:00.123456Z&until=2026-02-01T00:00:00Z";
        assert_eq!(query.to_string(), written);
        let read = OutputQuery::window(Some("2026-01-31T13:00:00.123456+01:00"), Some("2026-02-01T00:00:00Z"));
        assert_eq!(read, Ok((since, until)));
        assert!(OutputQuery::window(Some("0000-01-01T00:00:00Z"), Some("9999-12-31T23:59:59Z")).is_ok());
        for odd in ["", "now", "10m", "-1", "2026-02-30T00:00:00Z", "2026-01-31", "10000-01-01T00:00:00Z", "1e9"] {
            let refused = OutputQuery::window(None, Some(odd)).unwrap_err().to_string();
            assert!(refused.contains("until=") && refused.contains("RFC 3339"), "{refused}");
        }
        let refused = OutputQuery::window(Some("2026-02-01T00:00:00Z"), Some("2026-02-01T00:00:00Z")).unwrap_err();
        assert!(refused.to_string().contains("since=2026-02-01T00:00:00Z is not before"), "{refused}");
    }

    fn start() -> impl Strategy<Value = LogStart> {
        prop_oneof![
            Just(LogStart::Oldest),
            Just(LogStart::LatestGeneration),
            any::<u64>().prop_map(LogStart::Generation),
            any::<u64>().prop_map(LogStart::Position),
            any::<usize>().prop_map(LogStart::Tail),
            any::<(usize, u64)>().prop_map(|(lines, generation)| LogStart::TailOf { lines, generation }),
        ]
    }

    proptest! {
        #[test]
        fn a_start_is_read_as_it_is_written(from in start()) {
            let query = OutputQuery { from, ..OutputQuery::default() }.to_string();
            let key = |key: &str| query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
            prop_assert_eq!(OutputQuery::start(key("from"), key("tail").map(|lines| lines.parse().unwrap())), Ok(from));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(generation)?:?[0-9a-z+-]{0,24}") {
            if let Ok(from) = OutputQuery::start(Some(&text), None) {
                prop_assert!(!matches!(from, LogStart::Tail(_)));
            }
        }
    }
}
