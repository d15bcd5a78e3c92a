//! How images come into a store: from an archive, a root directory, or the tar of one.
//!
//! ```text
//!   archive ─▶ its images ─▶ layers that are not there, side by side: locked, unpacked into a draft, named
//!                                └▶ all there: metadata of the image into a draft ─▶ the image, with its names
//!   root directory ─▶ tar ─▶ one layer, whose configuration is made up ─▶ the same
//! ```
//!
//! Two who bring the same layer do the work once: the second waits for the lock of its digest, and finds it.
//!
//! May know: the store, layers, archives. May not: where an archive comes from but a file, a directory or a stream.

use std::io;
use std::path::PathBuf;

use sandpen_types::image::{ImageDigest, ImageReference};
use serde::{Deserialize, Serialize};

use crate::archive::ArchiveError;
use crate::config::ConfigError;
use crate::erofs::ErofsError;
use crate::layer::{LayerError, TooMuch};
use crate::store::StoreError;
use crate::tree::TreeError;
use crate::walk::WalkError;

mod image;
mod layer;
mod load;
mod root;
mod spool;

pub use image::compose;
pub use layer::{NewLayer, add_layer, add_root};
pub use load::{LoadOptions, LoadSource, load};
pub use root::{import_directory, import_tar};

/// How far an import is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// A layer is unpacked now.
    LayerStarted {
        /// Which.
        diff_id: ImageDigest,
        /// Its bytes in the archive; zero where nobody knows.
        bytes: u64,
    },
    /// So much of it was read, all in all.
    LayerRead {
        /// Which.
        diff_id: ImageDigest,
        /// Bytes.
        bytes: u64,
    },
    /// A layer is in the store, and safe on the disk.
    LayerReady {
        /// Which.
        diff_id: ImageDigest,
        /// Whether it was there before.
        was_there: bool,
    },
    /// An image is in the store.
    ImageReady {
        /// Which.
        digest: ImageDigest,
        /// Its names from this import.
        names: Vec<ImageReference>,
    },
}

/// Who is told how far it is, by several threads.
pub type Tell<'a> = &'a (dyn Fn(Progress) + Sync);

/// Why nothing, or not all, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A layer.
    #[error("the layer {number} of {of} ({diff_id})")]
    Layer {
        /// Which, from 1, the lowest first.
        number: usize,
        /// Of how many.
        of: usize,
        /// What it should be.
        diff_id: ImageDigest,
        /// The cause.
        #[source]
        source: Box<LayerError>,
    },
    /// The only layer of a root directory.
    #[error("reading the files of the root directory")]
    Root(#[source] Box<LayerError>),
    /// The root directory.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// Layers that do not fit together.
    #[error("the layer {number} of {of} ({diff_id}) does not fit on those below it")]
    Merge {
        /// Which, from 1, the lowest first.
        number: usize,
        /// Of how many.
        of: usize,
        /// Which it is.
        diff_id: ImageDigest,
        /// The cause.
        #[source]
        source: TreeError,
    },
    /// The file system of an image.
    #[error("writing the file system of the image {image}")]
    FileSystem {
        /// Which.
        image: ImageDigest,
        /// The cause.
        #[source]
        source: ErofsError,
    },
    /// The configuration that was made up.
    #[error("describing the image")]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file of the store.
    #[error("{action} {path:?}")]
    File {
        /// What.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// What is imported cannot be read.
    #[error("reading the archive")]
    Read(#[source] io::Error),
    /// It is packed in a way that nobody here unpacks.
    #[error("the archive is packed with {0}, which is not unpacked here; unpack it first ({0} -d FILE)")]
    Packed(&'static str),
    /// It would take too much of the disk.
    #[error("the archive is a bomb: {0}")]
    TooMuch(#[from] TooMuch),
    /// One name for several images.
    #[error(
        "a name can be given to one image, and the archive has {0}; leave --name out, they have names of their own"
    )]
    OneName(usize),
    /// Two threads.
    #[error("starting a thread")]
    Thread(#[source] io::Error),
}

impl ImportError {
    fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

#[cfg(test)]
mod tests;
