//! What is written down beside a layer's and an image's files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chrono::{DateTime, Utc};
use sandpen_types::image::ImageDigest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{StoreError, files};
use crate::layer::{BLOB, BLOCK, ENTRIES, LayerInfo, TAR};

/// A layer's [`LayerRecord`].
pub const LAYER_RECORD: &str = "layer.json";
/// An image's configuration, as it came.
pub const CONFIG: &str = "config.json";
/// An image's first manifest, as it came, where it had one.
pub const MANIFEST: &str = "manifest.json";
/// An image's file system without the contents of its files.
pub const METADATA: &str = "metadata";
/// An image's [`ImageRecord`].
pub const IMAGE_RECORD: &str = "image.json";

/// A layer, as its maker writes it to [`LAYER_RECORD`] of the draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// What is known of it.
    #[serde(flatten)]
    pub info: LayerInfo,
    /// Bytes of each file beside this one: filled in when it is committed.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
}

/// An image, as its maker writes it to [`IMAGE_RECORD`] of the draft.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its configuration: its identity.
    pub digest: ImageDigest,
    /// Its layers, base first; a layer may be there several times.
    pub layers: Vec<ImageDigest>,
    /// Bytes of the metadata, a multiple of 4096.
    pub metadata_bytes: u64,
    /// When it came into this store.
    pub loaded: DateTime<Utc>,
    /// The digest of the manifest that it came with first, where it had one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_digest: Option<ImageDigest>,
    /// Bytes of each file beside this one: filled in when it is committed.
    #[serde(default)]
    pub files: BTreeMap<String, u64>,
}

/// What the two have in common.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// The file that it is written to.
    const NAME: &'static str;
    /// The files that must be beside it, and those that may.
    const FILES: (&'static [&'static str], &'static [&'static str]);
    /// What it is of.
    fn digest(&self) -> ImageDigest;
    /// Bytes that it says itself of one of the files.
    fn said(&self) -> (&'static str, u64);
    /// Bytes of each file.
    fn files(&self) -> &BTreeMap<String, u64>;
    /// The same, to be filled in.
    fn files_mut(&mut self) -> &mut BTreeMap<String, u64>;
}

impl Record for LayerRecord {
    const NAME: &'static str = LAYER_RECORD;
    const FILES: (&'static [&'static str], &'static [&'static str]) = (&[BLOB, ENTRIES, TAR], &[]);

    fn digest(&self) -> ImageDigest {
        self.info.diff_id
    }

    fn said(&self) -> (&'static str, u64) {
        (BLOB, self.info.blob_bytes)
    }

    fn files(&self) -> &BTreeMap<String, u64> {
        &self.files
    }

    fn files_mut(&mut self) -> &mut BTreeMap<String, u64> {
        &mut self.files
    }
}

impl Record for ImageRecord {
    const NAME: &'static str = IMAGE_RECORD;
    const FILES: (&'static [&'static str], &'static [&'static str]) = (&[CONFIG, METADATA], &[MANIFEST]);

    fn digest(&self) -> ImageDigest {
        self.digest
    }

    fn said(&self) -> (&'static str, u64) {
        (METADATA, self.metadata_bytes)
    }

    fn files(&self) -> &BTreeMap<String, u64> {
        &self.files
    }

    fn files_mut(&mut self) -> &mut BTreeMap<String, u64> {
        &mut self.files
    }
}

/// The record in a directory; `None` where it, or the directory, is missing.
pub(super) fn read<R: Record>(directory: &Path) -> Result<Option<R>, StoreError> {
    let path = directory.join(R::NAME);
    let Some(bytes) = files::read(&path)? else { return Ok(None) };
    let damaged = |error: serde_json::Error| StoreError::Damaged { path: path.clone(), reason: error.to_string() };
    serde_json::from_slice(&bytes).map(Some).map_err(damaged)
}

/// Reads the record of a draft, notes the sizes of the files beside it, and syncs everything to the disk: what has its
/// name afterwards is whole.
pub(super) fn seal<R: Record>(directory: &Path, digest: &ImageDigest) -> Result<R, StoreError> {
    let refused = |reason: String| StoreError::NotWhole { path: directory.to_owned(), reason };
    let mut record: R = match read(directory) {
        Ok(Some(record)) => record,
        Ok(None) => return Err(refused(format!("it has no {}", R::NAME))),
        Err(StoreError::Damaged { reason, .. }) => return Err(refused(format!("{}: {reason}", R::NAME))),
        Err(error) => return Err(error),
    };
    if record.digest() != *digest {
        return Err(refused(format!("it is of {}, not of {digest}", record.digest())));
    }
    let found = sizes::<R>(directory)?.map_err(refused)?;
    let (name, said) = record.said();
    if found.get(name) != Some(&said) || said % BLOCK != 0 {
        let is = found.get(name).copied().unwrap_or_default();
        return Err(refused(format!(
            "{name} has {is} bytes, {said} are recorded, and it has to be whole blocks of {BLOCK}"
        )));
    }
    for name in found.keys() {
        files::sync(&directory.join(name))?;
    }
    *record.files_mut() = found;
    let json = serde_json::to_vec(&record).map_err(|error| StoreError::io("write", directory)(error.into()))?;
    files::write(&directory.join(R::NAME), &json)?;
    Ok(record)
}

/// What is wrong with the files of a record; `None` if nothing is.
pub(super) fn fault<R: Record>(directory: &Path, record: &R) -> Result<Option<String>, StoreError> {
    Ok(match sizes::<R>(directory)? {
        Err(reason) => Some(reason),
        Ok(found) if found != *record.files() => {
            Some(format!("its files have the sizes {found:?}, not {:?}", record.files()))
        }
        Ok(_) => None,
    })
}

/// The files beside a record and their bytes, or why they are not those that belong there.
fn sizes<R: Record>(directory: &Path) -> Result<Result<BTreeMap<String, u64>, String>, StoreError> {
    let (needed, allowed) = R::FILES;
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).map_err(StoreError::io("read", directory))? {
        let entry = entry.map_err(StoreError::io("read", directory))?;
        let name = entry.file_name();
        let Some(name) = name.to_str().filter(|name| needed.contains(name) || allowed.contains(name)) else {
            if name == R::NAME {
                continue;
            }
            return Ok(Err(format!("{} does not belong there", name.display())));
        };
        let meta = fs::symlink_metadata(entry.path()).map_err(StoreError::io("look at", entry.path()))?;
        if !meta.is_file() {
            return Ok(Err(format!("{name} is no file")));
        }
        found.insert(name.to_owned(), meta.len());
    }
    Ok(match needed.iter().find(|needed| !found.contains_key(**needed)) {
        Some(missing) => Err(format!("it has no {missing}")),
        None => Ok(found),
    })
}
