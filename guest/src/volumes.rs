//! Mounts host directories beside the root, before the workload.
//!
//! It runs after the move into the new root, so a symbolic link there leads to another place inside
//! of it and to nowhere else.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use sandpen_guest::protocol::Volume;

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Its mount point is missing and cannot be made.
    #[error("the mount point {target:?} of a volume cannot be made; make that directory in the root directory")]
    MountPoint {
        /// The mount point.
        target: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is something else.
    #[error("the mount point {0:?} of a volume is not a directory")]
    NotADirectory(PathBuf),
    /// The mount was refused.
    #[error("mounting a volume on {target:?}")]
    Mount {
        /// The mount point.
        target: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// Mounts all of them, in their order.
pub fn mount_all(volumes: &[Volume]) -> Result<(), VolumeError> {
    volumes.iter().try_for_each(mount_one)
}

fn mount_one(volume: &Volume) -> Result<(), VolumeError> {
    let target = Path::new(OsStr::from_bytes(&volume.target));
    match fs::metadata(target) {
        Ok(meta) if meta.is_dir() => {}
        Ok(_) => return Err(VolumeError::NotADirectory(target.to_owned())),
        Err(_) => fs::create_dir_all(target)
            .map_err(|source| VolumeError::MountPoint { target: target.to_owned(), source })?,
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    // The host refuses writes by itself; with the flag, programs hear it in the usual words.
    flags.set(MsFlags::MS_RDONLY, volume.read_only);
    mount(Some(volume.tag.as_str()), target, Some("virtiofs"), flags, None::<&str>)
        .map_err(|source| VolumeError::Mount { target: target.to_owned(), source })
}
