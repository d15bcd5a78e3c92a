//! Where the bytes of a time begin and end in a log: found in the indexes, no byte of the log is read.
//!
//! Of each file only its header and its last record are looked at, until one is found that holds the time; only
//! that one's index is read. Where the host's clock was set back, times in a log do not only grow: what is answered
//! then is wide rather than narrow. Bytes whose time is not known (a lost index) count as older than all.

use std::io;
use std::path::Path;

use chrono::{DateTime, Utc};

use super::LogError;
use super::index::{self, Record};
use super::names::log_name;
use super::segment::{self, Hold, Segment};

/// Where the bytes that were written before a time end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndOfTime {
    /// Position after the last one.
    pub position: u64,
    /// Whether that was the end of the log when it was looked for.
    pub is_end: bool,
}

/// The position of the first kept byte that was written at `since` or later; `None` if there is none (yet). Blocks;
/// safe beside a live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn position_since(log: &Path, since: DateTime<Utc>) -> Result<Option<u64>, LogError> {
    let since = micros(since);
    let mut from = 0;
    loop {
        let mut chain = segment::open_chain(log, from, u64::MAX, Hold::Oldest)?;
        chain.segments.retain(|segment| segment.sealed.get().is_none_or(|end| *end > from));
        for segment in &chain.segments {
            if segment.header.at_us >= since {
                return Ok(Some(segment.header.base));
            }
            let failed = LogError::file("reading", &log_name(log, 0));
            if let Some(position) = first_since(segment, since).map_err(failed)? {
                return Ok(Some(position));
            }
        }
        // More files than are held open at once.
        match chain.segments.last().and_then(|segment| segment.sealed.get().copied()) {
            Some(end) if chain.end.is_some_and(|walk| walk.position > end) => from = end,
            _ => return Ok(None),
        }
    }
}

/// Where the kept bytes that were written before `until` end; the oldest kept byte if there are none. Blocks; safe
/// beside a live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn position_until(log: &Path, until: DateTime<Utc>) -> Result<EndOfTime, LogError> {
    let until = micros(until);
    let mut chain = segment::open_chain(log, 0, u64::MAX, Hold::Newest)?;
    let end = chain.end.map_or(0, |end| end.position);
    let mut next = EndOfTime { position: end, is_end: true };
    while !chain.segments.is_empty() {
        for segment in chain.segments.iter().rev() {
            let failed = |error| LogError::file("reading", &log_name(log, 0))(error);
            let base = segment.header.base;
            if segment.header.at_us < until || last_time(segment).map_err(failed)?.is_some_and(|at| at < until) {
                let cut = first_not_before(segment, until).map_err(failed)?;
                return Ok(cut.map_or(next, |position| EndOfTime { position, is_end: position >= end }));
            }
            next = EndOfTime { position: base, is_end: base >= end };
        }
        let oldest = next.position;
        if oldest == 0 {
            break;
        }
        chain = segment::open_chain(log, 0, oldest, Hold::Newest)?;
        chain.segments.retain(|segment| segment.header.base < oldest);
    }
    Ok(next)
}

/// A time as records have it: none is before 1970.
fn micros(time: DateTime<Utc>) -> u64 {
    u64::try_from(time.timestamp_micros()).unwrap_or(0)
}

/// Position of the first byte that was written at `since` or later, of a file that was begun before.
fn first_since(segment: &Segment, since: u64) -> io::Result<Option<u64>> {
    if last_time(segment)?.is_none_or(|at| at < since) {
        return Ok(None);
    }
    let mut first = None;
    walk(segment, |record| {
        match *record {
            Record::Chunk { position, at_us, .. } if at_us >= since => first = Some(position),
            _ => {}
        }
        first.is_none()
    })?;
    Ok(first)
}

/// Position behind the last byte that was written before `until`, which is not the file's last one.
fn first_not_before(segment: &Segment, until: u64) -> io::Result<Option<u64>> {
    let mut cut = (segment.header.at_us >= until).then_some(segment.header.base);
    let mut position = segment.header.base;
    walk(segment, |record| {
        match *record {
            Record::Chunk { position: at, .. } if at < position => {}
            Record::Chunk { position: at, at_us, .. } => {
                position = at;
                cut = if at_us < until { None } else { cut.or(Some(at)) };
            }
            _ => {}
        }
        true
    })?;
    Ok(cut)
}

/// When a file's last bytes were written, as its index says.
fn last_time(segment: &Segment) -> io::Result<Option<u64>> {
    let Some(index) = &segment.index else { return Ok(None) };
    let records = index.metadata()?.len().saturating_sub(index::HEADER_LEN) / index::RECORD_LEN;
    let offset = index::HEADER_LEN + records.saturating_sub(index::BLOCK_RECORDS as u64) * index::RECORD_LEN;
    let block = index::read_block(index, offset)?;
    Ok(block.iter().flatten().rev().find_map(|record| match *record {
        Record::Chunk { at_us, .. } => Some(at_us),
        _ => None,
    }))
}

/// Goes through a file's records, for as long as `go_on` says so.
fn walk(segment: &Segment, mut go_on: impl FnMut(&Record) -> bool) -> io::Result<()> {
    let Some(index) = &segment.index else { return Ok(()) };
    let mut offset = index::HEADER_LEN;
    loop {
        let block = index::read_block(index, offset)?;
        if block.is_empty() || !block.iter().flatten().all(&mut go_on) {
            return Ok(());
        }
        offset += block.len() as u64 * index::RECORD_LEN;
    }
}
