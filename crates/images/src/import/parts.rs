//! An image that comes in parts, from wherever: layers one by one, each as a stream, and then what joins them.

use std::io::Read;

use sandpen_types::image::{ImageDigest, ImageReference};

use super::image::{self, NewImage};
use super::{ImportError, Progress, load};
use crate::config::ImageConfig;
use crate::digest::digest_of;
use crate::layer::{self, Expected};
use crate::store::Store;

/// Has a layer in the store. Where it is there already nothing of the stream is read. `number` and `of` are for people.
///
/// # Errors
/// [`ImportError`].
pub fn add_layer(
    store: &Store,
    stream: impl Read + Send,
    diff_id: &ImageDigest,
    expected: &Expected,
    (number, of): (usize, usize),
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let diff_id = *diff_id;
    let _guard = store.lock_digest(&diff_id)?;
    let draft = store.draft()?;
    if store.has_layer(&diff_id)? {
        progress(Progress::LayerReady { diff_id, was_there: true });
        return Ok(());
    }
    progress(Progress::LayerStarted { diff_id, bytes: expected.packed_bytes.unwrap_or(0) });
    let expected = Expected { diff_id: Some(diff_id), ..*expected };
    let unpacked = layer::unpack(stream, &expected, draft.path(), &|_| {});
    let info = unpacked.map_err(|source| ImportError::Layer { number, of, diff_id, source: Box::new(source) })?;
    load::commit(draft, &info)?;
    progress(Progress::LayerReady { diff_id, was_there: false });
    Ok(())
}

/// Makes the image of a configuration whose layers are all in the store, with its manifest if it has one.
///
/// # Errors
/// [`ImportError`]; [`StoreError::LayersMissing`](crate::store::StoreError::LayersMissing) where one has gone meanwhile.
pub fn compose(
    store: &Store,
    config: &[u8],
    manifest: Option<&[u8]>,
    names: &[ImageReference],
    progress: &mut dyn FnMut(Progress),
) -> Result<ImageDigest, ImportError> {
    let parsed = ImageConfig::parse(config)?;
    let digest = digest_of(config);
    let _guard = store.lock_digest(&digest)?;
    let draft = store.draft()?;
    for diff_id in &parsed.diff_ids {
        if !store.has_layer(diff_id)? {
            let layers = vec![diff_id.to_string()];
            return Err(crate::store::StoreError::LayersMissing { image: digest, layers }.into());
        }
    }
    let manifest = manifest.map(|bytes| (digest_of(bytes), bytes));
    image::make(store, draft, &NewImage { digest, config, manifest, layers: &parsed.diff_ids, names }, progress)?;
    Ok(digest)
}
