//! What PID 1 does itself in a session, without any program of the root.
//!
//! Variants are encoded by their position and fields by their order: add new variants at the end only, and change none.

use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::protocol::Bytes;

/// See [`SessionProgram::Tool`](super::SessionProgram::Tool). It runs in a process of its own, as the session's user, or root
/// without one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tool {
    /// A TCP connection to a loopback address: its bytes are the session's input and output.
    Connect {
        /// Where somebody listens.
        port: NonZeroU16,
    },
    /// The root's files: requests of `sandpen-files` are the input, its answers the output.
    Files,
    /// What happens to a file or in a directory: events of `sandpen-files` are the output.
    Watch {
        /// Which: absolute.
        path: Bytes,
        /// Whether directories below are watched as well.
        recursive: bool,
    },
}
