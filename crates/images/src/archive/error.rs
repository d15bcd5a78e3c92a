//! What can be wrong with an archive. Names from within one were made harmless on a terminal before they got here.

use std::io;

use sandpen_types::image::{ImageDigest, ReferenceError};
use sandpen_types::visible::visible;

use super::{DOCUMENTS_MAX, IMAGES_MAX, Outer};
use crate::config::ConfigError;
use crate::json::{DOCUMENT_MAX, JsonError, shown};
use crate::manifest::ManifestError;

/// An archive that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// Reading failed.
    #[error("reading {what}: {error}")]
    Io {
        /// The part.
        what: String,
        /// Why.
        error: io::Error,
    },
    /// Compressed as a whole: for the caller to unpack first.
    #[error("the archive is compressed as a whole ({0:?}); unpack it first")]
    Compressed(Outer),
    /// Something else.
    #[error("it is no tar, compressed or not; docker save, podman save and skopeo copy write archives of images")]
    NotTar,
    /// A tar of something else.
    #[error(
        "it is a tar, but not of images: it has neither oci-layout and index.json nor manifest.json at its top; \
             docker save, podman save and skopeo copy write such archives, docker export does not"
    )]
    NotImages,
    /// Without manifest.json.
    #[error("it was written by Docker before 1.10 and has no manifest.json; save the image again with a current tool")]
    TooOld,
    /// A layout of another version.
    #[error("its oci-layout says version \"{0}\", and 1 is known")]
    LayoutVersion(String),
    /// No image at all.
    #[error("it is an archive of images without an image in it")]
    Empty,
    /// Too many.
    #[error("it has more than {IMAGES_MAX} images; load it in parts")]
    ManyImages,
    /// A broken tar.
    #[error("the tar is damaged or of an unknown kind at byte {at}: {reason}; get or write the archive again")]
    Tar {
        /// Where the header begins.
        at: u64,
        /// In words.
        reason: String,
    },
    /// A file that something needs is not there.
    #[error("\"{path}\" is not in the archive, and an image in it needs it: the archive is not complete")]
    Missing {
        /// Its name.
        path: String,
    },
    /// Two entries of one name.
    #[error("\"{path}\" is in the archive twice, and nothing says which of them counts")]
    Twice {
        /// Their name.
        path: String,
    },
    /// A directory, a link or a device in the place of a file.
    #[error("\"{path}\" is {found} and not a file of the archive")]
    NotFile {
        /// Its name.
        path: String,
        /// What it is.
        found: &'static str,
    },
    /// A name that leads out, or that no archive's writer gives a file.
    #[error("the name \"{path}\" leads out of the archive, or is no name of a file in it")]
    Outside {
        /// The name.
        path: String,
    },
    /// A document too long to be one.
    #[error("\"{path}\" has {size} bytes, and at most {DOCUMENT_MAX} of such a document are read")]
    LargeDocument {
        /// Its name.
        path: String,
        /// How many.
        size: u64,
    },
    /// Too much to keep in memory.
    #[error("its configurations and manifests have more than {DOCUMENTS_MAX} bytes together; load it in parts")]
    ManyDocuments,
    /// A document that cannot be read.
    #[error("\"{path}\" cannot be read: {error}")]
    Document {
        /// Its name.
        path: String,
        /// Why.
        error: JsonError,
    },
    /// The index at the top is wrong.
    #[error("\"index.json\": {0}")]
    Index(ManifestError),
    /// A manifest, or an index further in, is wrong.
    #[error("{0}")]
    Manifest(#[from] ManifestError),
    /// A configuration is wrong.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The manifest and the configuration are of different images.
    #[error("its configuration names {diff_ids} layers, but the archive has {layers} for it")]
    LayerCount {
        /// In the archive.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// Not the bytes that were named.
    #[error("\"{path}\" has another digest, {found}: it was changed or damaged")]
    LyingDigest {
        /// Its name.
        path: String,
        /// Of its bytes.
        found: ImageDigest,
    },
    /// Not as many bytes as were named.
    #[error("\"{path}\" has {found} bytes, but {claimed} by what points at it: it was changed or damaged")]
    LyingSize {
        /// Its name.
        path: String,
        /// What was named.
        claimed: u64,
        /// What there is.
        found: u64,
    },
    /// A name that is none.
    #[error("an image in it has a name that is none: {}", visible(&.0.to_string()))]
    Name(#[from] ReferenceError),
    /// A name with a digest that is not that of its image.
    #[error("the image that is called \"{name}\" has not the digest in that name; name it by a tag")]
    LyingName {
        /// The name.
        name: String,
    },
    /// One name for two images.
    #[error("two images in it are called \"{name}\", and nothing says which of them counts")]
    NameTwice {
        /// The name.
        name: String,
    },
    /// Something is wrong with one of the images.
    #[error("image {image}: {error}")]
    Image {
        /// Its name or number.
        image: String,
        /// What.
        error: Box<Self>,
    },
}

impl ArchiveError {
    pub(super) fn io(what: &str, error: io::Error) -> Self {
        Self::Io { what: shown(what), error }
    }

    /// Says which image an error is of.
    pub(super) fn of(self, number: usize, name: Option<&str>) -> Self {
        let image =
            name.map_or_else(|| format!("number {number}, without a name"), |name| format!("\"{}\"", shown(name)));
        Self::Image { image, error: Box::new(self) }
    }
}
