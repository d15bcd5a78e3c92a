//! An image whose layers are all there: its file system, and its place in the store.

use std::collections::BTreeMap;
use std::fs::{self, File};

use chrono::{SubsecRound as _, Utc};
use sandpen_types::image::{ImageDigest, ImageReference};

use super::{ImportError, Progress, Tell};
use crate::config::ImageConfig;
use crate::digest::digest_of;
use crate::erofs::{self, Placement};
use crate::layer::{BLOCK, ENTRIES};
use crate::store::{CONFIG, DraftDir, IMAGE_RECORD, ImageRecord, MANIFEST, METADATA, Store, StoreError};
use crate::tree::Tree;

/// Makes the image of a configuration whose layers are all in the store, with its manifest if it has one.
///
/// # Errors
/// [`ImportError`]; [`StoreError::LayersMissing`] where one has gone meanwhile.
pub fn compose(
    store: &Store,
    config: &[u8],
    manifest: Option<&[u8]>,
    names: &[ImageReference],
    tell: Tell<'_>,
) -> Result<ImageDigest, ImportError> {
    let parsed = ImageConfig::parse(config)?;
    let digest = digest_of(config);
    let _guard = store.lock_digest(&digest)?;
    let draft = store.draft()?;
    for diff_id in &parsed.diff_ids {
        if !store.has_layer(diff_id)? {
            return Err(StoreError::LayersMissing { image: digest, layers: vec![diff_id.to_string()] }.into());
        }
    }
    let metadata_bytes = write_metadata(store, &draft, &digest, &parsed.diff_ids)?;
    let write = |name: &str, bytes: &[u8]| {
        let path = draft.path().join(name);
        fs::write(&path, bytes).map_err(ImportError::file("writing", path))
    };
    write(CONFIG, config)?;
    if let Some(manifest) = manifest {
        write(MANIFEST, manifest)?;
    }
    let record = ImageRecord {
        digest,
        layers: parsed.diff_ids,
        metadata_bytes,
        loaded: Utc::now().trunc_subsecs(3),
        manifest_digest: manifest.map(digest_of),
        files: BTreeMap::new(),
    };
    let path = draft.path().join(IMAGE_RECORD);
    let record = serde_json::to_vec(&record).map_err(|error| ImportError::file("writing", path)(error.into()))?;
    write(IMAGE_RECORD, &record)?;
    draft.commit_image(&digest, names)?;
    tell(Progress::ImageReady { digest, names: names.to_vec() });
    Ok(digest)
}

/// Puts the layers over one another, and writes what that makes.
fn write_metadata(
    store: &Store,
    draft: &DraftDir,
    image: &ImageDigest,
    layers: &[ImageDigest],
) -> Result<u64, ImportError> {
    let mut tree = Tree::new();
    let mut blobs = Vec::with_capacity(layers.len());
    let of = layers.len();
    for (number, diff_id) in (1..).zip(layers) {
        let path = store.layer_path(diff_id).join(ENTRIES);
        let list = File::open(&path).map_err(ImportError::file("opening", path))?;
        let applied = tree.apply(&list);
        applied.map_err(|source| ImportError::Merge { number, of, diff_id: *diff_id, source })?;
        let record = store.layer(diff_id)?.map_or(0, |record| record.info.blob_bytes);
        blobs.push(u32::try_from(record / BLOCK).unwrap_or(u32::MAX));
    }
    let path = draft.path().join(METADATA);
    let file = File::options().read(true).write(true).create_new(true).open(&path);
    let file = file.map_err(ImportError::file("making", path))?;
    let written = erofs::write(&mut tree, &blobs, Placement::Before, &file);
    written.map_err(|source| ImportError::FileSystem { image: *image, source })
}
