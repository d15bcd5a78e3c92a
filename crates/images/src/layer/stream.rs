//! The source of a layer: read, hashed and unpacked by one thread, hashed again and handed out on another.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};

use sandpen_types::image::ImageDigest;
use sha2::{Digest as _, Sha256};

use super::Expected;
use super::decompress::Compression;
use super::error::LayerError;
use super::ratio::{self, TooMuch};

/// Bytes of a chunk between the threads, and how many may wait.
const CHUNK: usize = 256 << 10;
pub(super) const CHUNKS: usize = 4;
/// What is read of the source at once.
const READ: usize = 128 << 10;

/// Counts and hashes what is read of the source.
struct Source<'a, R> {
    inner: R,
    hash: Option<Sha256>,
    read: &'a AtomicU64,
    progress: &'a (dyn Fn(u64) + Sync),
    error: Option<io::Error>,
}

impl<R: Read> Read for Source<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.inner.read(buffer) {
                Ok(length) => {
                    if let Some(hash) = &mut self.hash {
                        hash.update(&buffer[..length]);
                    }
                    self.read.fetch_add(length as u64, Ordering::Relaxed);
                    (self.progress)(length as u64);
                    return Ok(length);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // Told as its own, whatever the unpacker makes of it.
                    self.error = Some(io::Error::from(error.kind()));
                    return Err(error);
                }
            }
        }
    }
}

/// Reads and unpacks, until the other side takes no more.
pub(super) fn feed(
    packed: impl Read,
    expected: &Expected,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
    read: &AtomicU64,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<(), LayerError> {
    let hash = expected.packed.map(|_| Sha256::new());
    let mut source = BufReader::with_capacity(READ, Source { inner: packed, hash, read, progress, error: None });
    let compression = Compression::of(source.fill_buf().map_err(LayerError::Read)?);
    let fed = unpack_chunks(&mut source, compression, full, empty);
    // What follows counts for the digest, too.
    let rest = fed.and_then(|goes_on| {
        if goes_on {
            io::copy(&mut source, &mut io::sink())?;
        }
        Ok(goes_on)
    });
    let source = source.into_inner();
    let goes_on = match (rest, source.error) {
        (Err(error), Some(_)) => return Err(LayerError::Read(error)),
        (Err(source), None) => return Err(LayerError::Unpack { compression, source }),
        (Ok(goes_on), _) => goes_on,
    };
    if !goes_on {
        // The other side has an error of its own.
        return Ok(());
    }
    let found = read.load(Ordering::Relaxed);
    if let Some(expected) = expected.packed_bytes
        && expected != found
    {
        return Err(LayerError::Size { expected, found });
    }
    if let (Some(expected), Some(hash)) = (expected.packed, source.hash) {
        let found = ImageDigest::new(hash.finalize().into());
        if found != expected {
            return Err(LayerError::Digest { what: "its packed bytes", expected, found });
        }
    }
    Ok(())
}

/// False when the other side takes no more.
fn unpack_chunks(
    source: &mut impl BufRead,
    compression: Compression,
    full: &SyncSender<Vec<u8>>,
    empty: &Receiver<Vec<u8>>,
) -> io::Result<bool> {
    let mut unpacked = compression.unpack(source)?;
    loop {
        let mut chunk = empty.try_recv().unwrap_or_default();
        chunk.resize(CHUNK, 0);
        let mut filled = 0;
        while filled < CHUNK {
            match unpacked.read(&mut chunk[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return Ok(true);
        }
        chunk.truncate(filled);
        if full.send(chunk).is_err() {
            return Ok(false);
        }
    }
}

/// The unpacked bytes.
pub(super) struct Stream<'a> {
    chunks: Receiver<Vec<u8>>,
    give_back: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hash: Sha256,
    bytes: u64,
    /// Bytes of the source that were read.
    packed: &'a AtomicU64,
    /// What is written of it.
    files: Vec<File>,
    too_much: bool,
}

impl<'a> Stream<'a> {
    /// The chunks that come; used ones are given back. `packed` counts what was read of the source.
    pub(super) fn new(chunks: Receiver<Vec<u8>>, give_back: Sender<Vec<u8>>, packed: &'a AtomicU64) -> Self {
        let (hash, files) = (Sha256::new(), Vec::new());
        Self { chunks, give_back, chunk: Vec::new(), at: 0, hash, bytes: 0, packed, files, too_much: false }
    }

    /// Into which files all of it goes: they may not be too large for it.
    pub(super) fn goes_into(&mut self, files: Vec<File>) {
        self.files = files;
    }

    /// Whether what was read, and what was written of it, is no more than it can be.
    ///
    /// # Errors
    /// [`TooMuch`] inside; the disk's.
    pub(super) fn check(&mut self) -> io::Result<()> {
        let checked = ratio::check(self.packed.load(Ordering::Relaxed), self.bytes, ratio::written(&self.files)?);
        self.too_much |= checked.is_err();
        checked.map_err(|TooMuch| io::Error::other(TooMuch))
    }

    /// Whether it was given up because of its size.
    pub(super) fn is_too_much(&self) -> bool {
        self.too_much
    }

    /// The digest of all that was handed out, and its bytes.
    pub(super) fn into_digest(self) -> (ImageDigest, u64) {
        (ImageDigest::new(self.hash.finalize().into()), self.bytes)
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let there = self.fill_buf()?;
        let length = there.len().min(buffer.len());
        buffer[..length].copy_from_slice(&there[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Stream<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len()
            && let Ok(next) = self.chunks.recv()
        {
            let used = std::mem::replace(&mut self.chunk, next);
            if used.capacity() > 0 {
                // Nobody takes it any more at the end.
                let _ = self.give_back.send(used);
            }
            self.at = 0;
            self.hash.update(&self.chunk);
            self.bytes += self.chunk.len() as u64;
            self.check()?;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}
