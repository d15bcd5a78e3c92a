//! The contents of a layer's files, one behind the other, each from a whole block on. What is zeros for a whole
//! [`UNIT`], or for all of what a file has of its last one, takes no room, wherever it comes from.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use serde::{Deserialize, Serialize};

use super::{BLOCK, BLOCK_LEN};

/// Bytes that are looked at together for a hole, and the chunk of a file that has one: 16 blocks.
pub const UNIT: u64 = UNIT_LEN as u64;
const UNIT_LEN: usize = 16 * BLOCK_LEN;
/// What is gathered before it is written.
const BUFFER: usize = 1 << 20;

/// Units of a file that lie together in a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The number of the first one in the file.
    pub unit: u32,
    /// How many; the last one of a file may be shorter.
    pub count: u32,
    /// The block of the blob where they begin.
    pub block: u32,
}

/// How many bytes are written before the disk is told to begin with them.
const EARLY: u64 = 32 << 20;

/// Has what is written on the disk while more comes, so that there is little left to wait for at the end.
#[derive(Debug)]
struct EarlySync {
    more: SyncSender<()>,
    thread: JoinHandle<io::Result<()>>,
    told: u64,
}

impl EarlySync {
    fn begin(file: File) -> io::Result<Self> {
        let (more, written) = sync_channel(1);
        let sync = move || written.into_iter().try_for_each(|()| file.sync_data());
        let thread = thread::Builder::new().name("sync".to_owned()).spawn(sync)?;
        Ok(Self { more, thread, told: 0 })
    }

    /// So many bytes are written by now.
    fn written(&mut self, bytes: u64) {
        if bytes >= self.told + EARLY {
            self.told = bytes;
            // It is still at it, or has failed, which the end tells.
            let _ = self.more.try_send(());
        }
    }

    /// What it failed with must be told: whoever syncs the file later does not hear of it again.
    fn end(self) -> io::Result<()> {
        drop(self.more);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

/// Writes a blob.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    early: Option<EarlySync>,
    buffer: Vec<u8>,
    /// Bytes that were given to the file.
    written: u64,
    unit: Vec<u8>,
}

impl BlobWriter {
    /// A new blob in an empty file.
    pub fn new(file: File) -> Self {
        Self { file, early: None, buffer: Vec::with_capacity(BUFFER), written: 0, unit: Vec::with_capacity(UNIT_LEN) }
    }

    /// One that is to be safe on the disk soon after its end.
    ///
    /// # Errors
    /// No descriptor, no thread.
    pub fn synced_early(file: File) -> io::Result<Self> {
        let early = EarlySync::begin(file.try_clone()?)?;
        Ok(Self { early: Some(early), ..Self::new(file) })
    }

    fn position(&self) -> u64 {
        self.written + self.buffer.len() as u64
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.write_all(&self.buffer)?;
        self.written += self.buffer.len() as u64;
        self.buffer.clear();
        if let Some(early) = &mut self.early {
            early.written(self.written);
        }
        Ok(())
    }

    fn align(&mut self) -> io::Result<()> {
        const ZEROS: [u8; BLOCK_LEN] = [0; BLOCK_LEN];
        let over = usize::try_from(self.position() % BLOCK).unwrap_or(0);
        if over > 0 { self.append(&ZEROS[over..]) } else { Ok(()) }
    }

    /// The contents of one more file.
    pub fn file(&mut self) -> FileWriter<'_> {
        self.unit.clear();
        FileWriter { blob: self, bytes: 0, runs: Vec::new() }
    }

    /// Ends the blob: the file, and its bytes.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self) -> io::Result<(File, u64)> {
        self.align()?;
        self.flush()?;
        if let Some(early) = self.early {
            early.end()?;
        }
        Ok((self.file, self.written))
    }
}

/// Takes the contents of one file.
#[derive(Debug)]
pub struct FileWriter<'a> {
    blob: &'a mut BlobWriter,
    /// Bytes of whole units.
    bytes: u64,
    runs: Vec<Run>,
}

impl FileWriter<'_> {
    /// Takes more of it.
    ///
    /// # Errors
    /// The disk's.
    pub fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            // A whole unit needs no copy.
            if self.blob.unit.is_empty() && bytes.len() >= UNIT_LEN {
                let (unit, rest) = bytes.split_at(UNIT_LEN);
                self.keep(unit)?;
                bytes = rest;
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(UNIT_LEN - self.blob.unit.len()));
            self.blob.unit.extend_from_slice(part);
            bytes = rest;
            if self.blob.unit.len() == UNIT_LEN {
                self.keep_unit()?;
            }
        }
        Ok(())
    }

    /// Takes so many zeros.
    ///
    /// # Errors
    /// The disk's.
    pub fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            if self.blob.unit.is_empty() && count >= UNIT {
                let whole = count - count % UNIT;
                self.bytes += whole;
                count -= whole;
                continue;
            }
            let part = usize::try_from(count).unwrap_or(UNIT_LEN).min(UNIT_LEN - self.blob.unit.len());
            self.blob.unit.resize(self.blob.unit.len() + part, 0);
            count -= part as u64;
            if self.blob.unit.len() == UNIT_LEN {
                self.keep_unit()?;
            }
        }
        Ok(())
    }

    fn keep_unit(&mut self) -> io::Result<()> {
        let unit = std::mem::take(&mut self.blob.unit);
        let kept = self.keep(&unit);
        self.blob.unit = unit;
        self.blob.unit.clear();
        kept
    }

    /// Takes a unit, or what is left at the end.
    fn keep(&mut self, bytes: &[u8]) -> io::Result<()> {
        let too_large = || io::Error::other("more blocks than a disk can have");
        let unit = u32::try_from(self.bytes / UNIT).map_err(|_| too_large())?;
        self.bytes += bytes.len() as u64;
        if is_zeros(bytes) {
            return Ok(());
        }
        if let Some(last) = self.runs.last_mut()
            && last.unit + last.count == unit
        {
            last.count += 1;
        } else {
            self.blob.align()?;
            let block = u32::try_from(self.blob.position() / BLOCK).map_err(|_| too_large())?;
            self.runs.push(Run { unit, count: 1, block });
        }
        self.blob.append(bytes)
    }

    /// Ends the file: its bytes, and where they are.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self) -> io::Result<(u64, Vec<Run>)> {
        if !self.blob.unit.is_empty() {
            self.keep_unit()?;
        }
        self.blob.align()?;
        Ok((self.bytes, self.runs))
    }
}

/// Whether there is nothing but zeros.
pub(crate) fn is_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A part of a file: where it lies in the blob, or that it is zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes from this byte of the blob on.
    Blob {
        /// Where it begins.
        offset: u64,
        /// Its bytes.
        bytes: u64,
    },
    /// So many zeros.
    Zeros(u64),
}

/// The parts of a file's bytes from `offset` on.
pub fn pieces(runs: &[Run], offset: u64, bytes: u64) -> Vec<Piece> {
    let (mut at, end) = (offset, offset + bytes);
    let mut pieces = Vec::new();
    for run in runs {
        let (begin, stop) = (u64::from(run.unit) * UNIT, (u64::from(run.unit) + u64::from(run.count)) * UNIT);
        if stop <= at {
            continue;
        }
        if at >= end {
            break;
        }
        if begin > at {
            let hole = begin.min(end) - at;
            pieces.push(Piece::Zeros(hole));
            at += hole;
        }
        if at < end {
            let part = stop.min(end) - at;
            pieces.push(Piece::Blob { offset: u64::from(run.block) * BLOCK + (at - begin), bytes: part });
            at += part;
        }
    }
    if at < end {
        pieces.push(Piece::Zeros(end - at));
    }
    pieces
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn files_begin_at_blocks_and_zeros_take_no_room() {
        let mut blob = BlobWriter::new(tempfile::tempfile().unwrap());
        let mut first = blob.file();
        first.write(b"hello").unwrap();
        assert_eq!(first.finish().unwrap(), (5, vec![Run { unit: 0, count: 1, block: 0 }]));
        let mut sparse = blob.file();
        sparse.zeros(3 * UNIT - 10).unwrap();
        sparse.write(&[7; 20]).unwrap();
        sparse.zeros(UNIT * 1000).unwrap();
        sparse.write(&vec![0; UNIT_LEN * 2]).unwrap();
        let (bytes, runs) = sparse.finish().unwrap();
        assert_eq!(bytes, 3 * UNIT + 10 + 1002 * UNIT);
        let count = |runs: &[Run]| runs.iter().map(|run| run.count).sum::<u32>();
        // The last unit is short, and zeros as well.
        assert_eq!((count(&runs), runs[0].unit, runs[0].block), (2, 2, 1));
        let mut zeros = blob.file();
        zeros.zeros(65_535).unwrap();
        assert_eq!(zeros.finish().unwrap(), (65_535, vec![]));
        assert_eq!(blob.file().finish().unwrap(), (0, vec![]));
        let mut last = blob.file();
        last.write(&vec![1; UNIT_LEN + 1]).unwrap();
        let (_, last) = last.finish().unwrap();
        let (file, written) = blob.finish().unwrap();
        assert_eq!(written % BLOCK, 0);
        assert_eq!(file.metadata().unwrap().len(), written);
        assert_eq!(u64::from(last[0].block) * BLOCK + UNIT + BLOCK, written);
        // Read again by its pieces.
        let mut read = Vec::new();
        for piece in pieces(&runs, 3 * UNIT - 20, 40) {
            match piece {
                Piece::Zeros(count) => read.resize(read.len() + usize::try_from(count).unwrap(), 0),
                Piece::Blob { offset, bytes } => {
                    let begin = read.len();
                    read.resize(begin + usize::try_from(bytes).unwrap(), 1);
                    file.read_exact_at(&mut read[begin..], offset).unwrap();
                }
            }
        }
        assert_eq!(read, [vec![0; 10], vec![7; 20], vec![0; 10]].concat());
        assert_eq!(pieces(&runs, 0, 10), [Piece::Zeros(10)]);
        assert_eq!(pieces(&[], 5, 10), [Piece::Zeros(10)]);
    }
}
