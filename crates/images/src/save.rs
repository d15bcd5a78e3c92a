//! Writes archives of images, to a file or a pipe: what is written once is never gone back to.
//!
//! ```text
//!   Docker archive                       OCI archive
//!   manifest.json                        oci-layout · index.json
//!   <digest of a configuration>.json     blobs/sha256/<configuration, manifest>
//!   <diff_id>.tar                        blobs/sha256/<diff_id>
//! ```
//!
//! Sources: Docker's image specification 1.2, the OCI image specification 1.1 (image-layout.md, manifest.md). The first
//! is what `docker load` reads since Docker 1.10, the second is what OCI's tools do; `skopeo` and `podman` read both.
//!
//! The same images make the same bytes: there are no times, owners or random names in them. Layers are not compressed,
//! each is written once however many images have it, and it is an error if its bytes are not what its diff_id says.
//! So a manifest is made anew, and names are written by their tags only: a digest in one would be of another manifest.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use sandpen_tree::{Kind, Meta, Segment, Writer};
use sandpen_types::image::{ImageDigest, ImageReference};
use serde::Serialize;

use crate::config::{ConfigError, ImageConfig};
use crate::digest::{CheckedReader, DigestMismatch, digest_of};
use crate::manifest::written::{Descriptor, Index, Manifest};
use crate::manifest::{CONTAINERD_NAME, REF_NAME, media};

/// Bytes of a layer that are read at once.
const PIECE: usize = 256 << 10;

/// What kind of archive to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveFormat {
    /// Docker's.
    #[default]
    Docker,
    /// That of the Open Container Initiative.
    Oci,
}

/// An image to write.
#[derive(Debug, Clone)]
pub struct SavedImage<'a> {
    /// Its names; those without a tag are left out.
    pub names: Vec<ImageReference>,
    /// Its configuration, as it came.
    pub config: &'a [u8],
    /// Its layers, the lowest first: those of its configuration.
    pub layers: Vec<SavedLayer>,
}

/// A layer to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SavedLayer {
    /// Of its tar.
    pub diff_id: ImageDigest,
    /// Bytes of its tar.
    pub size: u64,
}

/// Where the tars of layers come from; a closure will do.
pub trait LayerTars {
    /// Opens one. Each is asked for once, after the one before was read to its end.
    fn open(&mut self, layer: &SavedLayer) -> io::Result<Box<dyn Read + '_>>;
}

impl<F: FnMut(&SavedLayer) -> io::Result<Box<dyn Read>>> LayerTars for F {
    fn open(&mut self, layer: &SavedLayer) -> io::Result<Box<dyn Read + '_>> {
        self(layer)
    }
}

/// An archive that was not written, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    /// There is nothing to write.
    #[error("an archive of no images is none")]
    Nothing,
    /// A configuration is none.
    #[error("image {number}: {error}")]
    Config {
        /// Which, from 1.
        number: usize,
        /// Why.
        error: ConfigError,
    },
    /// The layers are not those of the configuration.
    #[error("image {number}: its layers are not those that its configuration names")]
    Layers {
        /// Which, from 1.
        number: usize,
    },
    /// One layer with two sizes.
    #[error("the layer {diff_id} is said to have {one} bytes, and {other}")]
    Sizes {
        /// Which.
        diff_id: ImageDigest,
        /// Bytes.
        one: u64,
        /// Other bytes.
        other: u64,
    },
    /// One name for two images.
    #[error("two images are called {0}; give each its own name")]
    NameTwice(String),
    /// A layer could not be read.
    #[error("reading the layer {diff_id}: {error}")]
    Read {
        /// Which.
        diff_id: ImageDigest,
        /// Why.
        error: io::Error,
    },
    /// A layer is another.
    #[error("a layer is not what it was: {0}; the archive is not complete")]
    Changed(DigestMismatch),
    /// The archive could not be written.
    #[error("writing the archive: {0}")]
    Write(#[from] io::Error),
}

/// Writes an archive of these images.
pub fn save(
    images: &[SavedImage<'_>],
    format: ArchiveFormat,
    layers: &mut dyn LayerTars,
    out: impl Write,
) -> Result<(), SaveError> {
    let contents = Contents::of(images)?;
    let mut archive = Archive { out: Writer::new(out), written: BTreeSet::new() };
    match format {
        ArchiveFormat::Docker => contents.write_docker(&mut archive)?,
        ArchiveFormat::Oci => contents.write_oci(&mut archive)?,
    }
    for (diff_id, size) in &contents.sizes {
        let layer = SavedLayer { diff_id: *diff_id, size: *size };
        let name = match format {
            ArchiveFormat::Docker => docker_layer(diff_id),
            ArchiveFormat::Oci => oci_blob(diff_id),
        };
        if !archive.written.contains(&name) {
            archive.layer(&name, &layer, layers)?;
        }
    }
    Ok(archive.out.finish().map(drop)?)
}

fn docker_layer(diff_id: &ImageDigest) -> String {
    format!("{}.tar", diff_id.hex())
}

fn oci_blob(digest: &ImageDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// What is to be written, checked, each image once.
struct Contents<'a> {
    images: Vec<Content<'a>>,
    /// Every layer once, in the order of their digests.
    sizes: BTreeMap<ImageDigest, u64>,
}

struct Content<'a> {
    names: Vec<ImageReference>,
    config: &'a [u8],
    config_digest: ImageDigest,
    layers: &'a [SavedLayer],
}

impl<'a> Contents<'a> {
    fn of(images: &'a [SavedImage<'a>]) -> Result<Self, SaveError> {
        let mut contents = Self { images: Vec::new(), sizes: BTreeMap::new() };
        for (at, image) in images.iter().enumerate() {
            let number = at + 1;
            let parsed = ImageConfig::parse(image.config).map_err(|error| SaveError::Config { number, error })?;
            if !image.layers.iter().map(|layer| layer.diff_id).eq(parsed.diff_ids) {
                return Err(SaveError::Layers { number });
            }
            for SavedLayer { diff_id, size } in &image.layers {
                let one = *contents.sizes.entry(*diff_id).or_insert(*size);
                if one != *size {
                    return Err(SaveError::Sizes { diff_id: *diff_id, one, other: *size });
                }
            }
            let config_digest = digest_of(image.config);
            let place = contents.images.iter().position(|content| content.config_digest == config_digest);
            let place = place.unwrap_or_else(|| {
                let names = Vec::new();
                contents.images.push(Content { names, config: image.config, config_digest, layers: &image.layers });
                contents.images.len() - 1
            });
            for name in image.names.iter().filter_map(ImageReference::tagged) {
                match contents.images.iter().position(|content| content.names.contains(&name)) {
                    None => contents.images[place].names.push(name),
                    Some(other) if other == place => {}
                    Some(_) => return Err(SaveError::NameTwice(name.to_string())),
                }
            }
        }
        if contents.images.is_empty() { Err(SaveError::Nothing) } else { Ok(contents) }
    }

    fn write_docker<W: Write>(&self, archive: &mut Archive<W>) -> Result<(), SaveError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Image {
            config: String,
            repo_tags: Option<Vec<String>>,
            layers: Vec<String>,
        }

        let config_name = |image: &Content<'_>| format!("{}.json", image.config_digest.hex());
        let manifest = self.images.iter().map(|image| Image {
            config: config_name(image),
            repo_tags: (!image.names.is_empty()).then(|| image.names.iter().map(ImageReference::familiar).collect()),
            layers: image.layers.iter().map(|layer| docker_layer(&layer.diff_id)).collect(),
        });
        let manifest: Vec<_> = manifest.collect();
        archive.json("manifest.json", &manifest)?;
        for image in &self.images {
            archive.document(&config_name(image), image.config)?;
        }
        Ok(())
    }

    fn write_oci<W: Write>(&self, archive: &mut Archive<W>) -> Result<(), SaveError> {
        let (mut manifests, mut entries) = (Vec::new(), Vec::new());
        for image in &self.images {
            let layers = image.layers.iter();
            let config = Descriptor::new(media::CONFIG, image.config_digest, len(image.config));
            let layers = layers.map(|layer| Descriptor::new(media::LAYER, layer.diff_id, layer.size));
            let manifest = Manifest::new(config, layers.collect());
            let manifest = serde_json::to_vec(&manifest).map_err(io::Error::from)?;
            let entry = Descriptor::new(media::MANIFEST, digest_of(&manifest), len(&manifest));
            let named = |name: &ImageReference| {
                let annotations = [REF_NAME, CONTAINERD_NAME].map(|key| (key, name.to_string()));
                Descriptor { annotations: annotations.into(), ..entry.clone() }
            };
            entries.extend(image.names.iter().map(named));
            if image.names.is_empty() {
                entries.push(entry);
            }
            manifests.push(manifest);
        }
        let index = Index { schema_version: 2, media_type: media::INDEX, manifests: entries };
        archive.document("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        archive.json("index.json", &index)?;
        archive.directory("blobs")?;
        archive.directory("blobs/sha256")?;
        for (image, manifest) in self.images.iter().zip(&manifests) {
            archive.document(&oci_blob(&image.config_digest), image.config)?;
            archive.document(&oci_blob(&digest_of(manifest)), manifest)?;
        }
        Ok(())
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// The tar that is written. After an error it has no end, so that nobody takes it for a whole one.
struct Archive<W> {
    out: Writer<W>,
    written: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn json(&mut self, name: &str, value: &impl Serialize) -> Result<(), SaveError> {
        self.document(name, &serde_json::to_vec(value).map_err(io::Error::from)?)
    }

    fn document(&mut self, name: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.written.insert(name.to_owned());
        self.file(name, len(bytes))?;
        Ok(self.out.contents(bytes)?)
    }

    fn directory(&mut self, name: &str) -> Result<(), SaveError> {
        let meta = Meta { mode: 0o755, ..Meta::default() };
        Ok(self.out.begin(name.as_bytes(), &Kind::Directory, &meta)?)
    }

    /// Begins a file; its contents follow.
    fn file(&mut self, name: &str, bytes: u64) -> Result<(), SaveError> {
        let kind = Kind::File { bytes, segments: Segment::whole(bytes) };
        let meta = Meta { mode: 0o644, ..Meta::default() };
        Ok(self.out.begin(name.as_bytes(), &kind, &meta)?)
    }

    fn layer(&mut self, name: &str, layer: &SavedLayer, from: &mut dyn LayerTars) -> Result<(), SaveError> {
        let SavedLayer { diff_id, size } = *layer;
        let tar = from.open(layer).map_err(|error| SaveError::Read { diff_id, error })?;
        let mut tar = CheckedReader::new(tar, diff_id, size);
        self.file(name, size)?;
        let mut piece = vec![0; PIECE];
        loop {
            match tar.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(length) => self.out.contents(&piece[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    return Err(match error.downcast::<DigestMismatch>() {
                        Ok(mismatch) => SaveError::Changed(mismatch),
                        Err(error) => SaveError::Read { diff_id, error },
                    });
                }
            }
        }
    }
}
