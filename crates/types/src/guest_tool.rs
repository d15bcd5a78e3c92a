//! What a guest's own PID 1 does in a session, without any program of the sandbox's root.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

use crate::spec::ByteString;

/// A tool of the guest's. Without a user it runs as root, whoever the workload is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuestTool {
    /// A TCP connection to what listens in the sandbox on a loopback address: its bytes are the session's input and output.
    /// The code of its end is 0, or 1 where nobody listens; standard error says why.
    Connect {
        /// The port.
        port: NonZeroU16,
    },
    /// The sandbox's files: requests are the session's input and answers its output, both in frames of `sandpen-files`.
    Files,
    /// What happens to a file or in a directory: events are its output, in frames of `sandpen-files`. The code of its end
    /// is 1 when there is nothing more to watch; the last event says why.
    Watch {
        /// Which: absolute.
        path: ByteString,
        /// Whether directories below are watched as well.
        recursive: bool,
    },
}

impl fmt::Display for GuestTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { port } => write!(f, "connect to port {port}"),
            Self::Files => f.write_str("files"),
            Self::Watch { path, recursive } => {
                let below = if *recursive { " and all below" } else { "" };
                write!(f, "watch {}{below}", String::from_utf8_lossy(path.as_bytes()))
            }
        }
    }
}
