//! Where the last lines of a log begin.

use std::path::Path;

use sandpen_types::output_stream::OutputStream;

use super::LogError;
use super::index::{self, Record, Walk};
use super::names::log_name;
use super::segment::{self, CHUNK_MAX, Hold, Segment};

/// The position from which on a log holds its last `lines` lines, of one stream or of both; the
/// oldest kept byte if there are fewer. An unfinished last line counts as one. Blocks; safe beside a
/// live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn position_of_tail(log: &Path, lines: usize, stream: Option<OutputStream>) -> Result<u64, LogError> {
    position_of_tail_before(log, lines, stream, u64::MAX)
}

/// The same of what is before a position.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn position_of_tail_before(
    log: &Path,
    lines: usize,
    stream: Option<OutputStream>,
    before: u64,
) -> Result<u64, LogError> {
    let mut chain = segment::open_chain(log, 0, before, Hold::Newest)?;
    let end = chain.end.map_or(0, |end| end.position).min(before);
    let mut counter = LineCounter { wanted: lines, newest_seen: false, before };
    let mut oldest = end;
    if lines == 0 {
        return Ok(end);
    }
    while !chain.segments.is_empty() {
        for segment in chain.segments.iter().rev() {
            let failed = LogError::file("reading", &log_name(log, 0));
            if let Some(position) = counter.search(segment, stream).map_err(failed)? {
                return Ok(position);
            }
            oldest = segment.header.base;
        }
        if oldest == 0 {
            break;
        }
        // More files than are held open at once.
        chain = segment::open_chain(log, 0, oldest, Hold::Newest)?;
        chain.segments.retain(|segment| segment.header.base < oldest);
    }
    Ok(oldest)
}

/// What the latest generation of a log has dropped, of stdout and stderr, as far as it is marked on file.
/// Blocks; safe beside a live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn dropped_bytes(log: &Path) -> Result<(u64, u64), LogError> {
    Ok(segment::newest_end(log)?.map_or((0, 0), |end| (end.dropped_stdout, end.dropped_stderr)))
}

/// How many bytes a log has had since the sandbox's first start, those that were rotated away included. Blocks, mostly for
/// microseconds; safe beside a live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn bytes_logged(log: &Path) -> Result<u64, LogError> {
    segment::newest_position(log)
}

/// Counts line ends from the newest byte backwards.
struct LineCounter {
    wanted: usize,
    newest_seen: bool,
    /// Nothing from here on counts.
    before: u64,
}

impl LineCounter {
    /// Goes through one segment backwards; the position after the line end that is one too many.
    fn search(&mut self, segment: &Segment, stream: Option<OutputStream>) -> std::io::Result<Option<u64>> {
        // Not further than there are bytes: what is missing holds no lines.
        let sealed = segment.sealed.get().copied().unwrap_or(segment.header.base);
        let end = sealed.min(segment.header.base + segment.log.metadata()?.len()).min(self.before);
        let mut extents = extents(segment, end, stream)?;
        let mut buffer = vec![0; CHUNK_MAX];
        while let Some((from, mut to)) = extents.pop() {
            while to > from {
                let len = usize::try_from(to - from).unwrap_or(CHUNK_MAX).min(CHUNK_MAX);
                let start = to - len as u64;
                let bytes = &mut buffer[..len];
                let filled = segment::read_full(&segment.log, bytes, start - segment.header.base)?;
                for (i, byte) in bytes[..filled].iter().enumerate().rev() {
                    if *byte == b'\n' && self.newest_seen {
                        self.wanted -= 1;
                        if self.wanted == 0 {
                            return Ok(Some(start + i as u64 + 1));
                        }
                    }
                    // The end of the newest line begins no further one.
                    self.newest_seen = true;
                }
                to = start;
            }
        }
        Ok(None)
    }
}

/// The ranges of positions of one stream (or all) in a segment, in order, adjacent ones joined.
fn extents(segment: &Segment, end: u64, stream: Option<OutputStream>) -> std::io::Result<Vec<(u64, u64)>> {
    let base = segment.header.base;
    let Some(stream) = stream else { return Ok(vec![(base, end)]) };
    let mut extents: Vec<(u64, u64)> = Vec::new();
    let mut add = |walk: &Walk, to: u64| {
        if walk.stream == stream && walk.position < to {
            match extents.last_mut() {
                Some(last) if last.1 == walk.position => last.1 = to,
                _ => extents.push((walk.position, to)),
            }
        }
    };
    let mut walk = Walk::new(&segment.header);
    let mut offset = index::HEADER_LEN;
    while let Some(index) = &segment.index {
        let block = index::read_block(index, offset)?;
        if block.is_empty() {
            break;
        }
        offset += block.len() as u64 * index::RECORD_LEN;
        for record in block.iter().flatten() {
            add(&walk, Record::position(record).min(end));
            walk.apply(record);
        }
    }
    add(&walk, end);
    Ok(extents)
}
