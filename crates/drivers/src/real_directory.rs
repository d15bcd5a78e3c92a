//! A directory or file of the user's by its real path: opened without following a link in any part of it.
//!
//! The path was made real when the sandbox was asked for. If a part of it is a link by now, somebody who may write
//! there has put it there since, perhaps another sandbox's guest: where it leads to was never asked for.

use std::io;
use std::path::Path;

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, StatxFlags, openat2, statx};
use serde::{Deserialize, Serialize};

/// Tells a directory from any other that could come to have its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    device: (u32, u32),
    inode: u64,
}

/// Opens it for more than its place, as `how` says.
///
/// # Errors
/// `ELOOP` where a part of the path is a link; others as the system says.
pub(super) fn open(path: &Path, how: OFlags) -> io::Result<OwnedFd> {
    let how = how | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

/// Opens it as a place alone (`O_PATH`): to look at it, to mount it, to start from it.
///
/// # Errors
/// As [`open`].
pub(super) fn open_place(path: &Path) -> io::Result<OwnedFd> {
    open(path, OFlags::PATH)
}

/// The same of a file.
///
/// # Errors
/// As [`open`].
pub(super) fn open_file_place(path: &Path) -> io::Result<OwnedFd> {
    let how = OFlags::PATH | OFlags::CLOEXEC;
    Ok(openat2(CWD, path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS)?)
}

/// Which one is open.
///
/// # Errors
/// What the system said.
pub(super) fn identity(directory: impl AsFd) -> io::Result<Identity> {
    let meta = statx(directory, "", AtFlags::EMPTY_PATH, StatxFlags::INO)?;
    Ok(Identity { device: (meta.stx_dev_major, meta.stx_dev_minor), inode: meta.stx_ino })
}

/// Whether an error of [`open`] says that a part of the path is a link.
pub(super) fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn no_part_of_a_path_may_be_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::write(base.join("file"), "").unwrap();
        symlink("a", base.join("link")).unwrap();
        symlink("../a/b", base.join("a/last")).unwrap();
        let opened = open_place(&base.join("a/b")).unwrap();
        let same = open_place(&base.join("a/../a/b")).unwrap();
        assert_eq!(identity(&opened).unwrap(), identity(&same).unwrap());
        assert_ne!(identity(&opened).unwrap(), identity(open_place(&base).unwrap()).unwrap());
        for path in ["link/b", "link", "a/last", "link/../a"] {
            assert!(is_link(&open_place(&base.join(path)).unwrap_err()), "{path}");
        }
        assert!(is_link(&open_place(Path::new("/proc/self/root/tmp")).unwrap_err()));
        for path in ["file", "gone"] {
            assert!(!is_link(&open_place(&base.join(path)).unwrap_err()), "{path}");
        }
    }
}
