//! Manifests, which say what an image consists of, and indexes, which say which image is for which platform.
//!
//! ```text
//!   index ─▶ (index ─▶)… manifest of the platform ─▶ configuration
//!                                                 └▶ layers, the lowest first
//! ```
//!
//! Sources: the OCI image specification 1.1 (descriptor.md, image-index.md, manifest.md) and of the distribution
//! project "Image Manifest V 2, Schema 2", whose list is an index by another name. Schema 1 is refused in words.
//!
//! A document is told apart by the media type that it says it has and by its content, which must agree with each
//! other and with what led to it: one that is an index to one reader and a manifest to another (CVE-2021-41190) is
//! refused. The media type of a layer only hints at its compression; its first bytes decide.

pub(crate) mod platforms;
mod raw;
#[cfg(test)]
mod tests;
pub(crate) mod written;

use sandpen_types::image::ImageDigest;

use crate::digest::digest_of;
use crate::json::{self, DOCUMENT_MAX, JsonError};
pub use crate::layer::Compression;
use crate::platform::Platform;
pub use written::{Packed, of_packed, with_packed};

/// Media types that are written as well as read.
pub mod media {
    /// An OCI index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// An OCI manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// A configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// A layer that is not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// One that is packed with gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// Docker's index.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker's manifest.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker's configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker's name for a layer that is packed with gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// What to ask a registry for.
    pub const ACCEPTED: [&str; 4] = [INDEX, MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
    /// Schema 1, and how it is called when it is signed.
    pub(super) const SCHEMA_1: [&str; 2] = [
        "application/vnd.docker.distribution.manifest.v1+json",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
    ];
}

/// The name of an image in an index: a reference, a tag, or anything that whoever wrote it chose.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The reference of an image in an index, whole, as containerd and Docker write it.
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// Most entries of an index.
pub const ENTRIES_MAX: usize = 4096;
/// Most indexes on the way from a descriptor to its manifest.
pub const INDEXES_MAX: usize = 2;

/// Points at a document or a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is, as far as it is said.
    pub media_type: Option<String>,
    /// Of its bytes.
    pub digest: ImageDigest,
    /// Its bytes.
    pub size: u64,
    /// What it runs on, as far as it is said.
    pub platform: Option<Platform>,
    /// The annotation [`REF_NAME`].
    pub ref_name: Option<String>,
    /// The annotation [`CONTAINERD_NAME`].
    pub containerd_name: Option<String>,
    /// Whether it is an image or an index: signatures, attestations and other artifacts are not.
    pub is_image: bool,
}

/// An OCI index or Docker's manifest list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageIndex {
    /// What is in it, artifacts included.
    pub manifests: Vec<Descriptor>,
}

/// An OCI manifest or Docker's of schema 2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the lowest first, at most [`LAYERS_MAX`](crate::config::LAYERS_MAX).
    pub layers: Vec<LayerDescriptor>,
}

/// Points at a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerDescriptor {
    /// Of its bytes as they are stored, compressed or not.
    pub digest: ImageDigest,
    /// Those bytes.
    pub size: u64,
    /// How its media type says they are compressed.
    pub hint: Compression,
}

/// Either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An index.
    Index(ImageIndex),
    /// A manifest.
    Manifest(ImageManifest),
}

/// The manifest that a descriptor led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// Of its bytes.
    pub digest: ImageDigest,
    /// Those, as they came.
    pub bytes: Vec<u8>,
    /// What they say.
    pub manifest: ImageManifest,
}

/// A document that is no manifest or index, or one that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// It cannot be read.
    #[error("the manifest cannot be read: {0}")]
    Json(#[from] JsonError),
    /// Schema 1.
    #[error("it is a manifest of schema 1, which Docker gave up in 2017; push the image again with a current tool")]
    Schema1,
    /// Neither.
    #[error("it is neither a manifest nor an index: {0}")]
    Neither(String),
    /// Both, or something other than it says.
    #[error(
        "{said} says that it is \"{media_type}\", but its content is that of {content}; no two tools would agree on it"
    )]
    Disagrees {
        /// Who says it.
        said: &'static str,
        /// What it says.
        media_type: String,
        /// What there is.
        content: &'static str,
    },
    /// Its configuration is not that of an image.
    #[error("its configuration is of type \"{0}\", so it is no image of a file system but some other artifact")]
    Artifact(String),
    /// A layer that is somewhere else.
    #[error(
        "layer {number} ({digest}) is of type \"{media_type}\": such a layer is not distributed with its image; make \
             the image again without it"
    )]
    Foreign {
        /// Which, from 1.
        number: usize,
        /// Its digest.
        digest: ImageDigest,
        /// Its type.
        media_type: String,
    },
    /// A layer that nobody here can read.
    #[error(
        "layer {number} ({digest}) is of the unknown type \"{media_type}\"; known are tar, tar+gzip and tar+zstd of OCI \
             and Docker"
    )]
    UnknownLayer {
        /// Which, from 1.
        number: usize,
        /// Its digest.
        digest: ImageDigest,
        /// Its type.
        media_type: String,
    },
    /// No image for this platform.
    #[error("there is no image for {wanted} in it; there are {available}")]
    NoPlatform {
        /// What was asked for.
        wanted: Platform,
        /// What there is, in words.
        available: String,
    },
    /// An index in an index in an index.
    #[error("its indexes point at indexes, more than {INDEXES_MAX} deep")]
    TooDeep,
    /// Not the bytes that were pointed at.
    #[error("what is called {digest} has another digest, {found}: it was changed or damaged")]
    LyingDigest {
        /// Its name.
        digest: ImageDigest,
        /// Of its bytes.
        found: ImageDigest,
    },
    /// Not as many bytes as were promised.
    #[error("{digest} has {found} bytes, but {claimed} by what points at it: it was changed or damaged")]
    LyingSize {
        /// Its name.
        digest: ImageDigest,
        /// What was promised.
        claimed: u64,
        /// What there is.
        found: u64,
    },
}

impl Document {
    /// Reads a document of at most [`DOCUMENT_MAX`] bytes. `declared` is the media type of what led to it: a
    /// descriptor's, or that of a registry's answer; one that is of no manifest or index says nothing.
    pub fn parse(bytes: &[u8], declared: Option<&str>) -> Result<Self, ManifestError> {
        json::parse::<raw::RawDocument>(bytes)?.checked(declared)
    }
}

impl Descriptor {
    /// Checks bytes against what this promises of them.
    pub fn check(&self, bytes: &[u8]) -> Result<(), ManifestError> {
        let found = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        if found != self.size {
            return Err(ManifestError::LyingSize { digest: self.digest, claimed: self.size, found });
        }
        let found = digest_of(bytes);
        if found != self.digest {
            return Err(ManifestError::LyingDigest { digest: self.digest, found });
        }
        Ok(())
    }

    /// Follows this to the manifest of the platform, over at most [`INDEXES_MAX`] indexes. `fetch` gets a document's
    /// bytes, which need not be checked and are at most [`DOCUMENT_MAX`].
    pub fn resolve<E: From<ManifestError>>(
        &self,
        platform: &Platform,
        mut fetch: impl FnMut(&Self) -> Result<Vec<u8>, E>,
    ) -> Result<Resolved, E> {
        let mut next = self.clone();
        for _ in 0..=INDEXES_MAX {
            if next.size > DOCUMENT_MAX {
                return Err(ManifestError::from(JsonError::TooLarge { bytes: next.size }).into());
            }
            let bytes = fetch(&next)?;
            next.check(&bytes)?;
            match Document::parse(&bytes, next.media_type.as_deref())? {
                Document::Manifest(manifest) => return Ok(Resolved { digest: next.digest, bytes, manifest }),
                Document::Index(index) => next = index.choose(platform)?.clone(),
            }
        }
        Err(ManifestError::TooDeep.into())
    }
}
