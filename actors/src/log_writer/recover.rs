//! Taking over what earlier writers left, however they ended.
//!
//! The log file's length is the truth. An index that is missing or damaged is made anew; a log is
//! never refused for it.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use super::LogError;
use super::files::{KnownFile, LockedIndex, create_index, open_existing};
use super::index::{self, HEADER_LEN, Header, RECORD_LEN, Scan, Walk};
use super::index_writer::told_before;
use super::names::{self, index_name};
use super::segment::{self, header_after, now_us, unknown_header};

/// What earlier writers left.
#[derive(Debug)]
pub(super) struct Left {
    /// The state after the last byte; `None` if there is no file.
    pub end: Option<Walk>,
    /// The current file, with the length of its index, if it can be gone on with.
    pub file: Option<(KnownFile, u64)>,
    /// Bytes that the index knows of and that are gone.
    pub missing: u64,
    /// Whether an index was lost that knew how much of each stream the generation has written, now or before, or may have
    /// been lost with its file.
    pub lost_count: bool,
}

/// Finds out what earlier writers left, and tidies up after them.
pub(super) fn recover(log: &Path) -> Result<Left, LogError> {
    names::finish_interrupted(log)?;
    let log_file = open_existing(log)?;
    let index_path = index_name(log, 0);
    let index = match open_existing(&index_path)? {
        Some(index) => Some(LockedIndex::lock(Arc::new(index), log)?),
        None => None,
    };
    let header = match &index {
        Some(index) => Header::read(index.file()).map_err(LogError::file("reading", &index_path))?,
        None => None,
    };
    let meta = match &log_file {
        Some(file) => Some(file.metadata().map_err(LogError::file("looking at", log))?),
        None => None,
    };
    let len = meta.as_ref().map_or(0, fs::Metadata::len);
    let scan = match (&index, header) {
        (Some(index), Some(header)) => {
            let scan = index::scan(index.file(), &header, len).map_err(LogError::file("reading", &index_path))?;
            Some((header, scan))
        }
        _ if log_file.is_some() => Some(rebuild_index(log, len)?),
        _ => None,
    };
    let Some((Header { base, .. }, Scan { end, index_len, missing })) = scan else {
        return Ok(Left { end: segment::newest_end(log)?, file: None, missing: 0, lost_count: true });
    };
    // A file that lacks bytes is set aside at the first new one: its gap stays a gap.
    let file = meta.filter(|_| missing == 0).map(|meta| {
        let identity = (meta.dev(), meta.ino());
        (KnownFile { base, len, identity }, index_len)
    });
    Ok(Left { end: Some(end), file, missing, lost_count: end.lost_count })
}

/// Makes a new index for a log file whose index is lost: all its bytes count as stdout, and it says that this is a guess.
fn rebuild_index(log: &Path, len: u64) -> Result<(Header, Scan), LogError> {
    let mut end = segment::newest_end(log)?.unwrap_or_else(|| Walk::new(&unknown_header(0)));
    let mut before = end;
    before.position = end.position.saturating_sub(len);
    before.stdout = end.stdout.saturating_sub(len);
    let header = header_after(&before, now_us());
    before.lost_count = true;
    end.lost_count = true;
    let records = told_before(&before);
    create_index(log, &header, &records)?;
    Ok((header, Scan { end, index_len: HEADER_LEN + records.len() as u64 * RECORD_LEN, missing: 0 }))
}
