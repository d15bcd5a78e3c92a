//! Maps of sparse files: GNU tar's old headers (type `S`) and its three pax formats (0.0, 0.1, 1.0), as its manual's
//! appendix "Storing Sparse Files" has them.

use ::tar::{GnuExtSparseHeader, GnuSparseHeader, Header};
use sandpen_tree::record::decimal;

use crate::layer::FILE_MAX;
use crate::layer::blob::UNIT;

/// Most parts of a file: as many as there are units in the largest one.
const SEGMENTS_MAX: usize = (FILE_MAX / UNIT) as usize;

/// What is wrong with a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)] // each says it itself
pub enum SparseProblem {
    #[error("a number of it is none")]
    Number,
    #[error("it ends too early")]
    Map,
    #[error("it does not say how large the file is")]
    NoSize,
    #[error("parts of it overlap, or are not in order")]
    Order,
    #[error("a part lies beyond the end of the file")]
    Beyond,
    #[error("it has more parts than any file")]
    TooMany,
    #[error("it tells of other bytes than the archive holds")]
    Stored,
}

/// A part of a file that is in the archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

/// What pax headers say of a sparse file.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) major: Option<u64>,
    pub(super) bytes: Option<u64>,
    pub(super) count: Option<u64>,
    /// Offsets and lengths, in turn.
    pub(super) numbers: Vec<u64>,
    pub(super) has_map: bool,
}

impl PaxSparse {
    pub(super) fn is_any(&self) -> bool {
        self.major.is_some() || self.has_map || self.count.is_some() || !self.numbers.is_empty()
    }

    /// Version 1.0.
    pub(super) fn has_map_in_contents(&self) -> bool {
        self.major.is_some_and(|major| major >= 1)
    }

    /// The map of the versions before.
    pub(super) fn segments(&self) -> Result<Vec<Segment>, SparseProblem> {
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        if !rest.is_empty() || self.count.is_some_and(|count| count != pairs.len() as u64) {
            return Err(SparseProblem::Map);
        }
        Ok(pairs.iter().map(|[offset, bytes]| Segment { offset: *offset, bytes: *bytes }).collect())
    }
}

/// Refuses a map that no file has; `stored` are the bytes that the archive holds for it.
pub(super) fn check(segments: &[Segment], bytes: u64, stored: u64) -> Result<(), SparseProblem> {
    if segments.len() > SEGMENTS_MAX {
        return Err(SparseProblem::TooMany);
    }
    let (mut at, mut sum) = (0_u64, 0_u64);
    for segment in segments {
        if segment.offset < at {
            return Err(SparseProblem::Order);
        }
        at = segment.offset.checked_add(segment.bytes).ok_or(SparseProblem::Beyond)?;
        sum = sum.checked_add(segment.bytes).ok_or(SparseProblem::Beyond)?;
    }
    if at > bytes {
        return Err(SparseProblem::Beyond);
    }
    if sum == stored { Ok(()) } else { Err(SparseProblem::Stored) }
}

fn push(from: &[GnuSparseHeader], to: &mut Vec<Segment>) -> Result<(), SparseProblem> {
    for header in from.iter().filter(|header| !header.is_empty()) {
        let number = |value: std::io::Result<u64>| value.map_err(|_| SparseProblem::Number);
        to.push(Segment { offset: number(header.offset())?, bytes: number(header.length())? });
    }
    if to.len() > SEGMENTS_MAX { Err(SparseProblem::TooMany) } else { Ok(()) }
}

/// The beginning of an old map: the file's bytes, and whether the map goes on in the next record.
pub(super) fn old(header: &Header) -> Result<(Vec<Segment>, u64, bool), SparseProblem> {
    let header = header.as_gnu().ok_or(SparseProblem::NoSize)?;
    let mut segments = Vec::new();
    push(&header.sparse, &mut segments)?;
    let bytes = header.real_size().map_err(|_| SparseProblem::Number)?;
    Ok((segments, bytes, header.is_extended()))
}

/// One more record of an old map; whether there is another one.
pub(super) fn old_more(block: &[u8; 512], segments: &mut Vec<Segment>) -> Result<bool, SparseProblem> {
    let mut header = GnuExtSparseHeader::new();
    header.as_mut_bytes().copy_from_slice(block);
    push(header.sparse(), segments)?;
    Ok(header.is_extended())
}

/// Reads the map of version 1.0: the number of parts, then offset and bytes of each, a line for every number.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    line: Vec<u8>,
    numbers: Vec<u64>,
    is_complete: bool,
}

impl MapReader {
    /// Takes a record; what is behind the map in the last one is padding.
    pub(super) fn push(&mut self, block: &[u8; 512]) -> Result<(), SparseProblem> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > 20 {
                    return Err(SparseProblem::Number);
                }
                continue;
            }
            self.numbers.push(decimal(&self.line).ok_or(SparseProblem::Number)?);
            self.line.clear();
            let count = usize::try_from(self.numbers[0]).ok().filter(|count| *count <= SEGMENTS_MAX);
            if self.numbers.len() == 1 + 2 * count.ok_or(SparseProblem::TooMany)? {
                self.is_complete = true;
                return Ok(());
            }
        }
        Ok(())
    }

    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn into_segments(self) -> Vec<Segment> {
        let (pairs, _) = self.numbers.get(1..).unwrap_or_default().as_chunks::<2>();
        pairs.iter().map(|[offset, bytes]| Segment { offset: *offset, bytes: *bytes }).collect()
    }
}
