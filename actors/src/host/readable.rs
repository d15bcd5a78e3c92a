//! Waiting until a descriptor can be read: registering a pipe, or the like, with epoll.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that is registered with epoll for as long as this lives.
pub(crate) type Registration = AsyncFd<Arc<OwnedFd>>;

/// Registers the read end of a pipe, an inotify or a timer. Must be called on a tokio runtime's thread.
///
/// # Errors
/// The system's, for example EPERM for a regular file, which is always readable.
pub(crate) fn register(pipe: &Arc<OwnedFd>) -> io::Result<Registration> {
    // SAFETY: an `OwnedFd` is a valid, open descriptor that it closes when it is dropped. Behind an
    // `Arc` nobody can take it out, replace it or close it while the `AsyncFd` holds its clone, so
    // the same number means the same open file for the whole life of the `AsyncFd`.
    let registered = unsafe { AsyncFd::register_with_interest(Arc::clone(pipe), Interest::READABLE) };
    registered.map_err(Into::into)
}
