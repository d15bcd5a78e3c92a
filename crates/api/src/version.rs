//! Who answers.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/version`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// [`NAME`](crate::NAME).
    pub name: String,
    /// The daemon's version.
    pub version: String,
    /// [`API_VERSION`](crate::API_VERSION).
    pub api: u32,
    /// The daemon's process.
    pub pid: u32,
    /// Its state directory.
    pub state_dir: PathBuf,
}
