//! What of images is kept on this host: where a driver finds the disk of one, and says that it is in use.
//!
//! ```text
//!   DIRECTORY/images/HEX/disk.json   the parts of the disk, [{"path": …, "bytes": …}, …]
//!                        lease       locked, shared, by everybody who uses the image; alone by who removes it
//! ```

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use sandpen_types::image::ImageDigest;
use serde::Deserialize;

use crate::disk::{Extent, ImageDisk};

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// None of this digest.
    #[error("there is no image {0} in the store; it was removed, or never fetched")]
    Missing(ImageDigest),
    /// Somebody removes it.
    #[error("the image {0} is being removed; fetch it again")]
    InRemoval(ImageDigest),
    /// A file of the store.
    #[error("{action} {path:?} of the image store; is the directory yours?")]
    File {
        /// What was being done.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The list of an image's parts is none.
    #[error("{path:?} of the image store is damaged; remove the image and fetch it again")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: serde_json::Error,
    },
}

/// The images below a directory.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
}

/// A part of a disk in the list.
#[derive(Deserialize)]
struct Part {
    path: PathBuf,
    bytes: u64,
}

impl Store {
    /// The store below this directory. Blocking, for microseconds.
    ///
    /// # Errors
    /// [`StoreError::File`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        Ok(Self { directory: directory.to_owned() })
    }

    fn file(&self, digest: &ImageDigest, name: &str) -> PathBuf {
        self.directory.join("images").join(digest.hex()).join(name)
    }

    /// A file that says for as long as it is open, here or in a process that has inherited it, that the image is in use:
    /// it has a shared lock (flock(2)). It can be locked once more by its path. Blocking, for microseconds.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::InRemoval`], [`StoreError::File`].
    pub fn lease(&self, digest: &ImageDigest) -> Result<File, StoreError> {
        let path = self.file(digest, "lease");
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => StoreError::Missing(*digest),
            _ => StoreError::File { action: "opening", path: path.clone(), source },
        };
        let file = File::open(&path).map_err(failed)?;
        match file.try_lock_shared() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => Err(StoreError::InRemoval(*digest)),
            Err(TryLockError::Error(source)) => Err(StoreError::File { action: "locking", path, source }),
        }
    }

    /// The disk of an image, whose files stay for as long as somebody has a [lease](Store::lease) of it. Blocking, for
    /// microseconds.
    ///
    /// # Errors
    /// [`StoreError::Missing`], [`StoreError::File`], [`StoreError::Damaged`].
    pub fn disk(&self, digest: &ImageDigest) -> Result<ImageDisk, StoreError> {
        let path = self.file(digest, "disk.json");
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(*digest)),
            Err(source) => return Err(StoreError::File { action: "reading", path, source }),
        };
        let parts: Vec<Part> = serde_json::from_slice(&json).map_err(|source| StoreError::Damaged { path, source })?;
        let extents = parts.into_iter().map(|Part { path, bytes }| Extent { path, bytes }).collect();
        Ok(ImageDisk { extents })
    }
}
