//! A sandbox's state in a word: for users, queries and metrics.

use std::fmt;
use std::str::FromStr;

/// The state without its details. Its word is the database's and the users', upper case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// Known, never started.
    Created,
    /// The VMM process is being made or the guest boots.
    Starting,
    /// The workload runs.
    Running,
    /// The end has begun.
    Stopping,
    /// The workload ended and everything it wrote is on file.
    Stopped,
    /// It ended in a way that the workload did not choose.
    Failed,
    /// It ended and is started again later.
    Backoff,
}

impl Status {
    /// Every one, in the order of a life.
    pub const ALL: [Self; 7] =
        [Self::Created, Self::Starting, Self::Running, Self::Stopping, Self::Stopped, Self::Failed, Self::Backoff];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Starting => "STARTING",
            Self::Running => "RUNNING",
            Self::Stopping => "STOPPING",
            Self::Stopped => "STOPPED",
            Self::Failed => "FAILED",
            Self::Backoff => "BACKOFF",
        }
    }

    /// Whether a microVM may exist.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Running | Self::Stopping)
    }

    /// Whether nothing more happens without a new request.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Stopped | Self::Failed)
    }

    /// Whether something is going on, or will: live, or started again later.
    pub const fn is_active(self) -> bool {
        self.is_live() || matches!(self, Self::Backoff)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A word that is no status of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a state of a sandbox")]
pub struct NoSuchStatus(pub String);

impl FromStr for Status {
    type Err = NoSuchStatus;

    fn from_str(word: &str) -> Result<Self, NoSuchStatus> {
        let found = Self::ALL.into_iter().find(|status| status.as_str() == word);
        found.ok_or_else(|| NoSuchStatus(word.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_read_as_its_status_and_no_other_is() {
        for status in Status::ALL {
            assert_eq!(status.to_string().parse(), Ok(status));
            assert!(!(status.is_active() && status.is_ended()), "{status}");
        }
        for word in ["", "running", "RUNNING ", "PAUSED"] {
            assert_eq!(word.parse::<Status>(), Err(NoSuchStatus(word.to_owned())));
        }
    }
}
