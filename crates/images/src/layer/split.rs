//! What a tar archive holds beside the contents of files, so that it can be written again byte for byte: headers, padding,
//! whatever follows its end. The idea is tar-split's.
//!
//! ```text
//!   record = tag u8, bytes u64 le, of
//!     0 RAW    so many bytes that follow
//!     1 BLOB   an offset u64 le: so many bytes of the blob
//!     2 ZEROS  so many zeros
//! ```
//!
//! All of it is one zstd frame.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use super::blob::Piece;

const RAW: u8 = 0;
const BLOB: u8 = 1;
const ZEROS: u8 = 2;

/// Headers are alike: the quickest level makes a twentieth of them.
const LEVEL: i32 = 1;
/// What is read of the blob at once.
const CHUNK: usize = 1 << 18;

/// Writes the records.
pub struct SplitWriter {
    encoder: zstd::Encoder<'static, File>,
    raw: Vec<u8>,
}

impl std::fmt::Debug for SplitWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SplitWriter").field("raw", &self.raw.len()).finish_non_exhaustive()
    }
}

impl SplitWriter {
    /// A new file of records.
    ///
    /// # Errors
    /// No memory.
    pub fn new(file: File) -> io::Result<Self> {
        Ok(Self { encoder: zstd::Encoder::new(file, LEVEL)?, raw: Vec::new() })
    }

    fn record(&mut self, tag: u8, bytes: u64) -> io::Result<()> {
        self.encoder.write_all(&[tag])?;
        self.encoder.write_all(&bytes.to_le_bytes())
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// The disk's.
    pub fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let raw = std::mem::take(&mut self.raw);
        self.record(RAW, raw.len() as u64)?;
        self.encoder.write_all(&raw)?;
        self.raw = raw;
        self.raw.clear();
        Ok(())
    }

    /// Bytes of a file.
    ///
    /// # Errors
    /// The disk's.
    pub fn content(&mut self, pieces: &[Piece]) -> io::Result<()> {
        self.flush()?;
        for piece in pieces {
            match piece {
                Piece::Blob { offset, bytes } => {
                    self.record(BLOB, *bytes)?;
                    self.encoder.write_all(&offset.to_le_bytes())?;
                }
                Piece::Zeros(bytes) => self.record(ZEROS, *bytes)?,
            }
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(mut self) -> io::Result<File> {
        self.flush()?;
        self.encoder.finish()
    }
}

/// Why an archive cannot be had again.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A file of the layer.
    #[error("reading the layer's {path:?}; it was removed, or the disk fails")]
    Read {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Records that nobody wrote.
    #[error("the layer's {0:?} is damaged; remove its images and load them again")]
    Damaged(PathBuf),
}

/// The archive of an unpacked layer.
#[derive(Debug, Clone)]
pub struct TarSplit {
    records: PathBuf,
    blob: PathBuf,
}

impl TarSplit {
    pub(super) fn new(records: PathBuf, blob: PathBuf) -> Self {
        Self { records, blob }
    }

    /// Its bytes, from the first on.
    ///
    /// # Errors
    /// [`SplitError::Read`].
    pub fn open(&self) -> Result<TarReader, SplitError> {
        let failed = |path: &PathBuf| {
            let path = path.clone();
            move |source| SplitError::Read { path, source }
        };
        let records = File::open(&self.records).map_err(failed(&self.records))?;
        let records = zstd::Decoder::new(records).map_err(failed(&self.records))?;
        let blob = File::open(&self.blob).map_err(failed(&self.blob))?;
        Ok(TarReader { split: self.clone(), records: BufReader::new(records), blob, record: Record::Zeros, left: 0 })
    }
}

/// Reads an archive again. Its errors have a [`SplitError`] inside.
pub struct TarReader {
    split: TarSplit,
    records: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    blob: File,
    record: Record,
    /// Bytes that the record still has.
    left: u64,
}

impl std::fmt::Debug for TarReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TarReader").field("split", &self.split).finish_non_exhaustive()
    }
}

/// Where bytes are.
#[derive(Debug, Clone, Copy)]
enum Record {
    Raw,
    /// From this byte of the blob on.
    Blob(u64),
    Zeros,
}

impl TarReader {
    /// The next record; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        let mut tag = [0];
        if self.records.read(&mut tag)? == 0 {
            return Ok(false);
        }
        self.left = number(&mut self.records)?;
        self.record = match tag[0] {
            RAW => Record::Raw,
            BLOB => Record::Blob(number(&mut self.records)?),
            ZEROS => Record::Zeros,
            _ => return Err(io::Error::other(SplitError::Damaged(self.split.records.clone()))),
        };
        Ok(true)
    }

    fn read_record(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.record {
            Record::Raw => self.records.read(buffer),
            Record::Zeros => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            Record::Blob(offset) => {
                let length = self
                    .blob
                    .read_at(buffer, offset)
                    .map_err(|source| io::Error::other(SplitError::Read { path: self.split.blob.clone(), source }))?;
                self.record = Record::Blob(offset + length as u64);
                Ok(length)
            }
        }
    }
}

impl Read for TarReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let of_records = |error: io::Error, path: &PathBuf| match error.get_ref() {
            Some(_) => error,
            None => io::Error::other(SplitError::Read { path: path.clone(), source: error }),
        };
        while self.left == 0 {
            match self.next() {
                Ok(true) => {}
                Ok(false) => return Ok(0),
                Err(error) => return Err(of_records(error, &self.split.records)),
            }
        }
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let length = self.read_record(&mut buffer[..most]).map_err(|error| of_records(error, &self.split.records))?;
        if length == 0 {
            // A record tells of more than there is.
            return Err(io::Error::other(SplitError::Damaged(self.split.records.clone())));
        }
        self.left -= length as u64;
        Ok(length)
    }
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
