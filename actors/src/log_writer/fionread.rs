//! How many bytes wait in a pipe: an ioctl that the standard library does not offer.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::libc::{FIONREAD, c_int};

nix::ioctl_read_bad!(fionread, FIONREAD, c_int);

/// Bytes that can be read from `pipe` now.
pub(super) fn bytes_in_pipe(pipe: &OwnedFd) -> io::Result<u64> {
    let mut bytes: c_int = 0;
    // SAFETY: the descriptor is open for as long as the borrow, and FIONREAD writes one int.
    unsafe { fionread(pipe.as_raw_fd(), &raw mut bytes) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}
