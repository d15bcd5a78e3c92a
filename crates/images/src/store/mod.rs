//! The store of images: layers and images by their content, names that point to them, and who uses them.
//!
//! ```text
//!   DATA_DIR/images/
//!     layers/<diff_id>/     blob · entries · tar · layer.json
//!     images/<digest>/      config.json · metadata · image.json · manifest.json where there was one
//!     names.json            name → digest of the configuration; written anew under the lock
//!     leases/<digest>       locked, shared, by each who uses the image; its time is that of the last use
//!     manifests/<digest>/   manifests with which the image came later, by their digests
//!     packed/<diff_id>      what the layer was packed to, as far as somebody has seen it
//!     padding               a hole, what a disk ends with
//!     drafts/<any>/         what is in the making or on its way out: held (locked by its maker) · content/
//!     partial/<digest>      the packed bytes of a layer that came in part, locked by whoever reads or writes them
//!     locks/<digest>        locked by whoever makes a layer or image of this digest: the second one waits, and finds it
//!     lock                  held for short changes: of names, of what is there. Never while something is unpacked
//! ```
//!
//! Any number of processes share it, and each may be killed at any point. A layer or an image comes into being by one
//! rename of a directory whose files are on the disk by then, and goes by one rename back among the drafts; a draft that
//! nobody holds is removed by whoever makes the next one. So a directory with a digest for its name is whole.
//!
//! A layer that no image refers to stays for as long as anybody makes anything: what [`Store::has_layer`] said is true
//! until the guards and drafts of whoever asked are dropped.
//!
//! Everything here blocks.

mod disk;
mod draft;
mod error;
mod files;
mod manifests;
mod names;
mod packed;
mod partial;
mod record;
mod remove;
mod stored;
#[cfg(test)]
mod tests;
mod verify;

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use sandpen_types::image::ImageDigest;

pub use draft::{DigestGuard, DraftDir};
pub use error::StoreError;
pub(crate) use names::check_tag;
pub use packed::Packing;
pub use partial::{PartialLayer, StoredPartial};
pub use record::{CONFIG, IMAGE_RECORD, ImageRecord, LAYER_RECORD, LayerRecord, MANIFEST, METADATA};
pub use remove::Removed;
pub use stored::{StoredImage, StoredLayer};

use crate::disk::DISK_STEP;

/// The directories below the store's own.
const DIRECTORIES: [&str; 8] =
    ["layers", "images", "leases", "drafts", "locks", manifests::DIRECTORY, packed::DIRECTORY, partial::DIRECTORY];

/// A store of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    directory: PathBuf,
}

/// The store's lock, until it is dropped.
struct Locked {
    _file: File,
}

impl Store {
    /// The name of the store's directory in a data directory.
    pub const DIRECTORY: &str = "images";

    /// The store in this directory (`DATA_DIR/images`), which is made where it is missing, for our user alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self { directory: directory.to_owned() };
        for name in DIRECTORIES {
            let path = store.directory.join(name);
            sandpen_cache::make_directory(&path).map_err(StoreError::io("create", &path))?;
        }
        let padding = store.padding();
        if fs::metadata(&padding).map_or(0, |meta| meta.len()) != DISK_STEP {
            let mut options = OpenOptions::new();
            let file = options.write(true).create(true).truncate(false).mode(0o600).open(&padding);
            file.and_then(|file| file.set_len(DISK_STEP)).map_err(StoreError::io("create", &padding))?;
        }
        Ok(store)
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of a layer, which need not be there.
    pub fn layer_path(&self, diff_id: &ImageDigest) -> PathBuf {
        self.directory.join("layers").join(diff_id.hex())
    }

    /// The directory of an image, which need not be there.
    pub fn image_path(&self, digest: &ImageDigest) -> PathBuf {
        self.directory.join("images").join(digest.hex())
    }

    /// What is written down of a layer; `None` if it is not there.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], and what the system said.
    pub fn layer(&self, diff_id: &ImageDigest) -> Result<Option<LayerRecord>, StoreError> {
        record::read(&self.layer_path(diff_id))
    }

    /// What is written down of an image.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], and what the system said.
    pub fn record(&self, digest: &ImageDigest) -> Result<ImageRecord, StoreError> {
        let found = record::read(&self.image_path(digest))?;
        found.ok_or_else(|| StoreError::NotFound { asked: digest.to_string(), near: Vec::new() })
    }

    fn padding(&self) -> PathBuf {
        self.directory.join("padding")
    }

    fn lease_path(&self, digest: &ImageDigest) -> PathBuf {
        self.directory.join("leases").join(digest.hex())
    }

    /// Takes the store's lock; waits for whoever has it.
    fn lock(&self) -> Result<Locked, StoreError> {
        let path = self.directory.join("lock");
        let file = files::open_lock(&path)?;
        file.lock().map_err(StoreError::io("lock", &path))?;
        Ok(Locked { _file: file })
    }
}
