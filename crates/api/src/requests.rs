//! What is asked of a live sandbox and of the daemon, beside specifications; and short answers.

use sandpen_types::signal::Signal;
use sandpen_types::spec::SandboxKey;
use serde::{Deserialize, Serialize};

/// Grace in milliseconds where a request names none.
pub const GRACE_DEFAULT_MS: u64 = 10_000;
/// Longest grace that is accepted: a day, in milliseconds.
pub const GRACE_MAX_MS: u64 = 24 * 60 * 60 * 1000;

fn grace_default() -> u64 {
    GRACE_DEFAULT_MS
}

/// Body of `POST …/stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    /// How long the workload may take after it was asked, in milliseconds.
    #[serde(default = "grace_default")]
    pub grace_ms: u64,
    /// The signal that asks it, by its number; without, that of its specification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<Signal>,
}

/// Body of `POST …/rename`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    /// The new name.
    pub to: SandboxKey,
}

/// Body of `POST …/kill`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KillRequest {
    /// The signal's number, 1 to 64; 9 ends the VMM process itself.
    pub signal: i32,
}

/// Body of `POST /v1/shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShutdownRequest {
    /// Whether sandboxes are stopped; otherwise they run on for the next daemon.
    #[serde(default)]
    pub stop_sandboxes: bool,
    /// How long workloads may take after SIGTERM, in milliseconds.
    #[serde(default = "grace_default")]
    pub grace_ms: u64,
}

/// Answer of `POST /v1/shutdown`, when the state directory is free again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReply {
    /// The daemon's process, which ends now.
    pub pid: u32,
}

/// Answer of `POST …/stdin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StdinReply {
    /// Bytes that were passed on before stdin was closed.
    pub bytes: u64,
}
