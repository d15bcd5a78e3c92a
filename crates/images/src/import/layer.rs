//! One layer into the store, from wherever it comes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};

use sandpen_types::image::ImageDigest;
use serde::{Deserialize, Serialize};

use super::{ImportError, Progress, Tell};
use crate::layer::{self, Compression, Expected, LayerInfo};
use crate::manifest::Packed;
use crate::store::{DraftDir, LAYER_RECORD, LayerRecord, Packing, Store};

/// How many bytes of a layer are read between two words about it.
const PROGRESS_STEP: u64 = 1 << 20;
/// Bytes that show how a layer is packed.
const FIRST: usize = 512;

/// What is known of a layer before it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewLayer {
    /// The digest of what it unpacks to.
    pub diff_id: ImageDigest,
    /// That of its bytes as they come, where somebody told it.
    pub packed: Option<ImageDigest>,
    /// How many they are.
    pub packed_bytes: u64,
    /// Which layer of its image it is, from 1, for people.
    pub number: usize,
    /// Of how many.
    pub of: usize,
}

/// Has a layer in the store; two who want the same do the work once. Where it is there already nothing is opened; what was
/// opened is read only after [`Progress::LayerStarted`].
///
/// # Errors
/// [`ImportError`]; those of `open`.
pub fn add_layer<R: Read + Send>(
    store: &Store,
    layer: &NewLayer,
    open: impl FnOnce() -> Result<R, ImportError>,
    tell: Tell<'_>,
) -> Result<(), ImportError> {
    let NewLayer { diff_id, packed, packed_bytes, number, of } = *layer;
    let _guard = store.lock_digest(&diff_id)?;
    let draft = store.draft()?;
    if store.has_layer(&diff_id)? {
        tell(Progress::LayerReady { diff_id, was_there: true });
        return Ok(());
    }
    let stream = open()?;
    tell(Progress::LayerStarted { diff_id, bytes: packed_bytes });
    // Whoever reads on reads more at once, past the buffer. An error is theirs.
    let mut stream = BufReader::with_capacity(FIRST, stream);
    let is_gzip = stream.fill_buf().is_ok_and(|first| Compression::of(first) == Compression::Gzip);
    let expected = Expected { diff_id: Some(diff_id), packed, packed_bytes: Some(packed_bytes) };
    let read = AtomicU64::new(0);
    let count = |bytes: u64| {
        let before = read.fetch_add(bytes, Ordering::Relaxed);
        if before / PROGRESS_STEP != (before + bytes) / PROGRESS_STEP {
            tell(Progress::LayerRead { diff_id, bytes: before + bytes });
        }
    };
    let unpacked = layer::unpack(stream, &expected, draft.path(), &count);
    let info = unpacked.map_err(|source| ImportError::Layer { number, of, diff_id, source: Box::new(source) })?;
    commit(draft, info)?;
    if let Some(digest) = packed {
        let packing = Packing { packed: Packed { digest, size: packed_bytes }, is_gzip };
        if let Err(error) = store.note_packing(&diff_id, packing) {
            tracing::debug!(%error, "it is not known later what the layer was packed to");
        }
    }
    tell(Progress::LayerReady { diff_id, was_there: false });
    Ok(())
}

/// Unpacks a layer whose digest nobody knows beforehand; answers that. Whoever is to make an image of it holds a draft of the
/// store meanwhile, so that it does not go.
///
/// # Errors
/// [`ImportError`].
pub fn add_root(store: &Store, tar: impl Read + Send, tell: Tell<'_>) -> Result<ImageDigest, ImportError> {
    let draft = store.draft()?;
    let unpacked = layer::unpack(tar, &Expected::default(), draft.path(), &|_| {});
    let info = unpacked.map_err(|source| ImportError::Root(Box::new(source)))?;
    let diff_id = info.diff_id;
    let _guard = store.lock_digest(&diff_id)?;
    let was_there = store.has_layer(&diff_id)?;
    commit(draft, info)?;
    tell(Progress::LayerReady { diff_id, was_there });
    Ok(diff_id)
}

/// Puts an unpacked layer into the store.
fn commit(draft: DraftDir, info: LayerInfo) -> Result<(), ImportError> {
    let diff_id = info.diff_id;
    let record = LayerRecord { info, files: BTreeMap::new() };
    let path = draft.path().join(LAYER_RECORD);
    let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|record| fs::write(&path, record));
    written.map_err(ImportError::file("writing", path))?;
    Ok(draft.commit_layer(&diff_id)?)
}
