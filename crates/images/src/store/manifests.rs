//! The manifests of an image, but for the one that it came with first, which lies beside its configuration: the same
//! configuration comes under another one where its layers are packed otherwise, and is asked for by that digest then.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use sandpen_types::image::ImageDigest;

use super::record::{ImageRecord, MANIFEST};
use super::{Locked, Store, StoreError, files};
use crate::digest::digest_of;

/// The directory of a directory for each image that came again.
pub(super) const DIRECTORY: &str = "manifests";
/// Most that are kept of an image.
const KEPT: usize = 8;

impl Store {
    /// The digests of an image's manifests, the one that it came with last first; none if it had none.
    pub(super) fn manifest_digests(&self, record: &ImageRecord) -> Result<Vec<ImageDigest>, StoreError> {
        let mut digests = self.later_manifests(&record.digest)?;
        digests.extend(record.manifest_digest.filter(|own| !digests.contains(own)));
        Ok(digests)
    }

    /// An image's manifest, as it came: the one of this digest, or else the last one; `None` if it had none.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and what the system said.
    pub fn manifest(&self, image: &ImageDigest, wanted: Option<&ImageDigest>) -> Result<Option<Vec<u8>>, StoreError> {
        let digests = self.manifest_digests(&self.record(image)?)?;
        let wanted = digests.iter().filter(|digest| Some(*digest) == wanted);
        for digest in wanted.chain(&digests) {
            let later = self.manifests_path(image).join(digest.hex());
            for path in [later, self.image_path(image).join(MANIFEST)] {
                // What is damaged is none.
                let found = files::read(&path)?.filter(|manifest| digest_of(manifest) == *digest);
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// Notes the manifest that an image came with again.
    pub(super) fn note_manifest(&self, _: &Locked, image: &ImageDigest, manifest: &[u8]) -> Result<(), StoreError> {
        let (digest, later) = (digest_of(manifest), self.later_manifests(image)?);
        if later.is_empty() && self.record(image)?.manifest_digest == Some(digest) {
            return Ok(());
        }
        let directory = self.manifests_path(image);
        let path = directory.join(digest.hex());
        files::write(&path, manifest)?;
        // Of two in a row the kernel's own times are the same.
        let times = fs::FileTimes::new().set_modified(SystemTime::now());
        let dated = fs::File::open(&path).and_then(|file| file.set_times(times));
        dated.map_err(StoreError::io("set the time of", &path))?;
        for old in later.iter().filter(|other| **other != digest).skip(KEPT - 1) {
            let _ = fs::remove_file(directory.join(old.hex())); // the next one finds it
        }
        Ok(())
    }

    /// They go with their image.
    pub(super) fn forget_manifests(&self, image: &ImageDigest) {
        let _ = fs::remove_dir_all(self.manifests_path(image)); // mostly there are none
    }

    /// Removes those of images that are gone.
    pub(super) fn remove_old_manifests(&self, _: &Locked) -> Result<(), StoreError> {
        for image in files::digests(&self.directory.join(DIRECTORY))? {
            if !self.image_path(&image).exists() {
                self.forget_manifests(&image);
            }
        }
        Ok(())
    }

    /// Those that came after the first one, the last one first.
    fn later_manifests(&self, image: &ImageDigest) -> Result<Vec<ImageDigest>, StoreError> {
        let directory = self.manifests_path(image);
        let digests = match files::digests(&directory) {
            Err(StoreError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            digests => digests?,
        };
        // One that goes meanwhile is none.
        let dated = |digest: ImageDigest| {
            let meta = fs::symlink_metadata(directory.join(digest.hex())).ok()?;
            Some((meta.modified().ok()?, digest))
        };
        let mut dated: Vec<_> = digests.into_iter().filter_map(dated).collect();
        dated.sort_unstable_by(|one, other| other.cmp(one));
        Ok(dated.into_iter().map(|(_, digest)| digest).collect())
    }

    fn manifests_path(&self, image: &ImageDigest) -> PathBuf {
        self.directory.join(DIRECTORY).join(image.hex())
    }
}
