//! An image whose layers are all there: its file system, and its place in the store.

use std::fs::{self, File};

use chrono::{SubsecRound as _, Utc};
use sandpen_types::image::{ImageDigest, ImageReference};

use super::{ImportError, Progress};
use crate::erofs::{self, Placement};
use crate::layer::BLOCK;
use crate::store::{CONFIG, DraftDir, ENTRIES, IMAGE_RECORD, ImageRecord, MANIFEST, METADATA, Store};
use crate::tree::Tree;

/// What an image is, beside its layers' files.
pub(super) struct NewImage<'a> {
    pub(super) digest: ImageDigest,
    pub(super) config: &'a [u8],
    pub(super) manifest: Option<(ImageDigest, &'a [u8])>,
    /// The lowest first.
    pub(super) layers: &'a [ImageDigest],
    pub(super) names: &'a [ImageReference],
}

/// Makes the image in `draft`, which was there before anybody asked for its layers.
pub(super) fn make(
    store: &Store,
    draft: DraftDir,
    image: &NewImage<'_>,
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let metadata_bytes = write_metadata(store, &draft, image)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = draft.path().join(name);
        fs::write(&path, bytes).map_err(ImportError::file("writing", path))
    };
    write(CONFIG, image.config)?;
    if let Some((_, manifest)) = image.manifest {
        write(MANIFEST, manifest)?;
    }
    let record = ImageRecord {
        digest: image.digest,
        layers: image.layers.to_vec(),
        metadata_bytes,
        loaded: Utc::now().trunc_subsecs(3),
        manifest_digest: image.manifest.map(|(digest, _)| digest),
        files: std::collections::BTreeMap::new(),
    };
    let path = draft.path().join(IMAGE_RECORD);
    let record = serde_json::to_vec(&record).map_err(|error| ImportError::file("writing", path)(error.into()))?;
    write(IMAGE_RECORD, &record)?;
    draft.commit_image(&image.digest, image.names)?;
    progress(Progress::ImageReady { digest: image.digest, names: image.names.to_vec() });
    Ok(())
}

/// Puts the layers over one another, and writes what that makes.
fn write_metadata(store: &Store, draft: &DraftDir, image: &NewImage<'_>) -> Result<u64, ImportError> {
    let mut tree = Tree::new();
    let mut blobs = Vec::with_capacity(image.layers.len());
    let of = image.layers.len();
    for (number, diff_id) in (1..).zip(image.layers) {
        let path = store.layer_path(diff_id).join(ENTRIES);
        let list = File::open(&path).map_err(ImportError::file("opening", path))?;
        let applied = tree.apply(&list);
        applied.map_err(|source| ImportError::Merge { number, of, diff_id: *diff_id, source })?;
        let record = store.layer(diff_id)?.map_or(0, |record| record.blob_bytes);
        blobs.push(u32::try_from(record / BLOCK).unwrap_or(u32::MAX));
    }
    let path = draft.path().join(METADATA);
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(ImportError::file("making", path))?;
    let written = erofs::write(&mut tree, &blobs, Placement::Before, &file);
    written.map_err(|source| ImportError::FileSystem { image: image.digest, source })
}
