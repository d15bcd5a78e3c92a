//! Why layers make no tree.

use std::io;

use crate::layer::ENTRIES_MAX;

/// Most symbolic links on the way to an entry (MAXSYMLINKS of Linux).
pub(super) const LINKS_MAX: u32 = 40;

/// Most steps on the ways to all entries of all layers: 250 of each of as many as a layer may have. Those of most images
/// have ten.
pub(super) const STEPS_MAX: u64 = if cfg!(test) { 1 << 20 } else { 1 << 29 };
/// As many as a link on the way is worth, which is read from the disk.
pub(super) const STEPS_OF_LINK: u64 = 16;

/// What is wrong with an entry among others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says it itself
pub enum TreeProblem {
    #[error("the layer has its path twice")]
    Twice,
    #[error("it lies below something that is no directory")]
    BelowFile,
    #[error("it lies behind more than {LINKS_MAX} symbolic links, or a loop of them")]
    LinkLoop,
    #[error("it links to nothing: what it names is not there, neither in its layer nor below")]
    LinkToNothing,
    #[error("it links to a directory")]
    LinkToDirectory,
    #[error("the root directory cannot be anything else, and cannot be removed")]
    Root,
    #[error("there are more than {ENTRIES_MAX} entries")]
    TooMany,
    #[error("the names of all entries together are too long")]
    Names,
    #[error("the ways to it and to those before it are too long together, links included")]
    Steps,
    #[error("it has more names than a file can have")]
    Links,
}

/// Why layers make no tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// An entry.
    #[error("the entry {}: {problem}", String::from_utf8_lossy(.path))]
    Entry {
        /// Its path.
        path: Vec<u8>,
        /// What.
        problem: TreeProblem,
    },
    /// The list of entries.
    #[error("reading the list of a layer's entries")]
    Read(#[from] io::Error),
}
