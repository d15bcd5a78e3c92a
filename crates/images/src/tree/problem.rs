//! Why layers make no tree.

use std::io;

use crate::layer::ENTRIES_MAX;

/// Most symbolic links on the way to an entry (MAXSYMLINKS of Linux).
pub(super) const LINKS_MAX: u32 = 40;

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
