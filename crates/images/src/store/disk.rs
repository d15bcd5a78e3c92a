//! An image in use: its disk, and who has it.

use std::fs::{File, FileTimes};
use std::time::SystemTime;

use sandpen_types::image::ImageDigest;

use super::{METADATA, Store, StoreError, files};
use crate::disk::{DISK_STEP, Extent, ImageDisk};
use crate::layer::BLOB;

impl Store {
    /// Takes an image into use until the answer, and every copy of its descriptor, is closed: it is not removed before.
    /// This is its last use so far.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and what the system said.
    pub fn lease(&self, digest: &ImageDigest) -> Result<File, StoreError> {
        // Whoever removes an image looks for its users under the lock.
        let _locked = self.lock()?;
        let file = self.used(digest)?;
        file.lock_shared().map_err(StoreError::io("lock", self.lease_path(digest)))?;
        Ok(file)
    }

    /// The disk of an image: its metadata, the blobs of its layers as [`Store::blobs`] has them, padding. To be asked for
    /// by whoever has a lease.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], and what the system said.
    pub fn disk(&self, digest: &ImageDigest) -> Result<ImageDisk, StoreError> {
        let record = self.record(digest)?;
        let metadata = Extent { path: self.image_path(digest).join(METADATA), bytes: record.metadata_bytes };
        let mut extents = vec![metadata];
        extents.extend(self.blobs(&record.layers)?);
        for extent in &extents {
            let is = std::fs::metadata(&extent.path).map_err(StoreError::io("look at", &extent.path))?.len();
            if is != extent.bytes {
                let reason = format!("it has {is} bytes, not {}", extent.bytes);
                return Err(StoreError::Damaged { path: extent.path.clone(), reason });
            }
        }
        let bytes: u64 = extents.iter().map(|extent| extent.bytes).sum();
        let padding = bytes.next_multiple_of(DISK_STEP) - bytes;
        if padding > 0 {
            extents.push(Extent { path: self.padding(), bytes: padding });
        }
        Ok(ImageDisk { extents })
    }

    /// The blobs of these layers (base first, as an [`super::ImageRecord`] has them) as they lie on a disk behind the
    /// metadata: those of the topmost layer first, each layer as often as it is named, without empty ones.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if one is missing, and what the system said.
    pub fn blobs(&self, layers: &[ImageDigest]) -> Result<Vec<Extent>, StoreError> {
        let mut blobs = Vec::with_capacity(layers.len());
        for diff_id in layers.iter().rev() {
            let path = self.layer_path(diff_id);
            let missing = || StoreError::Damaged { path: path.clone(), reason: "it is missing".to_owned() };
            let record = self.layer(diff_id)?.ok_or_else(missing)?;
            if record.info.blob_bytes > 0 {
                blobs.push(Extent { path: path.join(BLOB), bytes: record.info.blob_bytes });
            }
        }
        Ok(blobs)
    }

    /// Whether somebody has a lease now; also if that cannot be told.
    pub fn is_used(&self, digest: &ImageDigest) -> bool {
        self.lock().and_then(|_locked| self.is_leased(digest)).unwrap_or(true)
    }

    /// Removes leases of images that are gone; nobody can have them.
    pub(super) fn remove_old_leases(&self, _: &super::Locked) -> Result<(), StoreError> {
        for digest in files::digests(&self.directory.join("leases"))? {
            if !self.image_path(&digest).exists() {
                let _ = std::fs::remove_file(self.lease_path(&digest)); // the next one finds it
            }
        }
        Ok(())
    }

    /// When an image was used last; `None` if it never was.
    pub(super) fn last_used(&self, digest: &ImageDigest) -> Option<SystemTime> {
        std::fs::metadata(self.lease_path(digest)).and_then(|meta| meta.modified()).ok()
    }

    /// Whether somebody has a lease. To be asked under the lock.
    pub(super) fn is_leased(&self, digest: &ImageDigest) -> Result<bool, StoreError> {
        match files::try_alone(&self.lease_path(digest)) {
            Ok(alone) => Ok(alone.is_none()),
            Err(StoreError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The lease's file of an image that is there, used now. To be asked for under the lock.
    pub(super) fn used(&self, digest: &ImageDigest) -> Result<File, StoreError> {
        self.record(digest)?;
        let path = self.lease_path(digest);
        let file = files::open_lock(&path)?;
        let now = FileTimes::new().set_modified(SystemTime::now());
        file.set_times(now).map_err(StoreError::io("set the time of", &path))?;
        Ok(file)
    }
}
