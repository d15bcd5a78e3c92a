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

/// Why an archive cannot be written again.
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
    /// Whoever takes it.
    #[error("writing the layer's archive")]
    Write(#[source] io::Error),
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

    /// Writes it; answers its bytes.
    ///
    /// # Errors
    /// [`SplitError`].
    pub fn write_to(&self, out: &mut dyn Write) -> Result<u64, SplitError> {
        let of_records = |source: io::Error| SplitError::Read { path: self.records.clone(), source };
        let of_blob = |source: io::Error| SplitError::Read { path: self.blob.clone(), source };
        let mut records = File::open(&self.records).map_err(of_records)?;
        let mut records = BufReader::new(zstd::Decoder::new(&mut records).map_err(of_records)?);
        let blob = File::open(&self.blob).map_err(of_blob)?;
        let (mut chunk, mut total) = (vec![0; CHUNK], 0_u64);
        let mut tag = [0];
        loop {
            if records.read(&mut tag).map_err(of_records)? == 0 {
                return Ok(total);
            }
            let mut bytes = number(&mut records).map_err(of_records)?;
            total = total.checked_add(bytes).ok_or_else(|| SplitError::Damaged(self.records.clone()))?;
            let mut offset = if tag[0] == BLOB { number(&mut records).map_err(of_records)? } else { 0 };
            if tag[0] == ZEROS {
                chunk.fill(0);
            }
            while bytes > 0 {
                let part = usize::try_from(bytes).unwrap_or(CHUNK).min(CHUNK);
                match tag[0] {
                    RAW => records.read_exact(&mut chunk[..part]).map_err(of_records)?,
                    BLOB => blob.read_exact_at(&mut chunk[..part], offset).map_err(of_blob)?,
                    ZEROS => {}
                    _ => return Err(SplitError::Damaged(self.records.clone())),
                }
                out.write_all(&chunk[..part]).map_err(SplitError::Write)?;
                offset += part as u64;
                bytes -= part as u64;
            }
        }
    }
}

fn number(from: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    from.read_exact(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
