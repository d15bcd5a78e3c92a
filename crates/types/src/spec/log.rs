//! How a sandbox's output is kept.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;

/// Most rotated files of one log: a rotation renames each of them.
pub const LOG_KEEP_MAX: u32 = 1000;

/// How large a log grows and how many files of it are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLimits {
    /// Bytes after which a log file is rotated, at least 4096.
    pub max_bytes: u64,
    /// Rotated files kept beside the current one, 1 to [`LOG_KEEP_MAX`]; more, which older versions took, is
    /// that many.
    pub keep: u32,
    /// What happens to output while the log cannot be written.
    #[serde(default)]
    pub backlog: LogBacklog,
}

impl Default for LogLimits {
    fn default() -> Self {
        Self { max_bytes: 10 << 20, keep: 5, backlog: LogBacklog::Block }
    }
}

/// What happens to a sandbox's output while its log cannot be written, or not fast enough.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogBacklog {
    /// It waits in its pipe, and the workload with it: nothing is lost.
    #[default]
    Block,
    /// It is read and dropped, counted, and the gap is marked in the log: the workload does not wait.
    Drop,
}

impl LogBacklog {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Block, Self::Drop];

    /// The word for it on the command line and in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Drop => "drop",
        }
    }
}

impl fmt::Display for LogBacklog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for LogBacklog {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let found = Self::ALL.into_iter().find(|backlog| backlog.as_str() == text);
        found.ok_or_else(|| SpecError::LogBacklog(text.to_owned()))
    }
}

/// Checks the values.
pub(super) fn check(log: LogLimits) -> Result<(), SpecError> {
    let LogLimits { max_bytes, keep, backlog: _ } = log;
    if max_bytes < 4096 || !(1..=LOG_KEEP_MAX).contains(&keep) {
        return Err(SpecError::Log { max_bytes, keep });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_is_read_as_it_is_written() {
        for backlog in LogBacklog::ALL {
            assert_eq!(backlog.to_string().parse(), Ok(backlog));
            assert_eq!(serde_json::to_value(backlog).unwrap(), backlog.as_str());
        }
        for text in ["", "Block", "keep"] {
            assert!(matches!(text.parse::<LogBacklog>(), Err(SpecError::LogBacklog(_))), "{text}");
        }
    }
}
