//! Holds up all who write to a file system, so that what is read of it belongs together.
#![allow(unsafe_code)] // two requests to a file system that neither nix nor rustix has

use std::os::fd::{AsFd, AsRawFd as _};

use nix::errno::Errno;
use nix::libc;

// `FIFREEZE` and `FITHAW` of linux/fs.h.
nix::ioctl_readwrite!(
    /// See [`freeze`].
    fs_freeze,
    b'X',
    119,
    libc::c_int
);
nix::ioctl_readwrite!(
    /// See [`thaw`].
    fs_thaw,
    b'X',
    120,
    libc::c_int
);

/// From now on who writes to the file system of `file` waits; what was written is on its disk.
///
/// # Errors
/// The kernel's: `EBUSY` where it is frozen already.
pub fn freeze(file: impl AsFd) -> Result<(), Errno> {
    let mut nothing = 0;
    // SAFETY: an open descriptor, and an argument that is alive, which the kernel does not look at.
    unsafe { fs_freeze(file.as_fd().as_raw_fd(), &raw mut nothing) }.map(drop)
}

/// They go on.
///
/// # Errors
/// The kernel's: `EINVAL` where it is not frozen.
pub fn thaw(file: impl AsFd) -> Result<(), Errno> {
    let mut nothing = 0;
    // SAFETY: as above.
    unsafe { fs_thaw(file.as_fd().as_raw_fd(), &raw mut nothing) }.map(drop)
}
