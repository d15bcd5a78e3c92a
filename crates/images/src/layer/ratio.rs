//! How much what is unpacked may be for its packed size: of the disk, of which zeros take nothing, and of the time to read
//! it.

use std::fs::File;
use std::io;

/// So many bytes may be written whatever the packed size is…
const WRITTEN_FREE: u64 = if cfg!(test) { 16 << 20 } else { 1 << 30 };
/// …and beyond so many times that: of files nobody ever had 300.
const WRITTEN_MAX: u64 = 500;

/// Bytes that may be read, zeros and all…
const READ_FREE: u64 = if cfg!(test) { 128 << 20 } else { 16 << 30 };
/// …and beyond: gzip makes at most 1,032 of one, and does of zeros.
const READ_MAX: u64 = 1100;

/// It is more than files ever are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "it unpacks to more than {READ_MAX} times its size, or to more than {WRITTEN_MAX} times without zeros, which no files do"
)]
pub struct TooMuch;

/// Refuses what was `packed` bytes, and is more by now.
///
/// # Errors
/// [`TooMuch`].
pub(crate) fn check(packed: u64, read: u64, written: u64) -> Result<(), TooMuch> {
    let most = |free: u64, times: u64| packed.saturating_mul(times).max(free);
    if read > most(READ_FREE, READ_MAX) || written > most(WRITTEN_FREE, WRITTEN_MAX) { Err(TooMuch) } else { Ok(()) }
}

/// What these files have by now, which are written from their beginning to their end.
pub(super) fn written(files: &[File]) -> io::Result<u64> {
    files.iter().map(|file| Ok(file.metadata()?.len())).sum()
}
