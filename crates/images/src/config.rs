//! The configuration of an image: what is in it, in which order, and how its program is started.
//!
//! Sources: the OCI image specification 1.1 (config.md) and Docker's image specification 1.2, of which the first is a
//! subset but for `Healthcheck` and `Shell`. Structs of our own read it and not the crate `oci-spec`: that one has no
//! health checks, refuses the `null`s that Docker writes, bounds nothing, and its errors name no field.
//!
//! What is read here is never written again: the digest of a configuration is that of the bytes as they came, so
//! whoever keeps or passes on an image keeps those ([`ImageConfig::parse`] borrows them only).
//!
//! Where the specifications leave something open it is as Docker has it: a command that is one string is a list of
//! it, a variable without `=` is not set, and of a variable given twice the later value counts.

mod raw;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandpen_types::image::ImageDigest;

use crate::json::{self, JsonError, shown};
use crate::platform::Platform;

/// Most layers of an image: as many as Docker's `overlay2` mounts.
pub const LAYERS_MAX: usize = 127;
/// Most steps in the history of an image, those without a layer included.
pub const HISTORY_MAX: usize = 4096;
/// Most items of any other list or map.
pub const ITEMS_MAX: usize = 16_384;

/// The configuration of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// What it runs on: `os`, `architecture` and `variant`.
    pub platform: Platform,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// Who answers for it.
    pub author: Option<String>,
    /// Digests of its layers' content, unpacked, the lowest first. An image may have none.
    pub diff_ids: Vec<ImageDigest>,
    /// How it was made, the first step first. Nothing depends on it: tools write it with gaps.
    pub history: Vec<HistoryEntry>,
    /// How a container of it runs.
    pub container: ContainerConfig,
}

/// A step in the making of an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryEntry {
    /// When.
    pub created: Option<DateTime<Utc>>,
    /// By which command.
    pub created_by: Option<String>,
    /// By whom.
    pub author: Option<String>,
    /// Words about it.
    pub comment: Option<String>,
    /// Whether it made no layer.
    pub empty_layer: bool,
}

/// How a container of an image runs (`config`). Paths, users and ports are as the image says them: what they mean is
/// looked up in its file system when it starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerConfig {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Arguments behind those, or the program if there are none.
    pub cmd: Vec<String>,
    /// The environment, each name once, in order.
    pub env: Vec<(String, String)>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// `USER[:GROUP]`, names or numbers.
    pub user: Option<String>,
    /// The signal that asks it to end, a name or a number.
    pub stop_signal: Option<String>,
    /// What its makers say about it.
    pub labels: BTreeMap<String, String>,
    /// Directories that are to outlive a container.
    pub volumes: BTreeSet<String>,
    /// Ports it listens on, `PORT[/PROTOCOL]`.
    pub exposed_ports: BTreeSet<String>,
    /// How its health is asked for (Docker's extension).
    pub healthcheck: Option<Healthcheck>,
    /// The shell of commands that are text (Docker's extension); empty is the system's.
    pub shell: Vec<String>,
}

/// How a container's health is asked for. A time that is absent is for the caller to choose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// The command.
    pub test: HealthTest,
    /// Between two tests.
    pub interval: Option<Duration>,
    /// For one test.
    pub timeout: Option<Duration>,
    /// For starting, in which failures do not count.
    pub start_period: Option<Duration>,
    /// Between two tests while it starts.
    pub start_interval: Option<Duration>,
    /// Failures, one after the other, that make it unhealthy.
    pub retries: Option<u32>,
}

/// The command of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthTest {
    /// There is none, and none of an image below counts (`NONE`).
    Disabled,
    /// A program and its arguments (`CMD`).
    Exec(Vec<String>),
    /// A command for the shell, and what else stands behind it (`CMD-SHELL`).
    Shell(Vec<String>),
}

/// A configuration that is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("the image's configuration cannot be read: {0}")]
    Json(#[from] JsonError),
    /// A field says what cannot be.
    #[error("the image's configuration is of no use: {field} {reason}")]
    Field {
        /// Its path from the top.
        field: String,
        /// In words.
        reason: String,
    },
}

impl ImageConfig {
    /// Reads a configuration of at most [`json::DOCUMENT_MAX`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        json::parse::<raw::RawConfig>(bytes)?.checked()
    }
}

/// The error of a field.
pub(crate) fn refused(field: &str, reason: impl Into<String>) -> ConfigError {
    ConfigError::Field { field: shown(field), reason: reason.into() }
}
