//! Why a layer cannot be unpacked.

use std::io;
use std::path::PathBuf;

use sandpen_types::image::ImageDigest;

use super::archive_reader::TarProblem;
use super::decompress::Compression;
use super::ratio::TooMuch;
use crate::tree::TreeProblem;

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The source.
    #[error("reading it")]
    Read(#[source] io::Error),
    /// What it is packed with.
    #[error("unpacking it ({compression:?}); it is damaged")]
    Unpack {
        /// How.
        compression: Compression,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive.
    #[error("its entry {entry:?}: {problem}")]
    Archive {
        /// The name, as far as it is text.
        entry: String,
        /// What.
        problem: TarProblem,
    },
    /// An entry together with others.
    #[error("its entry {entry:?}: {problem}")]
    Tree {
        /// The path, as far as it is text.
        entry: String,
        /// What.
        problem: TreeProblem,
    },
    /// Other bytes than were told.
    #[error("the digest of {what} is {found}, and not {expected} as it says: it was changed or damaged")]
    Digest {
        /// Of what.
        what: &'static str,
        /// What is told.
        expected: ImageDigest,
        /// What is so.
        found: ImageDigest,
    },
    /// More or fewer bytes than were told.
    #[error("it has {found} bytes, and not {expected} as it says")]
    Size {
        /// What is told.
        expected: u64,
        /// What is so.
        found: u64,
    },
    /// Unpacking it would not end.
    #[error(transparent)]
    Ratio(TooMuch),
    /// The disk.
    #[error("writing {path:?}; is there room on the disk?")]
    Write {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("starting a thread to unpack it")]
    Thread(#[source] io::Error),
}

pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl LayerError {
    pub(super) fn archive(entry: &[u8], problem: TarProblem) -> Self {
        Self::Archive { entry: text(entry), problem }
    }
}
