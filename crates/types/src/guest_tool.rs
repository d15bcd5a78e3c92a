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
    /// A tar of a path on standard output. The code of its end is 0, or 1 where something is missing in it; standard error
    /// says what.
    Pack {
        /// Which, absolute or from `/`; of one that ends in `/.` what the directory holds.
        path: ByteString,
        /// A symbolic link is followed, if the path itself is one.
        follow: bool,
        /// All extended attributes go along, not `user.*` alone.
        archive: bool,
    },
    /// A tar from standard input, unpacked. The code of its end is 0, or 1 where something of it is not there; standard error
    /// says what.
    Unpack {
        /// Where, absolute or from `/`.
        path: ByteString,
        /// It has to be a directory, and gets all that the tar has. Else it is the destination of the one thing that the tar
        /// is of, by the rules of `docker cp`.
        directory: bool,
        /// Owners and all extended attributes are kept. Else all is root's, with `user.*` alone.
        archive: bool,
    },
}

impl GuestTool {
    /// The path that it is about.
    pub fn path(&self) -> Option<&ByteString> {
        match self {
            Self::Connect { .. } => None,
            Self::Pack { path, .. } | Self::Unpack { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for GuestTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { port } => write!(f, "connect to port {port}"),
            Self::Pack { path, .. } => write!(f, "copy from {}", path.as_os_str().display()),
            Self::Unpack { path, .. } => write!(f, "copy to {}", path.as_os_str().display()),
        }
    }
}
