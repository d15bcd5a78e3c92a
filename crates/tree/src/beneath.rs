//! Opens what lies below a directory, and nothing else: no symbolic link on the way, no `..`, no way out.

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::{Errno, Result};

/// How often something is tried that is moved about meanwhile.
const TRIES: u32 = 128;

/// Opens a path below `directory`; the empty one is the directory itself.
pub fn open(directory: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd> {
    create(directory, path, flags, Mode::empty())
}

/// The same for what may have to be made first.
pub fn create(directory: impl AsFd, path: &[u8], flags: OFlags, mode: Mode) -> Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    for _ in 0..TRIES {
        match openat2(&directory, path, flags, mode, resolve) {
            // Something was renamed on the way, or a signal came.
            Err(Errno::AGAIN | Errno::INTR) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens a name in `directory` that may be a symbolic link: that itself, by its place (`O_PATH`).
pub fn open_last(directory: impl AsFd, name: &[u8], flags: OFlags) -> Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    openat(directory, name, flags, Mode::empty())
}
