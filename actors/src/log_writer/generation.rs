//! Where a generation of a log begins.

use std::path::Path;

use super::LogError;
use super::index::{self, Header, Record, UNKNOWN_GENERATION};
use super::names::log_name;
use super::segment::{self, Hold, Segment};

/// The position of a generation's first byte, from the files; of the first one after it if it was never
/// marked. What was rotated away begins at the oldest position that is known of it, and a generation that has
/// not come yet at the end. Blocks; safe beside a live writer.
///
/// # Errors
/// [`LogError::File`] if a file cannot be opened or read.
pub fn position_of_generation(log: &Path, generation: u64) -> Result<u64, LogError> {
    let mut chain = segment::open_chain(log, 0, u64::MAX, Hold::Newest)?;
    let mut next = chain.end.map_or(0, |end| end.position);
    while !chain.segments.is_empty() {
        let before = next;
        for segment in chain.segments.iter().rev() {
            let Header { base, generation: at_base, generation_start, .. } = segment.header;
            if at_base == generation {
                return Ok(generation_start);
            }
            if at_base < generation {
                let failed = LogError::file("reading", &log_name(log, 0));
                return Ok(first_mark(segment, generation).map_err(failed)?.unwrap_or(next));
            }
            // Of bytes whose index was lost it is not known whose they are.
            next = if at_base == UNKNOWN_GENERATION { base } else { generation_start };
        }
        let oldest = chain.segments.first().map_or(0, |segment| segment.header.base);
        if oldest == 0 || next >= before {
            break;
        }
        // More files than are held open at once.
        chain = segment::open_chain(log, 0, oldest, Hold::Newest)?;
        chain.segments.retain(|segment| segment.header.base < oldest);
    }
    Ok(next)
}

/// The first mark of this generation or of a later one in a segment.
fn first_mark(segment: &Segment, wanted: u64) -> std::io::Result<Option<u64>> {
    let mut offset = index::HEADER_LEN;
    while let Some(index) = &segment.index {
        let block = index::read_block(index, offset)?;
        if block.is_empty() {
            break;
        }
        offset += block.len() as u64 * index::RECORD_LEN;
        let mark = block.iter().flatten().find_map(|record| match *record {
            Record::Generation { position, generation } if generation >= wanted => Some(position),
            _ => None,
        });
        if mark.is_some() {
            return Ok(mark);
        }
    }
    Ok(None)
}
