//! What layers were packed to, as they came or for a registry: so that nobody packs one again to find that the registry
//! has it, and nobody takes a manifest's word for what a blob holds. Only who has read all of a blob, or made it, notes it.
//! A layer of which nothing is known is packed.

use std::fs;
use std::path::PathBuf;

use sandpen_types::image::ImageDigest;
use serde::{Deserialize, Serialize};

use super::{Store, StoreError, files};
use crate::manifest::Packed;

/// The directory of these files.
pub(super) const DIRECTORY: &str = "packed";
/// Most that are known of a layer.
const PACKINGS_MAX: usize = 8;

/// Bytes that unpack to a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packing {
    /// Which.
    #[serde(flatten)]
    pub packed: Packed,
    /// Whether gzip has packed them.
    pub is_gzip: bool,
}

impl Store {
    /// What a layer was packed to, the last ones first; nothing if nobody knows.
    pub fn packings(&self, diff_id: &ImageDigest) -> Vec<Packing> {
        let bytes = files::read(&self.packings_path(diff_id)).ok().flatten();
        bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Notes what a layer was packed to. Whoever does keeps it from being removed meanwhile. Of two at once one may be lost.
    ///
    /// # Errors
    /// What the system said.
    pub fn note_packing(&self, diff_id: &ImageDigest, packing: Packing) -> Result<(), StoreError> {
        let path = self.packings_path(diff_id);
        let before = self.packings(diff_id).into_iter().filter(|other| other.packed != packing.packed);
        let all: Vec<_> = std::iter::once(packing).chain(before).take(PACKINGS_MAX).collect();
        let json = serde_json::to_vec(&all).map_err(|error| StoreError::io("write", &path)(error.into()))?;
        files::write(&path, &json)
    }

    /// They go with their layer.
    pub(super) fn forget_packings(&self, diff_id: &ImageDigest) {
        let _ = fs::remove_file(self.packings_path(diff_id)); // mostly there is none
    }

    fn packings_path(&self, diff_id: &ImageDigest) -> PathBuf {
        self.directory.join(DIRECTORY).join(diff_id.hex())
    }
}
