//! Why the store could not do what it was asked for.

use std::io;
use std::path::PathBuf;

use sandpen_types::image::{ImageDigest, ReferenceError};

/// Why the store of images refused or failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No image of this name, digest or beginning of one.
    #[error("no image {asked:?}{}; see `sandpen image ls`, or get one with `sandpen pull NAME` or `sandpen image load FILE`", did_you_mean(.near))]
    NotFound {
        /// What was asked for.
        asked: String,
        /// Names that look like it.
        near: Vec<String>,
    },
    /// The beginning of several images' digests.
    #[error("{asked:?} is the beginning of several images: {}; give more of it", .ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        asked: String,
        /// Those that begin so.
        ids: Vec<String>,
    },
    /// What is no name of an image.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// A name with a digest, which cannot be given to an image.
    #[error("{0} has a digest, which an image has by its content; give it a name with a tag alone")]
    TagHasDigest(String),
    /// An image with several names was to be removed by its digest.
    #[error("image {image} has several names: {}; remove it by each of them, or all with --force", .names.join(", "))]
    SeveralNames {
        /// The image.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// A microVM runs from it, or a sandbox that may be started again needs it.
    #[error("image {image:?} is in use by {by}; remove what uses it first")]
    InUse {
        /// The image, as it was asked for.
        image: String,
        /// By whom.
        by: String,
    },
    /// An image was to be committed whose layers are not all there.
    #[error("layers of image {image} are not in the store any more: {}; load it again", .layers.join(", "))]
    LayersMissing {
        /// The image.
        image: ImageDigest,
        /// What its layers are.
        layers: Vec<String>,
    },
    /// A draft that is not whole was to be committed.
    #[error("the draft in {path:?} is not whole: {reason}")]
    NotWhole {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file of the store does not hold what it has to.
    #[error("{path:?} of the store of images is damaged: {reason}; remove what it belongs to and load it again")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The system refused something.
    #[error("cannot {action} {path:?} of the store of images: {source}")]
    Io {
        /// What was to be done.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }
}

fn did_you_mean(names: &[String]) -> String {
    match names {
        [] => String::new(),
        names => format!(" (did you mean {}?)", names.join(" or ")),
    }
}
