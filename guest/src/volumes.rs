//! What is mounted below the root before the workload runs: directories and files of the host, and file systems in
//! memory.
//!
//! It runs after the move into the new root, so a symbolic link there leads to another place inside
//! of it and to nowhere else.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sandpen_guest::protocol::{Begin, Tmpfs, VOLUME_FILE, Volume};

/// Where the share of one file is mounted before that file is; `/dev` is a file system of ours.
const STAGING: &str = "/dev/.volume";

/// Why a volume is not there.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// Its mount point is missing and cannot be made.
    #[error("the mount point {target:?} of a volume or tmpfs cannot be made; make it in the root directory")]
    MountPoint {
        /// The mount point.
        target: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is something else.
    #[error("the mount point {0:?} of a volume or tmpfs is not a directory")]
    NotADirectory(PathBuf),
    /// A directory in the place of a file.
    #[error("the mount point {0:?} of a volume that is a file is a directory")]
    Directory(PathBuf),
    /// The mount was refused.
    #[error("mounting a volume or tmpfs on {target:?}")]
    Mount {
        /// The mount point.
        target: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
}

/// One of them.
enum Wanted<'a> {
    Directory(&'a Volume),
    File(&'a Volume),
    Memory(&'a Tmpfs),
}

impl Wanted<'_> {
    fn target(&self) -> &Path {
        let (Self::Directory(Volume { target, .. })
        | Self::File(Volume { target, .. })
        | Self::Memory(Tmpfs { target, .. })) = self;
        Path::new(OsStr::from_bytes(target))
    }
}

/// Mounts all of them, what lies in another one after that.
pub fn mount_all(begin: &Begin) -> Result<(), VolumeError> {
    let volumes = begin.start.volumes.iter().map(|volume| {
        if begin.settings.files.contains(&volume.tag) { Wanted::File(volume) } else { Wanted::Directory(volume) }
    });
    let mut wanted: Vec<_> = volumes.chain(begin.settings.tmpfs.iter().map(Wanted::Memory)).collect();
    wanted.sort_by_key(|wanted| wanted.target().components().count());
    wanted.iter().try_for_each(mount_one)
}

/// Whether a file of the host is mounted there.
pub fn is_given(begin: &Begin, path: &str) -> bool {
    let volumes = begin.start.volumes.iter().filter(|volume| begin.settings.files.contains(&volume.tag));
    volumes.into_iter().any(|volume| volume.target.as_slice() == path.as_bytes())
}

fn mount_one(wanted: &Wanted<'_>) -> Result<(), VolumeError> {
    let target = wanted.target();
    let no_mount_point = |source| VolumeError::MountPoint { target: target.to_owned(), source };
    match (wanted, fs::metadata(target)) {
        (Wanted::File(_), Ok(meta)) if meta.is_dir() => return Err(VolumeError::Directory(target.to_owned())),
        (Wanted::File(_), Ok(_)) => {}
        (_, Ok(meta)) if meta.is_dir() => {}
        (_, Ok(_)) => return Err(VolumeError::NotADirectory(target.to_owned())),
        (Wanted::File(_), Err(_)) => make_file(target).map_err(no_mount_point)?,
        (_, Err(_)) => fs::create_dir_all(target).map_err(no_mount_point)?,
    }
    let failed = |source| VolumeError::Mount { target: target.to_owned(), source };
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    match wanted {
        Wanted::Directory(volume) => {
            // The host refuses writes by itself; with the flag, programs hear it in the usual words.
            flags.set(MsFlags::MS_RDONLY, volume.read_only);
            mount(Some(volume.tag.as_str()), target, Some("virtiofs"), flags, None::<&str>).map_err(failed)
        }
        Wanted::File(volume) => {
            flags.set(MsFlags::MS_RDONLY, volume.read_only);
            mount_file(volume, target, flags).map_err(failed)
        }
        Wanted::Memory(tmpfs) => {
            flags.set(MsFlags::MS_NOEXEC, !tmpfs.exec);
            let (uid, gid) = tmpfs.owner;
            let size = tmpfs.bytes.map_or_else(String::new, |bytes| format!(",size={bytes}"));
            let options = format!("mode={:o},uid={uid},gid={gid}{size}", tmpfs.mode);
            mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options.as_str())).map_err(failed)
        }
    }
}

/// A mount point that is a file.
fn make_file(target: &Path) -> io::Result<()> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    OpenOptions::new().write(true).create_new(true).open(target).map(drop)
}

/// The one file of a share, alone.
fn mount_file(volume: &Volume, target: &Path, flags: MsFlags) -> Result<(), Errno> {
    match fs::create_dir(STAGING) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO)));
        }
        _ => {}
    }
    mount(Some(volume.tag.as_str()), STAGING, Some("virtiofs"), flags, None::<&str>)?;
    let file = Path::new(STAGING).join(VOLUME_FILE);
    let bound = mount(Some(&file), target, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    // What is bound stays.
    umount2(STAGING, MntFlags::MNT_DETACH)?;
    let _ = fs::remove_dir(STAGING);
    bound
}
