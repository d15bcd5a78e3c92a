//! The query of `GET …/output`, as clients write it and the daemon reads it.

use std::fmt;

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
}

/// A place to begin at that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OutputQueryError {
    /// Two of them.
    #[error("tail goes with no from but generation:NUMBER")]
    Both,
    /// None that there is.
    #[error("from={0:?} is not oldest, generation, generation:NUMBER or a position")]
    From(String),
}

impl OutputQuery {
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
        self.stream.map_or(Ok(()), |stream| write!(f, "&stream={stream}"))
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
