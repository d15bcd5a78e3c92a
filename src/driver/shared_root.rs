//! The host directory that becomes a guest's root, and what to warn of.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::{AccessFlags, access};
use sandpen_actors::driver::DriverError;
use sandpen_actors::spec::Rootfs;

use super::waited::failed;

/// Why the root directory cannot be shared.
#[derive(Debug, thiserror::Error)]
#[error("the root directory {path:?} cannot be used by this user; it must be readable and not locked away")]
struct RootfsError {
    path: PathBuf,
    #[source]
    source: Errno,
}

/// The directory that becomes the guest's root.
pub(super) fn find(rootfs: &Rootfs, driver: &str) -> Result<String, DriverError> {
    let unsupported = |what: &str| DriverError::Unsupported { driver: driver.to_owned(), what: what.to_owned() };
    let path = match rootfs {
        Rootfs::Native(path) => path,
        Rootfs::Overlayfs(_) => {
            return Err(unsupported("an overlayfs rootfs; use native: with one directory"));
        }
    };
    // Here with words of our own: a VMM or virtiofsd would only be found dead.
    access(path, AccessFlags::R_OK | AccessFlags::X_OK)
        .map_err(|source| failed("sharing the root directory", RootfsError { path: path.clone(), source }))?;
    warn_if_exposed(path);
    // Both virtiofsd and libkrun take text.
    path.to_str().map(str::to_owned).ok_or_else(|| unsupported("a rootfs whose path is not UTF-8; rename it"))
}

/// The guest of a root's sandbox can make setuid programs: others on this host must not get there.
fn warn_if_exposed(path: &Path) {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let reachable = path.ancestors().all(|directory| {
        std::fs::metadata(directory).is_ok_and(|meta| meta.uid() == 0 && meta.permissions().mode() & 0o011 != 0)
    });
    let no_suid =
        nix::sys::statvfs::statvfs(path).is_ok_and(|fs| fs.flags().contains(nix::sys::statvfs::FsFlags::ST_NOSUID));
    if reachable && !no_suid {
        tracing::warn!(
            rootfs = ?path,
            "other users can reach this directory, and its guest can make setuid-root programs in it; \
             put it below a directory of mode 0700 or on a file system mounted nosuid,nodev"
        );
    }
}
