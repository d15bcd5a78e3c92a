//! Files that can be made again: how one comes to be there whole or not at all, and which ones go.
//!
//! ```text
//!              create                  commit: synced, renamed            keep_within_budget
//!   (nothing) ────────▶ draft, locked ─────────────────────────▶ an entry ───────────────────▶ (nothing)
//!                         │ dropped: removed                       ▲   │ mark_used    only what nobody uses
//!                         │ its maker died: unlocked ── sweep ─┐   └───┘
//!                         ▼                                    ▼
//!                      (nothing)                            (nothing)
//! ```
//!
//! May know: directories, files and bytes. May not: what is in them, how an entry is named, and who waits for whom
//! while one is being made. Makers of the same entry do not see each other here: each commits a whole one, and the
//! last one stays.

mod cache;
mod draft;

use std::fs::{self, DirBuilder};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::Path;

pub use cache::{Cache, CacheUser, Kept, Removed, mark_used};
pub use draft::{Draft, is_draft, sweep};

/// What a file takes of the disk, in bytes: holes count nothing.
pub fn allocated_by(meta: &fs::Metadata) -> u64 {
    /// Bytes of a block in `st_blocks` (stat(2)).
    const STAT_BLOCK: u64 = 512;
    meta.blocks().saturating_mul(STAT_BLOCK)
}

/// Makes a directory and those above it for our user alone, where they are missing.
///
/// # Errors
/// What the system said.
pub fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Writes an entry: whole or not at all, in the place of the one that is there. Makes its directory where that is
/// missing, and removes drafts of makers that died.
///
/// # Errors
/// What the system said; what was there before is unchanged then.
pub fn write(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
    make_directory(directory)?;
    sweep(directory);
    let draft = Draft::with_mode(directory, mode)?;
    draft.file().write_all(bytes)?;
    draft.commit(path)
}

/// Bytes in lower-case hex: for names by content.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}"); // a String takes everything
        text
    })
}

#[cfg(test)]
mod tests;
