//! The index beside a log file: which of its bytes came from which stream, and when.
//!
//! A header of [`HEADER_LEN`] bytes, then records of [`RECORD_LEN`] bytes; all numbers little-endian,
//! each part with a CRC-32 of its own. `docs/logs.md` has the table. A chunk record is written
//! *before* its bytes are moved into the log file, so it ends where the next one begins or where the
//! log file ends: the log file's length is the truth. Records that fail their check, or that go
//! backwards, are passed over; bytes that no record covers count as stdout.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sandpen_types::output_stream::OutputStream;

use super::StreamTotals;

/// Bytes of the header.
pub(super) const HEADER_LEN: u64 = 64;
/// Bytes of one record.
pub(super) const RECORD_LEN: u64 = 24;
const HEADER_BYTES: usize = 64;
const RECORD_BYTES: usize = 24;
/// The generation of bytes whose index was lost: no sandbox reaches it by counting.
pub(super) const UNKNOWN_GENERATION: u64 = u64::MAX;

/// No position is beyond this (4 EiB): sums of a position and a length never overflow.
const POSITION_MAX: u64 = 1 << 62;

const MAGIC: [u8; 8] = *b"sandpidx";
const VERSION: u16 = 1;
const RECORD_LEN_CODE: u8 = 24;
const KIND_CHUNK: u8 = 1;
const KIND_GENERATION: u8 = 2;
const KIND_DROPPED: u8 = 3;
const KIND_DROPPED_BEFORE: u8 = 4;
const KIND_LOST_COUNT: u8 = 5;
/// Records read at once.
pub(super) const BLOCK_RECORDS: usize = 170;

/// What was true when the log file began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Position of the log file's first byte.
    pub base: u64,
    /// The generation that was being written.
    pub generation: u64,
    /// Position of that generation's first byte.
    pub generation_start: u64,
    /// That generation's bytes of stdout so far.
    pub stdout: u64,
    /// That generation's bytes of stderr so far.
    pub stderr: u64,
    /// Microseconds since the epoch.
    pub at_us: u64,
}

/// One fact about the log from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Record {
    /// Bytes of one stream.
    Chunk {
        /// Position of the first.
        position: u64,
        /// Their stream.
        stream: OutputStream,
        /// When they were moved, in microseconds since the epoch.
        at_us: u64,
    },
    /// A new start of the sandbox.
    Generation {
        /// Position of its first byte.
        position: u64,
        /// Its number.
        generation: u64,
    },
    /// Bytes of one stream that were dropped instead of being written; several of one position add up.
    Dropped {
        /// Where they would have been.
        position: u64,
        /// Their stream.
        stream: OutputStream,
        /// How many.
        bytes: u64,
    },
    /// What the generation had dropped of one stream before this file; no mark of a gap.
    DroppedBefore {
        /// The file's base.
        position: u64,
        /// The stream.
        stream: OutputStream,
        /// How many bytes.
        bytes: u64,
    },
    /// Nobody knows how many bytes of each stream the generation has: an index was lost.
    LostCount {
        /// From where on.
        position: u64,
    },
}

impl Record {
    /// The position from which on it holds.
    pub fn position(&self) -> u64 {
        match self {
            Self::Chunk { position, .. }
            | Self::Generation { position, .. }
            | Self::Dropped { position, .. }
            | Self::DroppedBefore { position, .. }
            | Self::LostCount { position } => *position,
        }
    }

    /// The stored form.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let value = match self {
            Self::Chunk { stream, at_us, .. } => {
                bytes[0] = KIND_CHUNK;
                bytes[1] = stream_code(*stream);
                *at_us
            }
            Self::Generation { generation, .. } => {
                bytes[0] = KIND_GENERATION;
                *generation
            }
            Self::Dropped { stream, bytes: count, .. } => {
                bytes[0] = KIND_DROPPED;
                bytes[1] = stream_code(*stream);
                *count
            }
            Self::DroppedBefore { stream, bytes: count, .. } => {
                bytes[0] = KIND_DROPPED_BEFORE;
                bytes[1] = stream_code(*stream);
                *count
            }
            Self::LostCount { .. } => {
                bytes[0] = KIND_LOST_COUNT;
                0
            }
        };
        bytes[8..16].copy_from_slice(&self.position().to_le_bytes());
        bytes[16..24].copy_from_slice(&value.to_le_bytes());
        let sum = checksum(&bytes[..4], &bytes[8..]);
        bytes[4..8].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads one record; `None` if it is damaged or of a kind that is not known.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != RECORD_BYTES || number_u32(bytes, 4)? != checksum(&bytes[..4], &bytes[8..]) {
            return None;
        }
        let position = number(bytes, 8).filter(|position| *position <= POSITION_MAX)?;
        let value = number(bytes, 16)?;
        let stream = match bytes[1] {
            0 => OutputStream::Stdout,
            1 => OutputStream::Stderr,
            _ => return None,
        };
        match bytes[0] {
            KIND_CHUNK => Some(Self::Chunk { position, stream, at_us: value }),
            KIND_GENERATION if bytes[1] == 0 => Some(Self::Generation { position, generation: value }),
            KIND_DROPPED => Some(Self::Dropped { position, stream, bytes: value }),
            KIND_DROPPED_BEFORE => Some(Self::DroppedBefore { position, stream, bytes: value }),
            KIND_LOST_COUNT if bytes[1] == 0 => Some(Self::LostCount { position }),
            _ => None,
        }
    }
}

impl Header {
    /// The stored form.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = RECORD_LEN_CODE;
        let numbers = [self.base, self.generation, self.generation_start, self.stdout, self.stderr, self.at_us];
        for (number, place) in numbers.iter().zip(bytes[16..].chunks_exact_mut(8)) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let sum = checksum(&bytes[..12], &bytes[16..]);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads a header; `None` if it is damaged or of another version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != HEADER_BYTES
            || bytes[..8] != MAGIC
            || bytes[8..10] != VERSION.to_le_bytes()
            || bytes[10] != RECORD_LEN_CODE
            || number_u32(bytes, 12)? != checksum(&bytes[..12], &bytes[16..])
        {
            return None;
        }
        Some(Self {
            base: number(bytes, 16).filter(|base| *base <= POSITION_MAX)?,
            generation: number(bytes, 24)?,
            generation_start: number(bytes, 32)?,
            stdout: number(bytes, 40)?,
            stderr: number(bytes, 48)?,
            at_us: number(bytes, 56)?,
        })
    }

    /// The header of an index file; `None` when there is no whole one.
    pub fn read(index: &File) -> io::Result<Option<Self>> {
        let mut bytes = [0; HEADER_BYTES];
        match index.read_exact_at(&mut bytes, 0) {
            Ok(()) => Ok(Self::decode(&bytes)),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(e) => Err(e),
        }
    }
}

fn stream_code(stream: OutputStream) -> u8 {
    match stream {
        OutputStream::Stdout => 0,
        OutputStream::Stderr => 1,
    }
}

fn checksum(before: &[u8], after: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(before);
    hasher.update(after);
    hasher.finalize()
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn number_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What holds at one position of a log file, found by applying its records in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Walk {
    /// Where we are.
    pub position: u64,
    /// The stream of the bytes from here on.
    pub stream: OutputStream,
    /// When these bytes were moved, in microseconds since the epoch.
    pub at_us: u64,
    /// The generation here.
    pub generation: u64,
    /// Position of its first byte.
    pub generation_start: u64,
    /// Its bytes of stdout before here.
    pub stdout: u64,
    /// Its bytes of stderr before here.
    pub stderr: u64,
    /// Its bytes of stdout that were dropped before here.
    pub dropped_stdout: u64,
    /// Its bytes of stderr that were dropped before here.
    pub dropped_stderr: u64,
    /// Whether these counts lack what only a lost index knew.
    pub lost_count: bool,
}

impl Walk {
    /// The state at a file's first byte.
    pub fn new(header: &Header) -> Self {
        Self {
            position: header.base,
            stream: OutputStream::Stdout,
            at_us: header.at_us,
            generation: header.generation,
            generation_start: header.generation_start,
            stdout: header.stdout,
            stderr: header.stderr,
            dropped_stdout: 0,
            dropped_stderr: 0,
            lost_count: false,
        }
    }

    /// What was dropped of a stream before here.
    pub fn dropped_mut(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.dropped_stdout,
            OutputStream::Stderr => &mut self.dropped_stderr,
        }
    }

    /// Goes on to `position`; bytes in between belong to the current stream.
    pub fn advance_to(&mut self, position: u64) {
        let bytes = position.saturating_sub(self.position);
        let total = match self.stream {
            OutputStream::Stdout => &mut self.stdout,
            OutputStream::Stderr => &mut self.stderr,
        };
        *total = total.saturating_add(bytes);
        self.position = self.position.max(position);
    }

    /// Goes on to a record and applies it; one that goes backwards is passed over.
    pub fn apply(&mut self, record: &Record) {
        if record.position() < self.position {
            return;
        }
        self.advance_to(record.position());
        match *record {
            Record::Chunk { stream, at_us, .. } => {
                self.stream = stream;
                self.at_us = at_us;
            }
            Record::Generation { position, generation } => {
                self.stream = OutputStream::Stdout;
                self.generation = generation;
                self.generation_start = position;
                self.stdout = 0;
                self.stderr = 0;
                self.dropped_stdout = 0;
                self.dropped_stderr = 0;
                self.lost_count = false;
            }
            Record::Dropped { stream, bytes, .. } => {
                let dropped = self.dropped_mut(stream);
                *dropped = dropped.saturating_add(bytes);
            }
            Record::DroppedBefore { stream, bytes, .. } => *self.dropped_mut(stream) = bytes,
            Record::LostCount { .. } => self.lost_count = true,
        }
    }

    /// The counters here.
    pub fn totals(&self) -> StreamTotals {
        let Self { stdout, stderr, position, dropped_stdout, dropped_stderr, .. } = *self;
        StreamTotals { stdout, stderr, position, dropped_stdout, dropped_stderr }
    }
}

/// What a whole index says about a log file of a given length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan {
    /// The state after the last byte.
    pub end: Walk,
    /// Length of the index up to its last whole record.
    pub index_len: u64,
    /// Bytes that the index knows of and that the log file does not hold.
    pub missing: u64,
}

/// Reads a whole index in bounded blocks.
pub(super) fn scan(index: &File, header: &Header, log_len: u64) -> io::Result<Scan> {
    let mut end = Walk::new(header);
    let mut index_len = HEADER_LEN;
    loop {
        let block = read_block(index, index_len)?;
        if block.is_empty() {
            break;
        }
        for record in &block {
            if let Some(record) = record {
                end.apply(record);
            }
            index_len += RECORD_LEN;
        }
    }
    let file_end = header.base.saturating_add(log_len);
    let missing = end.position.saturating_sub(file_end);
    end.advance_to(file_end);
    Ok(Scan { end, index_len, missing })
}

/// Reads some whole records from `offset` on, damaged ones as `None`; empty at the end.
pub(super) fn read_block(index: &File, offset: u64) -> io::Result<Vec<Option<Record>>> {
    let mut bytes = [0; BLOCK_RECORDS * RECORD_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        match index.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(bytes[..filled].chunks_exact(RECORD_BYTES).map(Record::decode).collect())
}

#[cfg(test)]
mod tests;
