//! What a health check has said of a sandbox.

use serde::{Deserialize, Serialize};

/// What a health check says.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HealthState {
    /// In a word.
    pub status: HealthStatus,
    /// Failures in a row that count.
    pub failures: u32,
    /// How the last failure ended, and the last of what it wrote; empty after a success.
    pub output: String,
}

/// See [`HealthState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthStatus {
    /// No success yet, and no failure that counts.
    #[default]
    Starting,
    /// The last check succeeded.
    Healthy,
    /// The last check failed.
    Failing,
}

impl HealthStatus {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Starting, Self::Healthy, Self::Failing];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Failing => "failing",
        }
    }
}
