//! A root of read-only layers (shared directories, disks of them, or an image) under a writable one on a disk of
//! the sandbox's own.
//!
//! Everything is mounted in here: on the host there is nothing to clean up, and two sandboxes over
//! the same directories have nothing in common that they could write to.
//!
//! ```text
//!   tmpfs on STAGING ─▶ lower-0, lower-1 … ─▶ disk (ext4: upper/, work/) ─▶ root (overlay)
//! ```
//!
//! Over an image a directory that is renamed is copied (`redirect_dir=off`), as everywhere that images are run: what is on
//! the disk then means the same over other layers, and can become a layer itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::blocks::FileSystem;

/// Why there is no such root.
#[derive(Debug, thiserror::Error)]
pub enum OverlayError {
    /// The kernel knows no such file system.
    #[error(
        "mounting {what}: the guest's kernel has no file system {kind}; install one that has it (sandpen kernel install), \
         or give one with --kernel that has it built in"
    )]
    NoFileSystem {
        /// What was mounted.
        what: String,
        /// Of which kind.
        kind: String,
    },
    /// A mount was refused.
    #[error("mounting {what}")]
    Mount {
        /// What was mounted.
        what: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// A directory could not be made.
    #[error("making {path:?}")]
    Make {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A read-only layer.
#[derive(Debug, Clone, Copy)]
pub enum Layer<'a> {
    /// A directory of the host, by its virtiofs tag.
    Shared(&'a str),
    /// A disk, by its device, and what is on it.
    Disk(&'a str, FileSystem),
    /// What is mounted there already.
    Mounted(&'a str),
}

/// A mounted root.
#[derive(Debug)]
pub struct Root {
    /// Where.
    pub path: PathBuf,
    /// Whether nothing was ever written to it.
    pub is_new: bool,
    /// What was written to it, and nothing else: the topmost layer's directory.
    pub upper: OwnedFd,
}

/// Mounts the root below `staging`; answers where. The topmost of `lowers` comes first.
pub fn mount_below(staging: &Path, lowers: &[Layer<'_>], disk: &str) -> Result<Root, OverlayError> {
    make(staging)?;
    attach("tmpfs", staging, "tmpfs", MsFlags::empty(), "mode=700,size=64k", "a place for mount points")?;
    let layers = mount_layers(staging, lowers)?;
    let writable = staging.join("disk");
    make(&writable)?;
    // What is deleted gives its room back to the host.
    attach(disk, &writable, "ext4", MsFlags::MS_NODEV, "discard", "the disk of the writable layer")?;
    let is_image = lowers.iter().any(|layer| matches!(layer, Layer::Disk(_, FileSystem::Erofs)));
    join(staging, &layers, &writable, if is_image { "redirect_dir=off" } else { "redirect_dir=on" })
}

/// Mounts a root that is not written to below `staging`: what has to be made in it (mount points) is in memory.
pub fn mount_in_memory(staging: &Path, lower: &Layer<'_>) -> Result<Root, OverlayError> {
    make(staging)?;
    attach("tmpfs", staging, "tmpfs", MsFlags::empty(), "mode=700,size=1m", "a place for mount points")?;
    let layers = mount_layers(staging, std::slice::from_ref(lower))?;
    join(staging, &layers, staging, "redirect_dir=off")
}

/// Mounts the read-only layers; answers where.
fn mount_layers(staging: &Path, lowers: &[Layer<'_>]) -> Result<Vec<PathBuf>, OverlayError> {
    let mut layers = Vec::new();
    for (number, layer) in lowers.iter().enumerate() {
        let (source, kind, options) = match layer {
            Layer::Shared(tag) => (tag, "virtiofs", ""),
            Layer::Disk(device, FileSystem::Erofs) => (device, FileSystem::Erofs.as_str(), "user_xattr,acl"),
            Layer::Disk(device, FileSystem::Ext4) => (device, FileSystem::Ext4.as_str(), ""),
            Layer::Mounted(path) => {
                layers.push(PathBuf::from(path));
                continue;
            }
        };
        let lower = staging.join(format!("lower-{number}"));
        make(&lower)?;
        let what = format!("the layer {number} of the root directory ({kind} {source:?})");
        attach(source, &lower, kind, MsFlags::MS_RDONLY | MsFlags::MS_NODEV, options, &what)?;
        layers.push(lower);
    }
    Ok(layers)
}

/// Joins the layers and what is below `writable` to one root.
fn join(staging: &Path, layers: &[PathBuf], writable: &Path, redirects: &str) -> Result<Root, OverlayError> {
    let root = staging.join("root");
    let (upper, work) = (writable.join("upper"), writable.join("work"));
    let is_new = fs::metadata(&upper).is_err();
    if is_new {
        make(&upper)?;
        if let Some(top) = layers.first() {
            // The root's own mode and owner are the upper layer's.
            copy_owner(top, &upper).map_err(|source| OverlayError::Make { path: upper.clone(), source })?;
        }
    }
    make(&work)?;
    make(&root)?;
    let layers: Vec<_> = layers.iter().map(|layer| layer.display().to_string()).collect();
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,{redirects}",
        layers.join(":"),
        upper.display(),
        work.display()
    );
    attach("overlay", &root, "overlay", MsFlags::MS_NODEV, &options, "the layers of the root directory")?;
    let upper = File::open(&upper).map_err(|source| OverlayError::Make { path: upper, source })?.into();
    Ok(Root { path: root, is_new, upper })
}

fn copy_owner(from: &Path, to: &Path) -> io::Result<()> {
    let meta = fs::metadata(from)?;
    chown(to, Some(meta.uid()), Some(meta.gid()))?;
    fs::set_permissions(to, meta.permissions())
}

fn make(path: &Path) -> Result<(), OverlayError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // A root that nothing can be made in has it already, or the mount will say so.
        Err(_) if path.is_dir() => Ok(()),
        made => made.map_err(|source| OverlayError::Make { path: path.to_owned(), source }),
    }
}

fn attach(
    source: &str,
    target: &Path,
    kind: &str,
    flags: MsFlags,
    options: &str,
    what: &str,
) -> Result<(), OverlayError> {
    mount(Some(source), target, Some(kind), flags, Some(options)).map_err(|source| match source {
        Errno::ENODEV => OverlayError::NoFileSystem { what: what.to_owned(), kind: kind.to_owned() },
        source => OverlayError::Mount { what: what.to_owned(), source },
    })
}
