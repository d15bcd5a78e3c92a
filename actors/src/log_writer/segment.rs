//! One file of a log with its index, as a reader sees it, and finding all of them by name.
//!
//! Files are read with `pread` only, so one open file serves any number of readers, and it can be
//! read to its end after its name was rotated away.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use chrono::{DateTime, Utc};

use super::index::{self, Header, Record, Scan, UNKNOWN_GENERATION, Walk};
use super::names::{HOLES, half_moved, index_name, log_name};
use super::{LogChunk, LogError};

/// Most bytes of one [`LogChunk`], and of one read.
pub(super) const CHUNK_MAX: usize = 64 << 10;
/// Most open files (each with its index) that one reader holds beside the one it reads.
pub(super) const SEGMENTS_HELD: usize = 64;
/// How often all files are opened again because a rotation renamed them meanwhile.
const OPEN_TRIES: u32 = 100;

/// One file of a log.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its bytes.
    pub log: File,
    /// Its index, if there is a readable one.
    pub index: Option<Arc<File>>,
    /// What was true at its first byte.
    pub header: Header,
    /// Position after its last byte, once no more are added.
    pub sealed: OnceLock<u64>,
}

/// How far a reader has gone through a segment's index.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    offset: u64,
    walk: Walk,
}

impl Segment {
    /// The beginning of the segment.
    pub fn cursor(&self) -> Cursor {
        Cursor { offset: index::HEADER_LEN, walk: Walk::new(&self.header) }
    }

    /// The state after `log_len` bytes of this file.
    pub fn scan(&self, log_len: u64) -> io::Result<Scan> {
        if let Some(index) = &self.index {
            return index::scan(index, &self.header, log_len);
        }
        let mut end = Walk::new(&self.header);
        end.advance_to(self.header.base.saturating_add(log_len));
        Ok(Scan { end, index_len: 0, missing: 0 })
    }

    /// Reads bytes from `position` on, before `limit` and at most [`CHUNK_MAX`], apart by stream and
    /// time; a gap up to `limit` if the file does not hold them. Blocks.
    pub fn read(&self, mut cursor: Cursor, position: u64, limit: u64) -> io::Result<(Vec<LogChunk>, Cursor)> {
        let wanted = usize::try_from(limit.saturating_sub(position)).unwrap_or(CHUNK_MAX);
        let mut bytes = vec![0; wanted.min(CHUNK_MAX)];
        let filled = read_full(&self.log, &mut bytes, position.saturating_sub(self.header.base))?;
        bytes.truncate(filled);
        if bytes.is_empty() {
            return Ok((vec![LogChunk::Gap { position, bytes: limit.saturating_sub(position) }], cursor));
        }
        let end = position + bytes.len() as u64;
        let mut chunks = Vec::new();
        let mut at = position;
        let mut done = 0;
        let mut records = VecDeque::new();
        while at < end {
            // An index that cannot be read any more does not keep the bytes from the reader.
            let next = loop {
                if records.is_empty() {
                    records = self.records(cursor.offset).into();
                }
                match records.front() {
                    None => break end,
                    Some(Some(record)) if record.position() > at => break record.position().min(end),
                    Some(record) => {
                        if let Some(record) = record {
                            chunks.extend(mark(record, position));
                            cursor.walk.apply(record);
                        }
                        cursor.offset += index::RECORD_LEN;
                        records.pop_front();
                    }
                }
            };
            let rest = &bytes[done..];
            let len = usize::try_from(next - at).map_or(rest.len(), |len| len.min(rest.len()));
            done += len;
            chunks.push(LogChunk::Bytes {
                stream: cursor.walk.stream,
                at: time_of(cursor.walk.at_us),
                position: at,
                bytes: rest[..len].to_vec(),
            });
            at = next;
        }
        Ok((chunks, cursor))
    }

    /// The marks of bytes that were dropped after the last byte, which is before `position`. Blocks.
    pub fn tail_marks(&self, mut cursor: Cursor, position: u64) -> (Vec<LogChunk>, Cursor) {
        let mut marks = Vec::new();
        loop {
            let records = self.records(cursor.offset);
            if records.is_empty() {
                return (marks, cursor);
            }
            cursor.offset += records.len() as u64 * index::RECORD_LEN;
            for record in records.iter().flatten() {
                marks.extend(mark(record, position));
                cursor.walk.apply(record);
            }
        }
    }

    fn records(&self, offset: u64) -> Vec<Option<Record>> {
        self.index.as_ref().and_then(|index| index::read_block(index, offset).ok()).unwrap_or_default()
    }
}

/// What a record marks for a reader from `from` on.
fn mark(record: &Record, from: u64) -> Option<LogChunk> {
    match *record {
        Record::Dropped { position, stream, bytes } if position >= from && bytes > 0 => {
            Some(LogChunk::Dropped { stream, position, bytes })
        }
        _ => None,
    }
}

/// Reads until the buffer is full or the file ends.
pub(super) fn read_full(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A stored time; the epoch for one that no calendar has.
pub(super) fn time_of(at_us: u64) -> DateTime<Utc> {
    i64::try_from(at_us).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default()
}

/// The time for records.
pub(super) fn now_us() -> u64 {
    u64::try_from(Utc::now().timestamp_micros()).unwrap_or(0)
}

/// Which segments [`open_chain`] keeps open when there are more than [`SEGMENTS_HELD`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hold {
    /// Those with the lowest positions.
    Oldest,
    /// Those with the highest positions.
    Newest,
}

struct Found {
    n: u32,
    log: Option<File>,
    index: Option<File>,
    header: Option<Header>,
    len: u64,
    identity: (u64, u64),
}

/// The files of a log.
pub(super) struct Chain {
    /// Those that were asked for, oldest first, sealed at their ends.
    pub segments: Vec<Arc<Segment>>,
    /// The state after the newest file; `None` if there is no file at all.
    pub end: Option<Walk>,
}

/// Opens the files of a log that end at or after `from` and begin before `to`. Blocks. Safe
/// beside a live writer: it starts again when a rotation renames files meanwhile.
pub(super) fn open_chain(log: &Path, from: u64, to: u64, hold: Hold) -> Result<Chain, LogError> {
    let mut tries = OPEN_TRIES;
    loop {
        let mut found = find_files(log, from, to, hold)?;
        let still_there = |file: &Found| {
            let named = fs::symlink_metadata(log_name(log, file.n));
            named.is_ok_and(|meta| (meta.dev(), meta.ino()) == file.identity)
        };
        tries -= 1;
        if tries == 0 || found.iter().all(still_there) {
            return chain(log, &mut found, from, to);
        }
    }
}

/// All files newest first; only those to be held are still open.
fn find_files(log: &Path, from: u64, to: u64, hold: Hold) -> Result<Vec<Found>, LogError> {
    let mut found: Vec<Found> = Vec::new();
    let mut held = VecDeque::new();
    let mut holes = 0;
    let mut n = 0;
    while holes < HOLES {
        match find_file(log, n)? {
            None => holes += 1,
            Some(mut file) => {
                holes = 0;
                let reaches_back = file.header.is_some_and(|header| header.base <= from);
                if file.header.is_some_and(|header| header.base >= to) {
                    (file.log, file.index) = (None, None);
                } else if held.len() < SEGMENTS_HELD {
                    held.push_back(found.len());
                } else if hold == Hold::Newest {
                    (file.log, file.index) = (None, None);
                } else if let Some(newest) = held.pop_front() {
                    held.push_back(found.len());
                    (found[newest].log, found[newest].index) = (None, None);
                }
                found.push(file);
                if reaches_back {
                    break;
                }
            }
        }
        n += 1;
    }
    Ok(found)
}

fn find_file(log: &Path, n: u32) -> Result<Option<Found>, LogError> {
    let path = log_name(log, n);
    let Some(file) = open_to_read(&path)? else { return Ok(None) };
    let meta = file.metadata().map_err(LogError::file("looking at", &path))?;
    if !meta.is_file() {
        return Ok(None);
    }
    let mut index_path = index_name(log, n);
    let mut index = open_to_read(&index_path)?;
    if index.is_none() {
        // The same look as `finish_interrupted`, without renaming anything.
        let above = (log_name(log, n + 1).exists(), index_name(log, n + 1).exists());
        if half_moved((true, false), above) {
            index_path = index_name(log, n + 1);
            index = open_to_read(&index_path)?;
        }
    }
    let header = match &index {
        Some(index) => Header::read(index).map_err(LogError::file("reading", &index_path))?,
        None => None,
    };
    let identity = (meta.dev(), meta.ino());
    Ok(Some(Found { n, log: Some(file), index, header, len: meta.len(), identity }))
}

/// Opens a file for reading; `None` if there is none. Never waits (a FIFO would) or follows a link.
fn open_to_read(path: &Path) -> Result<Option<File>, LogError> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(LogError::file("opening", path)(e)),
    }
}

/// Gives every file its place among the positions; without an index it follows its elder.
fn chain(log: &Path, found: &mut [Found], from: u64, to: u64) -> Result<Chain, LogError> {
    let mut opened = Vec::new();
    let mut ends: Vec<(u64, u64)> = Vec::new();
    let mut elder: Option<Walk> = None;
    found.reverse();
    // The oldest one without an index ends where the first one with an index begins.
    let known = found.iter().position(|file| file.header.is_some());
    let before: u64 = found.iter().take(known.unwrap_or(0)).map(|file| file.len).sum();
    let first_base = known.and_then(|k| found[k].header).map_or(0, |header| header.base.saturating_sub(before));
    for i in 0..found.len() {
        // A whole index is read only where its end matters.
        let end_matters = found.get(i + 1).is_none_or(|next| next.header.is_none());
        let file = &mut found[i];
        let header = file.header.unwrap_or_else(|| match elder {
            Some(walk) => header_after(&walk, 0),
            None => unknown_header(first_base),
        });
        let index = file.header.and(file.index.take()).map(Arc::new);
        ends.push((header.base, header.base.saturating_add(file.len)));
        let mut walk = Walk::new(&header);
        if let Some(log_file) = file.log.take() {
            let segment = Segment { log: log_file, index, header, sealed: OnceLock::new() };
            if end_matters {
                walk = segment.scan(file.len).map_err(LogError::file("reading", &index_name(log, file.n)))?.end;
            }
            opened.push((ends.len() - 1, segment));
        } else {
            walk.advance_to(header.base.saturating_add(file.len));
        }
        elder = Some(walk);
    }
    let mut segments = Vec::new();
    for (i, segment) in opened {
        let (base, mut end) = ends[i];
        match ends.get(i + 1) {
            // Bytes that somebody else appended are not ours.
            Some((next, _)) if *next >= base => end = end.min(*next),
            Some(_) => {}
            // What the index knows beyond the file's end shows as a gap.
            None => end = elder.map_or(end, |walk| walk.position),
        }
        // One that ends at `from` may have a mark there.
        if base < to && end >= from {
            let _ = segment.sealed.set(end);
            segments.push(Arc::new(segment));
        }
    }
    Ok(Chain { segments, end: elder })
}

/// The state after the newest file of a log; `None` if there is no file at all.
pub(super) fn newest_end(log: &Path) -> Result<Option<Walk>, LogError> {
    Ok(open_chain(log, u64::MAX, u64::MAX, Hold::Newest)?.end)
}

/// Position after the last byte of a log, without a look at more than the beginning of one index where there is one.
pub(super) fn newest_position(log: &Path) -> Result<u64, LogError> {
    match find_file(log, 0)? {
        Some(Found { header: Some(header), len, .. }) => Ok(header.base.saturating_add(len)),
        _ => Ok(newest_end(log)?.map_or(0, |end| end.position)),
    }
}

/// The header of a file that goes on after `walk`.
pub(super) fn header_after(walk: &Walk, at_us: u64) -> Header {
    Header {
        base: walk.position,
        generation: walk.generation,
        generation_start: walk.generation_start,
        stdout: walk.stdout,
        stderr: walk.stderr,
        at_us,
    }
}

/// The header of a file about which nothing is known.
pub(super) fn unknown_header(base: u64) -> Header {
    Header { base, generation: UNKNOWN_GENERATION, generation_start: base, stdout: 0, stderr: 0, at_us: 0 }
}
