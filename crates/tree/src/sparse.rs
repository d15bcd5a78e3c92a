//! Maps of sparse files: where data are, of a file and in a tar: GNU tar's old headers (type `S`) and its three pax formats
//! (0.0, 0.1, 1.0), as its manual's appendix "Storing Sparse Files" has them. What is written is version 1.0.

use std::fmt::Write as _;
use std::fs::File;

use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use crate::record::{BLOCK_LEN, decimal};

/// Most parts that are written: of a file with more of them the smallest holes become zeros.
const SEGMENTS_WRITTEN: usize = 1 << 16;

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
    #[error("it has more than {0} parts")]
    TooMany(usize),
    #[error("it tells of other bytes than the tar holds")]
    Stored,
}

/// A part of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it begins in the file.
    pub offset: u64,
    /// Its bytes.
    pub bytes: u64,
}

impl Segment {
    /// All of a file of so many bytes.
    pub fn whole(bytes: u64) -> Vec<Self> {
        vec![Self { offset: 0, bytes }]
    }
}

/// Refuses a map that no file has; `stored` are the bytes that the tar holds for it.
///
/// # Errors
/// [`SparseProblem`].
pub fn check(segments: &[Segment], bytes: u64, stored: u64) -> Result<(), SparseProblem> {
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

fn few(count: usize, most: usize) -> Result<(), SparseProblem> {
    if count > most { Err(SparseProblem::TooMany(most)) } else { Ok(()) }
}

/// What pax headers say of a sparse file.
#[derive(Debug, Default)]
pub struct PaxSparse {
    /// The name of the file; that of the entry is made up.
    pub name: Option<Vec<u8>>,
    /// The version of the format.
    pub major: Option<u64>,
    /// Bytes of the file, holes included.
    pub bytes: Option<u64>,
    /// How many parts there are.
    pub count: Option<u64>,
    /// Offsets and lengths, in turn.
    pub numbers: Vec<u64>,
    /// They come from a single record.
    pub has_map: bool,
}

impl PaxSparse {
    /// Whether anything says that the file is sparse.
    pub fn is_any(&self) -> bool {
        self.major.is_some() || self.has_map || self.count.is_some() || !self.numbers.is_empty()
    }

    /// Version 1.0, whose map [`MapReader`] reads.
    pub fn has_map_in_contents(&self) -> bool {
        self.major.is_some_and(|major| major >= 1)
    }

    /// The map of the versions before, of at most so many parts.
    ///
    /// # Errors
    /// [`SparseProblem`].
    pub fn segments(&self, most: usize) -> Result<Vec<Segment>, SparseProblem> {
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        if !rest.is_empty() || self.count.is_some_and(|count| count != pairs.len() as u64) {
            return Err(SparseProblem::Map);
        }
        few(pairs.len(), most).map(|()| paired(pairs))
    }
}

fn paired(pairs: &[[u64; 2]]) -> Vec<Segment> {
    pairs.iter().map(|[offset, bytes]| Segment { offset: *offset, bytes: *bytes }).collect()
}

/// Reads the map of an old header, and of the records behind it.
#[derive(Debug)]
pub struct OldMap {
    most: usize,
    number: fn(&[u8]) -> Option<u64>,
    segments: Vec<Segment>,
}

impl OldMap {
    /// An empty one, of at most so many parts, whose fields `number` reads.
    pub fn new(most: usize, number: fn(&[u8]) -> Option<u64>) -> Self {
        Self { most, number, segments: Vec::new() }
    }

    /// Takes parts: that a header has ([`OLD_MAP`](crate::header::field::OLD_MAP)), or a record behind it. Those without an
    /// offset or a length are none.
    ///
    /// # Errors
    /// [`SparseProblem`].
    pub fn push(&mut self, parts: &[u8]) -> Result<(), SparseProblem> {
        let (parts, _) = parts.as_chunks::<24>();
        for part in parts.iter().filter(|part| part[0] != 0 && part[12] != 0) {
            let field = |field: &[u8]| (self.number)(field).ok_or(SparseProblem::Number);
            self.segments.push(Segment { offset: field(&part[..12])?, bytes: field(&part[12..])? });
        }
        few(self.segments.len(), self.most)
    }

    /// Takes a record behind a header; the byte that says whether there is another one.
    ///
    /// # Errors
    /// [`SparseProblem`].
    pub fn push_record(&mut self, block: &[u8; BLOCK_LEN]) -> Result<u8, SparseProblem> {
        self.push(&block[..504]).map(|()| block[504])
    }

    /// The map.
    pub fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}

/// Reads the map of version 1.0: the number of parts, then offset and bytes of each, a line for every number.
#[derive(Debug)]
pub struct MapReader {
    most: usize,
    line: Vec<u8>,
    numbers: Vec<u64>,
    is_complete: bool,
}

impl MapReader {
    /// Reads one of at most so many parts.
    pub fn new(most: usize) -> Self {
        Self { most, line: Vec::new(), numbers: Vec::new(), is_complete: false }
    }

    /// Takes a record; what is behind the map in the last one is padding.
    ///
    /// # Errors
    /// [`SparseProblem`].
    pub fn push(&mut self, block: &[u8; BLOCK_LEN]) -> Result<(), SparseProblem> {
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
            let count = usize::try_from(self.numbers[0]).ok().filter(|count| *count <= self.most);
            if self.numbers.len() == 1 + 2 * count.ok_or(SparseProblem::TooMany(self.most))? {
                self.is_complete = true;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Whether all of it was read.
    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// The map.
    pub fn into_segments(self) -> Vec<Segment> {
        paired(self.numbers.get(1..).unwrap_or_default().as_chunks::<2>().0)
    }
}

/// The map of version 1.0, padded to whole records.
pub fn map_text(segments: &[Segment], bytes: u64) -> Vec<u8> {
    // As GNU tar has it: a file that ends with a hole has an empty part at its end.
    let ends_with_hole = segments.last().is_none_or(|last| last.offset + last.bytes < bytes);
    let end = ends_with_hole.then_some(Segment { offset: bytes, bytes: 0 });
    let mut text = format!("{}\n", segments.len() + usize::from(ends_with_hole));
    for segment in segments.iter().chain(&end) {
        let _ = write!(text, "{}\n{}\n", segment.offset, segment.bytes); // a String takes everything
    }
    let mut text = text.into_bytes();
    text.resize(text.len().next_multiple_of(BLOCK_LEN), 0);
    text
}

/// Where the data of a file of so many bytes are: all of it where its file system has no holes. Of a file with more than
/// 65,536 parts the smallest holes are left out.
pub fn data_of(file: &File, bytes: u64) -> Vec<Segment> {
    let whole = || Segment::whole(bytes);
    let (mut segments, mut at) = (Vec::new(), 0);
    while at < bytes {
        let begin = match seek(file, SeekFrom::Data(at)) {
            Ok(begin) => begin,
            // The rest is a hole.
            Err(Errno::NXIO) => break,
            Err(_) => return whole(),
        };
        let Ok(end) = seek(file, SeekFrom::Hole(begin)) else { return whole() };
        if begin < at || end <= begin {
            return whole();
        }
        if begin >= bytes {
            break;
        }
        let end = end.min(bytes);
        segments.push(Segment { offset: begin, bytes: end - begin });
        if segments.len() > SEGMENTS_WRITTEN {
            segments = fewer(segments);
        }
        at = end;
    }
    segments
}

/// Half as many, without the smallest holes.
fn fewer(segments: Vec<Segment>) -> Vec<Segment> {
    let hole = |last: &Segment, next: &Segment| next.offset - (last.offset + last.bytes);
    let mut holes: Vec<_> = segments.windows(2).map(|pair| hole(&pair[0], &pair[1])).collect();
    let half = holes.len() / 2;
    if half == 0 {
        return segments;
    }
    let (smaller, most, _) = holes.select_nth_unstable(half - 1);
    let most = *most;
    // All that are smaller, and as many of this size as make the half full.
    let mut left = half - smaller.iter().filter(|hole| **hole < most).count();
    let mut kept: Vec<Segment> = Vec::with_capacity(segments.len() - half);
    for next in segments {
        match kept.last_mut() {
            Some(last) if hole(last, &next) < most || hole(last, &next) == most && left > 0 => {
                left -= usize::from(hole(last, &next) == most);
                last.bytes = next.offset + next.bytes - last.offset;
            }
            _ => kept.push(next),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(offset: u64, bytes: u64) -> Segment {
        Segment { offset, bytes }
    }

    #[test]
    fn maps_that_no_file_has_are_refused() {
        let check = |segments: &[Segment]| check(segments, 100, segments.iter().map(|part| part.bytes).sum());
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&[segment(0, 10), segment(10, 20), segment(100, 0)]), Ok(()));
        assert_eq!(check(&[segment(10, 10), segment(0, 5)]), Err(SparseProblem::Order));
        assert_eq!(check(&[segment(0, 10), segment(5, 10)]), Err(SparseProblem::Order));
        assert_eq!(check(&[segment(95, 10)]), Err(SparseProblem::Beyond));
        assert_eq!(super::check(&[segment(1, u64::MAX)], 100, 5), Err(SparseProblem::Beyond));
        assert_eq!(super::check(&[segment(0, 10)], 100, 11), Err(SparseProblem::Stored));
    }

    #[test]
    fn a_map_is_read_as_it_is_written() {
        let segments: Vec<_> = (0..1000).map(|at| segment(at * 10_000, 5)).collect();
        let text = map_text(&segments, 1 << 40);
        assert!(text.len() > 512 && text.len().is_multiple_of(512));
        let mut reader = MapReader::new(1001);
        for block in text.as_chunks::<512>().0 {
            assert!(!reader.is_complete());
            reader.push(block).unwrap();
        }
        assert!(reader.is_complete());
        assert_eq!(reader.into_segments(), [segments, vec![segment(1 << 40, 0)]].concat());
    }

    #[test]
    fn old_maps_are_read_and_bounded() {
        let part = |offset: u64, bytes: u64| format!("{offset:011o}\0{bytes:011o}\0").into_bytes();
        let number = |field: &[u8]| crate::record::octal(field);
        let mut map = OldMap::new(21, number);
        // Nothing, and a part that has no length: neither is one.
        let mut record = [[0; 24].to_vec(), part(5, 1), part(9, 1)].concat();
        record[60..].fill(0);
        map.push(&record).unwrap();
        let mut record = [part(10, 3).repeat(20), vec![0; 24], vec![1; 8]].concat();
        assert_eq!(map.push_record(record.as_slice().try_into().unwrap()), Ok(1));
        record[..12].copy_from_slice(b"8          \0");
        assert_eq!(map.push_record(record.as_slice().try_into().unwrap()), Err(SparseProblem::Number));
        record[0] = b'1';
        assert_eq!(map.push_record(record.as_slice().try_into().unwrap()), Err(SparseProblem::TooMany(21)));
        let segments = map.into_segments();
        assert_eq!((segments[0], segments[1], segments[20]), (segment(5, 1), segment(10, 3), segment(10, 3)));
    }

    #[test]
    fn a_map_has_no_more_parts_than_are_asked_for() {
        let mut pax = PaxSparse { numbers: vec![1, 1, 3, 1], ..PaxSparse::default() };
        assert_eq!(pax.segments(2), Ok(vec![segment(1, 1), segment(3, 1)]));
        assert_eq!(pax.segments(1), Err(SparseProblem::TooMany(1)));
        pax.count = Some(1);
        assert_eq!(pax.segments(2), Err(SparseProblem::Map));
        let text = map_text(&[segment(1, 1), segment(3, 1)], 4);
        for (most, read) in [(1, Err(SparseProblem::TooMany(1))), (2, Ok(()))] {
            assert_eq!(MapReader::new(most).push(text[..512].try_into().unwrap()), read);
        }
    }

    #[test]
    fn the_smallest_holes_are_filled_where_there_are_too_many() {
        let segments = vec![segment(0, 10), segment(12, 5), segment(18, 5), segment(30, 5), segment(100, 1)];
        assert_eq!(fewer(segments), [segment(0, 23), segment(30, 5), segment(100, 1)]);
        // All of one size.
        let segments: Vec<_> = (0..1001).map(|at| segment(at * 8192, 8)).collect();
        let kept = fewer(segments);
        assert_eq!((kept.len(), kept[0].bytes), (501, 500 * 8192 + 8));
        assert_eq!(fewer(vec![segment(0, 1), segment(5, 1)]).len(), 2);
    }
}
