//! What is told of something that is watched.
//!
//! Variants are encoded by their position and fields by their order: add new variants at the end only, and change none.

use serde::{Deserialize, Serialize};

use crate::error::FileError;

/// Something happened. Paths are as they are below the path that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum WatchEvent {
    /// All that happens from now on is told. The first event.
    Watching,
    /// It is there now.
    Created {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// Its content changed.
    Modified {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Somebody who had it open for writing has closed it.
    Closed {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
    },
    /// Mode, owner, times or the like changed.
    Attributes {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// It is not there any more.
    Removed {
        /// What.
        #[serde(with = "serde_bytes")]
        path: Vec<u8>,
        /// Whether it was a directory.
        is_directory: bool,
    },
    /// It has another name, of which both are watched.
    Renamed {
        /// The one of before.
        #[serde(with = "serde_bytes")]
        from: Vec<u8>,
        /// The one of now.
        #[serde(with = "serde_bytes")]
        to: Vec<u8>,
        /// Whether it is a directory.
        is_directory: bool,
    },
    /// More happened than could be told: look for yourself.
    Overflow,
    /// Nothing more is told: what was asked for is gone, is not there, or cannot be watched. The last event.
    Failed(FileError),
}
