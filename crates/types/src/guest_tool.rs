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
    /// What was written to the sandbox's root, where that is a disk over an image: a tar on standard output, as a layer of an
    /// image is one. Nobody writes to the disk meanwhile.
    Changes,
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
    /// Whether it can be had of a sandbox that has ended: it needs its files and nothing that runs.
    pub fn is_for_ended(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Watch { .. } => false,
            Self::Changes | Self::Files | Self::Pack { .. } | Self::Unpack { .. } => true,
        }
    }

    /// The path that it is about.
    pub fn path(&self) -> Option<&ByteString> {
        match self {
            Self::Connect { .. } | Self::Changes | Self::Files => None,
            Self::Watch { path, .. } | Self::Pack { path, .. } | Self::Unpack { path, .. } => Some(path),
        }
    }
}

impl fmt::Display for GuestTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect { port } => write!(f, "connect to port {port}"),
            Self::Changes => f.write_str("changes of the root"),
            Self::Files => f.write_str("files"),
            Self::Watch { path, recursive } => {
                let below = if *recursive { " and all below" } else { "" };
                write!(f, "watch {}{below}", String::from_utf8_lossy(path.as_bytes()))
            }
            Self::Pack { path, .. } => write!(f, "copy from {}", path.as_os_str().display()),
            Self::Unpack { path, .. } => write!(f, "copy to {}", path.as_os_str().display()),
        }
    }
}
