//! Images as roots: where the disk of one is found, and what says that it is in use.
//!
//! ```text
//!   spec (digest) ─▶ DATA/images: lease locked, shared ─▶ disk (files joined by a descriptor) ─▶ VMM, all of it open
//!                          └─▶ the waiter locks it too, until it ends ─▶ this process's own is closed
//! ```
//!
//! The store belongs to all daemons of a user. What runs outlives each of them, so that it is in use is said by the
//! sandbox's waiter: whoever removes images takes the lock of each alone.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandpen_images::disk::{DISK_STEP, ImageDisk};
use sandpen_images::store::{Store, StoreError};
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::spec::{ImageRoot, Rootfs, SandboxSpec};
use sandpen_vmm::driver::DriverError;

use super::confine::descriptor_path;
use super::step::failed;

/// Most files of a disk: each is an open one or two of the VMM's, of which it has 1024.
const EXTENTS_MAX: usize = 130;

/// Why an image cannot be run.
#[derive(Debug, thiserror::Error)]
enum ImageRootError {
    /// Nobody has found out what its name stands for.
    #[error("it was never found out which image {0} is; start the sandbox again by a request (`sandpen run`)")]
    Unresolved(ImageReference),
    /// The store.
    #[error("image {reference}")]
    Store {
        /// Its name.
        reference: Box<ImageReference>,
        /// The cause.
        #[source]
        source: StoreError,
    },
    /// What the store says cannot be.
    #[error("the image {0} has a disk that no machine takes ({1}); fetch it again")]
    Disk(ImageDigest, &'static str),
    /// The lease.
    #[error("looking for the path of the lock of the image {digest}")]
    Lease {
        /// What it is.
        digest: ImageDigest,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// That an image is in use, for as long as this is there; shared by its clones.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    _locked: Arc<File>,
    path: PathBuf,
}

impl Lease {
    /// The file that is locked, for a waiter to lock too.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// A read-only disk of a machine's root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootDisk {
    /// A file.
    File(PathBuf),
    /// Files one behind the other.
    Joined(ImageDisk),
}

impl RootDisk {
    /// Its size. Blocking, for microseconds.
    ///
    /// # Errors
    /// The system's.
    pub fn bytes(&self) -> io::Result<u64> {
        match self {
            Self::File(path) => Ok(std::fs::metadata(path)?.len()),
            Self::Joined(disk) => Ok(disk.bytes()),
        }
    }
}

/// The image that a sandbox runs, if its root is one.
pub(super) fn image_of(spec: &SandboxSpec) -> Option<&ImageRoot> {
    match &spec.rootfs {
        Rootfs::Image(image) => Some(image),
        Rootfs::Native(_) | Rootfs::Overlayfs(_) => None,
    }
}

/// Whether a sandbox's root has disks that are only read.
pub(super) fn has_root_disks(spec: &SandboxSpec) -> bool {
    spec.root_device.is_disk() || image_of(spec).is_some()
}

/// The disk of an image, in use from now on. Blocking, for milliseconds.
///
/// # Errors
/// Says what to do where there is none.
pub(super) fn find(data_dir: &Path, image: &ImageRoot) -> Result<(ImageDisk, Lease), DriverError> {
    look(data_dir, image).map_err(|error| failed("looking for the image", error))
}

fn look(data_dir: &Path, image: &ImageRoot) -> Result<(ImageDisk, Lease), ImageRootError> {
    let digest = image.digest.ok_or_else(|| ImageRootError::Unresolved(image.reference.clone()))?;
    let of_store = |source| ImageRootError::Store { reference: Box::new(image.reference.clone()), source };
    let store = Store::open(&data_dir.join(Store::DIRECTORY)).map_err(of_store)?;
    // First: what is looked for then stays.
    let locked = store.lease(&digest).map_err(of_store)?;
    let path = std::fs::read_link(descriptor_path(locked.as_raw_fd()));
    let path = path.map_err(|source| ImageRootError::Lease { digest, source })?;
    let disk = store.disk(&digest).map_err(of_store)?;
    check(&disk).map_err(|why| ImageRootError::Disk(digest, why))?;
    Ok((disk, Lease { _locked: Arc::new(locked), path }))
}

fn check(disk: &ImageDisk) -> Result<(), &'static str> {
    if disk.extents.is_empty() || disk.extents.len() > EXTENTS_MAX {
        return Err("it has no part, or too many");
    }
    if disk.extents.iter().any(|extent| !extent.path.is_absolute()) {
        return Err("a part of it is not an absolute path");
    }
    if disk.extents.iter().any(|extent| extent.bytes == 0 || !extent.bytes.is_multiple_of(4096)) {
        return Err("a part of it is no whole number of blocks");
    }
    if !disk.bytes().is_multiple_of(DISK_STEP) {
        return Err("its size is no multiple of 64 GiB");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sandpen_images::disk::Extent;
    use sandpen_images::import::import_tar;

    use super::*;

    #[test]
    fn an_image_is_found_and_in_use_for_as_long_as_its_lease_is_there() {
        let data = tempfile::tempdir().unwrap();
        let data = data.path().canonicalize().unwrap();
        let mut image = ImageRoot::new("debian".parse().unwrap());
        let error = find(&data, &image).unwrap_err().chain();
        assert!(error.contains("never found out which image") && error.contains("debian"), "{error}");
        image.digest = Some(ImageDigest::new([7; 32]));
        let error = find(&data, &image).unwrap_err().chain();
        assert!(error.contains("no image") && error.contains(&ImageDigest::new([7; 32]).to_string()), "{error}");

        let store = Store::open(&data.join("images")).unwrap();
        let digest = import_tar(&store, &[][..], &image.reference, &|_| {}).unwrap();
        image.digest = Some(digest);
        let (disk, lease) = find(&data, &image).unwrap();
        assert_eq!(RootDisk::Joined(disk).bytes().unwrap(), DISK_STEP);
        let alone = File::open(lease.path()).unwrap();
        let other = lease.clone();
        drop(lease);
        assert!(alone.try_lock().is_err());
        assert!(store.remove("debian", true, &|_| None).is_err(), "it is in use");
        drop(other);
        alone.try_lock().unwrap();
    }

    #[test]
    fn a_disk_that_no_machine_takes_is_refused() {
        let part = |bytes: u64| Extent { path: "/part".into(), bytes };
        let disk = |extents: Vec<Extent>| ImageDisk { extents };
        check(&disk(vec![part(8192), part(DISK_STEP - 8192)])).unwrap();
        let relative = Extent { path: "part".into(), bytes: DISK_STEP };
        for extents in [
            vec![],
            vec![part(8192)],
            vec![part(4095), part(DISK_STEP - 4095)],
            vec![part(DISK_STEP); 131],
            vec![relative],
            vec![part(0), part(DISK_STEP)],
        ] {
            check(&disk(extents)).unwrap_err();
        }
    }
}
