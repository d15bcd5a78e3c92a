//! Trees of directories that a guest has written: removed, and measured.
//!
//! Whoever wrote them may mean harm: nest deeper than there are descriptors or stack, make directories of millions of names,
//! and put a link in the place of a directory while it is looked at. So nothing in here recurses or joins paths. Every step
//! is one name in an open directory, no link is followed, and nothing that is mounted is entered. What is open and what is
//! in memory does not grow with the tree.
//!
//! Everything blocks, for as long as the tree is large.

mod removal;
#[cfg(test)]
mod tests;
mod usage;

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

pub use removal::remove;
pub use sandpen_cache::allocated_by;
pub use usage::{DEPTH_MAX, allocated};

/// How a directory is opened: itself, to be read, and without waiting for anybody.
const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Opens a directory in another one.
///
/// # Errors
/// `ENOTDIR` or `ELOOP` where it is none, `EXDEV` where something is mounted on it, and what open(2) says.
fn open_below(directory: BorrowedFd<'_>, name: &CStr, how: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    match openat2(directory, name, how, Mode::empty(), resolve) {
        // A kernel before 5.6, or a filter that does not know the call: a file system that is mounted from the same
        // device is entered then.
        Err(Errno::NOSYS | Errno::PERM) => {
            let opened = openat(directory, name, how, Mode::empty())?;
            if fstat(&opened)?.st_dev == fstat(directory)?.st_dev { Ok(opened) } else { Err(Errno::XDEV) }
        }
        opened => opened,
    }
}

/// Whether a name of a directory is not its own or its parent's.
fn is_entry(name: &CStr) -> bool {
    !matches!(name.to_bytes(), b"." | b"..")
}

/// `path` as its directory and its name in there.
fn split(path: &std::path::Path) -> io::Result<(OwnedFd, std::ffi::CString)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = if parent.as_os_str().is_empty() { std::path::Path::new(".") } else { parent };
    // Its own path is ours, and may lead over links.
    let opened = openat(rustix::fs::CWD, parent, DIRECTORY.difference(OFlags::NOFOLLOW), Mode::empty())?;
    Ok((opened, std::ffi::CString::new(name.as_encoded_bytes())?))
}
