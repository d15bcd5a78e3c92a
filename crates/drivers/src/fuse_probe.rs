//! For tests: what a guest's kernel that speaks the file protocol (FUSE) as it likes gets out of the server of a shared
//! directory. A kernel as it is never asks for names with `/` or `..` in them, so that no workload can try this.
//!
//! ```text
//!   share/    file  null (a device node, where root made one)
//!   outside   victim                                               ◀── beside the share: what is to be reached
//! ```
//!
//! libkrun's server is part of its process: `__fuse_probe N` confines itself as that does, or not, makes the device and
//! is its guest. [`probe`](crate::confine::probe::probe) runs it. virtiofsd is a process, and the test its guest. A whole
//! microVM of libkrun has a guest that passes on what the test asks ([`RelayGuest`]).

mod attempts;
mod guest_queue;
#[cfg(feature = "krun-bundled")]
mod krun_device;
mod message;
mod relay;
mod vhost_user;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

pub use attempts::{lookup, names, outcomes, try_all};
pub use relay::RelayGuest;
pub use vhost_user::VirtiofsdGuest;

use crate::confine::Policy;

/// The hidden subcommand's name. The number of the first attempt follows; standard input is a [`FuseRequest`].
pub const SUBCOMMAND: &str = "__fuse_probe";

/// What is shared, and how the process confines itself before it serves it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FuseRequest {
    /// `None`: it does not.
    pub policy: Option<Policy>,
    /// The directory, absolute.
    pub share: PathBuf,
}

/// A server with a guest's kernel before it.
pub trait FileServer {
    /// Sends a request to it and waits for the reply: both without their headers.
    ///
    /// # Errors
    /// The reply's.
    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno>;
}

/// Runs the subcommand. Answers an exit code.
pub fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    #[cfg(feature = "krun-bundled")]
    let ran = krun_device::run(arguments);
    #[cfg(not(feature = "krun-bundled"))]
    let ran = Err::<(), _>(io::Error::other(format!("libkrun is not part of this program ({})", arguments.count())));
    match ran {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("fuse probe: {error}");
            1
        }
    }
}

/// A device's failure, as an error of the operation.
fn broken(error: &dyn std::fmt::Debug) -> io::Error {
    io::Error::other(format!("{error:?}"))
}
