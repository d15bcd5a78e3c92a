//! A layer: a tar archive, unpacked once into files from which every image that has it is made.
//!
//! ```text
//!   compressed ─▶ digest ─▶ decompressed ─▶ digest (diff_id) ─▶ tar ─┬─▶ blob     contents of files, each from a block on
//!                                                                   ├─▶ entries  names, kinds, attributes, where in the blob
//!                                                                   └─▶ tar      all else of the archive, for `save`
//! ```
//!
//! Each layer is a directory of three files and what is known of it. Nothing of it depends on another layer.

use std::path::Path;

use sandpen_types::image::ImageDigest;
use serde::{Deserialize, Serialize};

mod archive_reader;
pub mod blob;
mod decompress;
pub mod entry;
mod error;
mod path;
pub(crate) mod ratio;
mod split;
mod stream;
pub mod tar_writer;
mod unpack;

pub use decompress::Compression;
pub use error::LayerError;
pub use ratio::TooMuch;
pub use sandpen_tree::{NAME_MAX, NameProblem, PATH_MAX};
pub use split::{SplitError, TarReader, TarSplit};
pub use unpack::unpack;

/// Contents of files.
pub const BLOB: &str = "blob";
/// The list of entries.
pub const ENTRIES: &str = "entries";
/// What else the archive held.
pub const TAR: &str = "tar";

/// Bytes of a block: what EROFS before Linux 6.4 knows.
pub const BLOCK: u64 = BLOCK_LEN as u64;
pub(crate) const BLOCK_LEN: usize = 4096;
/// Most entries of a layer, and of an image.
pub const ENTRIES_MAX: u64 = 2_000_000;
/// Most bytes of one file as it is read, holes included.
pub const FILE_MAX: u64 = 64 << 30;

/// What is known of a layer beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Its diff_id.
    pub diff_id: Option<ImageDigest>,
    /// The digest of the packed bytes.
    pub packed: Option<ImageDigest>,
    /// How many they are.
    pub packed_bytes: Option<u64>,
}

/// What is known of a layer that was unpacked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// The digest of its tar archive.
    pub diff_id: ImageDigest,
    /// Bytes of that archive.
    pub tar_bytes: u64,
    /// Bytes of [`BLOB`], a multiple of [`BLOCK`].
    pub blob_bytes: u64,
    /// How many entries it has.
    pub entries: u64,
    /// Bytes of its files' contents, holes included.
    pub content_bytes: u64,
}

impl LayerInfo {
    /// Where the archive can be had again.
    pub fn tar_split(directory: &Path) -> TarSplit {
        TarSplit::new(directory.join(TAR), directory.join(BLOB))
    }
}

#[cfg(test)]
mod tests;
