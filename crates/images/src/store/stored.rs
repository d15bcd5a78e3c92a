//! What is in the store.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use sandpen_types::image::{ImageDigest, ImageReference};
use serde::Deserialize;

use super::names::Names;
use super::{CONFIG, ImageRecord, Store, StoreError, files};

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredImage {
    /// The digest of its configuration: its identity.
    pub digest: ImageDigest,
    /// The digest of the manifest that it came with last, where it had one.
    pub manifest_digest: Option<ImageDigest>,
    /// Its names, sorted; it may have none.
    pub names: Vec<ImageReference>,
    /// When it was made, if its configuration says so.
    pub created: Option<DateTime<Utc>>,
    /// When it came into this store.
    pub loaded: DateTime<Utc>,
    /// When a microVM last began to run from it, or when it last came though it was there.
    pub last_used: Option<DateTime<Utc>>,
    /// Its layers, base first.
    pub layers: Vec<StoredLayer>,
    /// What it takes of the disk, in bytes, that no other image has part in.
    pub unique_bytes: u64,
    /// What it takes of the disk, in bytes, with what it shares.
    pub total_bytes: u64,
    /// Operating system, as its configuration says.
    pub os: Option<String>,
    /// Processor, as its configuration says.
    pub architecture: Option<String>,
    /// Its configuration, as it came.
    pub config: Vec<u8>,
}

impl StoredImage {
    /// Its layers, each once.
    pub fn distinct_layers(&self) -> impl Iterator<Item = &StoredLayer> {
        let mut seen = BTreeSet::new();
        self.layers.iter().filter(move |layer| seen.insert(layer.diff_id))
    }
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLayer {
    /// The digest of its tar.
    pub diff_id: ImageDigest,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// How many images have it, this one counted.
    pub shared_by: usize,
}

/// What is shown of a configuration.
#[derive(Debug, Default, Deserialize)]
struct Shown {
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
}

/// What is known of all images together.
struct Known {
    names: Names,
    records: Vec<ImageRecord>,
    /// Of each layer: how many images have it, and what it takes of the disk.
    layers: HashMap<ImageDigest, (usize, u64)>,
}

impl Store {
    /// All images, the newest first.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], and what the system said.
    pub fn images(&self) -> Result<Vec<StoredImage>, StoreError> {
        let known = self.known()?;
        let stored = known.records.iter().map(|record| self.stored(record, &known));
        let mut images: Vec<_> = stored.filter_map(Result::transpose).collect::<Result<_, _>>()?;
        images.sort_by_key(|image| std::cmp::Reverse((image.loaded, image.digest)));
        Ok(images)
    }

    /// An image.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Damaged`], and what the system said.
    pub fn image(&self, digest: &ImageDigest) -> Result<StoredImage, StoreError> {
        let record = self.record(digest)?;
        let stored = self.stored(&record, &self.known()?)?;
        stored.ok_or_else(|| StoreError::NotFound { asked: digest.to_string(), near: Vec::new() })
    }

    /// An image's configuration, as it came.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], and what the system said.
    pub fn config(&self, digest: &ImageDigest) -> Result<Vec<u8>, StoreError> {
        let found = files::read(&self.image_path(digest).join(CONFIG))?;
        found.ok_or_else(|| StoreError::NotFound { asked: digest.to_string(), near: Vec::new() })
    }

    /// What whole images and layers take of the disk, in bytes.
    ///
    /// # Errors
    /// What the system said.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for directory in ["images", "layers"] {
            let directory = self.directory.join(directory);
            for digest in files::digests(&directory)? {
                bytes += files::allocated(&directory.join(digest.hex()));
            }
        }
        Ok(bytes)
    }

    /// The same without layers that no image has.
    pub(super) fn bytes_of_images(&self) -> Result<u64, StoreError> {
        let known = self.known()?;
        let own = known.records.iter().map(|record| files::allocated(&self.image_path(&record.digest)));
        Ok(own.chain(known.layers.values().map(|(_, bytes)| *bytes)).sum())
    }

    /// All layers, whether an image has them or not, and what each takes of the disk, in bytes.
    ///
    /// # Errors
    /// What the system said.
    pub fn layers(&self) -> Result<Vec<(ImageDigest, u64)>, StoreError> {
        let directory = self.directory.join("layers");
        let layers = files::digests(&directory)?.into_iter();
        Ok(layers.map(|diff_id| (diff_id, files::allocated(&directory.join(diff_id.hex())))).collect())
    }

    /// Every image's record. One that is removed meanwhile is left out.
    pub(super) fn records(&self) -> Result<Vec<ImageRecord>, StoreError> {
        let digests = files::digests(&self.directory.join("images"))?;
        let records = digests.iter().map(|digest| super::record::read(&self.image_path(digest)));
        records.filter_map(Result::transpose).collect()
    }

    fn known(&self) -> Result<Known, StoreError> {
        let records = self.records()?;
        let mut layers = HashMap::new();
        for record in &records {
            for diff_id in record.layers.iter().collect::<BTreeSet<_>>() {
                let bytes = || files::allocated(&self.layer_path(diff_id));
                layers.entry(*diff_id).or_insert_with(|| (0, bytes())).0 += 1;
            }
        }
        Ok(Known { names: self.names()?, records, layers })
    }

    /// `None` if it is removed meanwhile.
    fn stored(&self, record: &ImageRecord, known: &Known) -> Result<Option<StoredImage>, StoreError> {
        let digest = record.digest;
        let Some(config) = files::read(&self.image_path(&digest).join(CONFIG))? else { return Ok(None) };
        let shown: Shown = serde_json::from_slice(&config).unwrap_or_default();
        let layer = |diff_id: &ImageDigest| {
            let (shared_by, bytes) = known.layers.get(diff_id).copied().unwrap_or((1, 0));
            StoredLayer { diff_id: *diff_id, bytes, shared_by }
        };
        let layers: Vec<_> = record.layers.iter().map(layer).collect();
        let own = files::allocated(&self.image_path(&digest));
        let mut image = StoredImage {
            digest,
            manifest_digest: self.manifest_digests(record)?.first().copied(),
            names: known.names.of(&digest),
            created: shown.created.and_then(|created| Some(DateTime::parse_from_rfc3339(&created).ok()?.to_utc())),
            loaded: record.loaded,
            last_used: self.last_used(&digest).map(DateTime::from),
            unique_bytes: own,
            total_bytes: own,
            layers,
            os: shown.os,
            architecture: shown.architecture,
            config,
        };
        let (unique, total) = image.distinct_layers().fold((own, own), |(unique, total), layer| {
            (unique + if layer.shared_by == 1 { layer.bytes } else { 0 }, total + layer.bytes)
        });
        (image.unique_bytes, image.total_bytes) = (unique, total);
        Ok(Some(image))
    }
}
