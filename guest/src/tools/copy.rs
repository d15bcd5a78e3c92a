//! A tree of the sandbox as a tar on standard output, and one that is made of standard input: see `sandpen_tree`.
//!
//! ```text
//!   unpacking ─┬─ the end of the stream ──▶ all has its name ──▶ what was wrong is told
//!              └─ hung up ──▶ what has no name yet is removed
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::{Mode, umask};
use sandpen_tree::{
    Attributes, Destination, Owners, PackError, PackOptions, Report, Special, UnpackError, UnpackOptions, Wait,
};

use crate::pid1::error_chain;

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    /// Nothing more can be read.
    #[error(transparent)]
    Pack(#[from] PackError),
    /// Nothing more can be made.
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// Our own streams.
    #[error("the session's streams")]
    Streams(#[source] io::Error),
}

/// A path of the sandbox.
fn from_root(path: &[u8]) -> PathBuf {
    // Not `join`: a slash or dot at the end has a meaning.
    let path = if path.first() == Some(&b'/') { path.to_owned() } else { [b"/", path].concat() };
    OsStr::from_bytes(&path).into()
}

fn attributes(archive: bool) -> Attributes {
    if archive { Attributes::All } else { Attributes::User }
}

/// Writes a tar.
pub fn pack(path: &[u8], follow: bool, archive: bool) -> Result<(), String> {
    let options = PackOptions { follow, attributes: attributes(archive) };
    let packed =
        own(io::stdout().as_fd()).and_then(|out| Ok(sandpen_tree::pack_to_pipe(&from_root(path), options, out)?));
    told(packed)
}

/// Makes what a tar has.
pub fn unpack(path: &[u8], directory: bool, archive: bool) -> Result<(), String> {
    // What is made has the permissions that its tar says.
    umask(Mode::empty());
    let path = from_root(path);
    let destination = match directory {
        true => Destination::Directory(&path),
        false => Destination::Path { path: &path, name: None },
    };
    let options = UnpackOptions {
        owners: if archive { Owners::Keep } else { Owners::Root },
        special: Special::Make,
        attributes: attributes(archive),
        // The machine may be gone at any moment.
        wait: Wait::ForAll,
    };
    told(Input::new().and_then(|input| Ok(sandpen_tree::unpack(input, destination, options)?)))
}

/// What there is to say of it.
fn told(done: Result<Report, CopyError>) -> Result<(), String> {
    let report = done.map_err(|error| error_chain(&error))?;
    if report.notes.count() > 0 {
        super::say(&report.notes.to_string());
    }
    if report.problems.count() > 0 { Err(report.problems.to_string()) } else { Ok(()) }
}

/// A stream without a buffer.
fn own(stream: impl AsFd) -> Result<File, CopyError> {
    stream.as_fd().try_clone_to_owned().map(File::from).map_err(CopyError::Streams)
}

/// Standard input, which ends with an error when this is hung up.
struct Input {
    stdin: File,
    signals: SignalFd,
}

impl Input {
    fn new() -> Result<Self, CopyError> {
        let signals: SigSet = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        let failed = |errno: nix::errno::Errno| CopyError::Streams(errno.into());
        signals.thread_block().map_err(failed)?;
        let signals = SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC).map_err(failed)?;
        Ok(Self { stdin: own(io::stdin().as_fd())?, signals })
    }
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = PollFlags::POLLIN;
        let mut both = [PollFd::new(self.stdin.as_fd(), wanted), PollFd::new(self.signals.as_fd(), wanted)];
        poll(&mut both, PollTimeout::NONE)?;
        if both[1].any().unwrap_or(true) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the copy was given up"));
        }
        self.stdin.read(buffer)
    }
}
