//! What a daemon in the background tells its parent.

use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// One line of JSON on the daemon's standard output, once: it serves, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Readiness {
    /// The socket is there.
    Serving {
        /// The daemon's process.
        pid: u32,
    },
    /// It could not start.
    Failed(ErrorDetail),
}
