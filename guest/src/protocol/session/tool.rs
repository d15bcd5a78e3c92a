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
    /// What was written to the root, where that is a disk over an image: a tar, as a layer of an image is one. Nobody writes
    /// to the disk meanwhile.
    Changes,
    /// The root's files: requests of `sandpen-files` are the input, its answers the output.
    Files,
    /// What happens to a file or in a directory: events of `sandpen-files` are the output.
    Watch {
        /// Which: absolute.
        path: Bytes,
        /// Whether directories below are watched as well.
        recursive: bool,
    },
    /// A tar of a path on standard output. Its end is code 0, or 1 where something is missing in it.
    Pack {
        /// Which, from `/`; what it means, `sandpen_tree::top` says.
        path: Bytes,
        /// A symbolic link is followed, if the path itself is one.
        follow: bool,
        /// All extended attributes go along, not those of users alone.
        archive: bool,
    },
    /// A tar from standard input, unpacked. Its end is code 0, or 1 where something of it is not there.
    Unpack {
        /// Where, from `/`.
        path: Bytes,
        /// It has to be a directory, and gets all that the tar has; else the rules of `sandpen_tree::Destination` hold.
        directory: bool,
        /// Owners and all extended attributes are kept. Else all is root's, with the attributes of users alone.
        archive: bool,
    },
}
