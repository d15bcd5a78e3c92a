//! From a packed archive to a layer's files, as one stream: a thread reads and unpacks, another one hashes, reads the
//! archive and writes.
//!
//! ```text
//!   source ─▶ [hash] ─▶ unpack ══ chunks, a few ══▶ hash ─▶ archive reader ─▶ blob, entries, tar ─▶ checked as a tree
//! ```

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread;

use sandpen_types::image::ImageDigest;
use sha2::{Digest as _, Sha256};

use super::archive_reader::{ArchiveReader, Contents, TarEntry, TarError, TarKind, TarProblem};
use super::blob::{BlobWriter, pieces};
use super::decompress::Compression;
use super::entry::{Entry, EntryWriter, Kind};
use super::path::PathProblem;
use super::split::SplitWriter;
use super::{BLOB, ENTRIES, ENTRIES_MAX, LayerInfo, TAR};
use crate::tree::{Tree, TreeError, TreeProblem};

/// Bytes of a chunk between the threads, and how many may wait.
const CHUNK: usize = 256 << 10;
const CHUNKS: usize = 4;
/// What is read of the source at once.
const READ: usize = 128 << 10;

/// An archive may unpack to this many bytes whatever its own size is…
const RATIO_FREE: u64 = 1 << 30;
/// …and beyond to so many times its size: gzip makes at most 1,032 of one, and of files nobody ever had 300.
const RATIO_MAX: u64 = 500;

/// What the name of a whiteout begins with, and that of an opaque directory's mark (OCI image-spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Marks of AUFS, which mean nothing elsewhere.
const AUFS: &[u8] = b".wh..wh.";

/// What is known of a layer beforehand.
#[derive(Debug, Clone, Copy, Default)]
pub struct Expected {
    /// Its diff_id.
    pub diff_id: Option<ImageDigest>,
    /// The digest of the packed bytes.
    pub packed: Option<ImageDigest>,
    /// How many they are.
    pub packed_bytes: Option<u64>,
}

/// Why a layer cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The source.
    #[error("reading it")]
    Read(#[source] io::Error),
    /// What it is packed with.
    #[error("unpacking it ({compression:?}); it is damaged")]
    Unpack {
        /// How.
        compression: Compression,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The archive.
    #[error("its entry {entry:?}: {problem}")]
    Archive {
        /// The name, as far as it is text.
        entry: String,
        /// What.
        problem: TarProblem,
    },
    /// An entry together with others.
    #[error("its entry {entry:?}: {problem}")]
    Tree {
        /// The path, as far as it is text.
        entry: String,
        /// What.
        problem: TreeProblem,
    },
    /// Other bytes than were told.
    #[error("the digest of {what} is {found}, and not {expected} as it says: it was changed or damaged")]
    Digest {
        /// Of what.
        what: &'static str,
        /// What is told.
        expected: ImageDigest,
        /// What is so.
        found: ImageDigest,
    },
    /// More or fewer bytes than were told.
    #[error("it has {found} bytes, and not {expected} as it says")]
    Size {
        /// What is told.
        expected: u64,
        /// What is so.
        found: u64,
    },
    /// Unpacking it would not end.
    #[error("it unpacks to more than {RATIO_MAX} times its size, which no files do")]
    Ratio,
    /// The disk.
    #[error("writing {path:?}; is there room on the disk?")]
    Write {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// No thread.
    #[error("starting a thread to unpack it")]
    Thread(#[source] io::Error),
}

pub(super) fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

impl LayerError {
    fn archive(entry: &[u8], problem: TarProblem) -> Self {
        Self::Archive { entry: text(entry), problem }
    }
}

/// Unpacks `packed`, whatever it is packed with, into `directory`, which is there and empty. `progress` hears of bytes
/// that were read. What was written is not yet safe on the disk.
///
/// # Errors
/// [`LayerError`]; what is in the directory is of no use then.
pub fn unpack(
    packed: impl Read + Send,
    expected: &Expected,
    directory: &Path,
    progress: &(dyn Fn(u64) + Sync),
) -> Result<LayerInfo, LayerError> {
    let (full, chunks) = sync_channel(CHUNKS);
    let (give_back, empty) = channel();
    let read = AtomicU64::new(0);
    thread::scope(|scope| {
        let source = thread::Builder::new().name("unpack".to_owned());
        let read = &read;
        let source = source.spawn_scoped(scope, move || feed(packed, expected, &full, &empty, read, progress));
        let source = source.map_err(LayerError::Thread)?;
        let stream = Stream {
            chunks,
            give_back,
            chunk: Vec::new(),
            at: 0,
            hash: Sha256::new(),
            bytes: 0,
            packed: read,
            too_much: false,
        };
        let written = write(stream, directory);
        // Its end is what says whether all was there.
        let fed = source.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (fed, written) {
            // What went wrong first: the reader only sees that there is no more.
            (Err(error), _) | (Ok(()), Err(error)) => Err(error),
            (Ok(()), Ok(info)) => match expected.diff_id {
                Some(told) if told != info.diff_id => {
                    Err(LayerError::Digest { what: "its unpacked bytes", expected: told, found: info.diff_id })
                }
                _ => Ok(info),
            },
        }
    })
}

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
fn feed(
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
struct Stream<'a> {
    chunks: Receiver<Vec<u8>>,
    give_back: Sender<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    hash: Sha256,
    bytes: u64,
    /// Bytes of the source that were read.
    packed: &'a AtomicU64,
    too_much: bool,
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
            let most = self.packed.load(Ordering::Relaxed).saturating_mul(RATIO_MAX).max(RATIO_FREE);
            if self.bytes > most {
                self.too_much = true;
                return Err(io::Error::other("too much"));
            }
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

/// A new file of a layer.
fn create(directory: &Path, name: &str) -> Result<File, LayerError> {
    let path = directory.join(name);
    // Read, to be looked through at the end; for us alone, as the directory is.
    let created = File::options().read(true).write(true).create_new(true).open(&path);
    created.map_err(|source| LayerError::Write { path, source })
}

/// Reads the archive, and writes the layer's files.
fn write(stream: Stream<'_>, directory: &Path) -> Result<LayerInfo, LayerError> {
    let cannot_write = |name: &str| {
        let path = directory.join(name);
        move |source| LayerError::Write { path, source }
    };
    let split = SplitWriter::new(create(directory, TAR)?).map_err(cannot_write(TAR))?;
    let mut layer = LayerWriter {
        reader: ArchiveReader::new(stream, split),
        blob: BlobWriter::new(create(directory, BLOB)?),
        entries: EntryWriter::new(create(directory, ENTRIES)?),
        content_bytes: 0,
        directory,
    };
    if let Err(error) = layer.read_all() {
        // The reader's errors come through the archive reader.
        return Err(if layer.reader.input().too_much { LayerError::Ratio } else { error });
    }
    let LayerWriter { reader, blob, entries, content_bytes, .. } = layer;
    let (stream, split) = reader.into_parts();
    let tar_bytes = stream.bytes;
    let diff_id = ImageDigest::new(stream.hash.finalize().into());
    split.finish().map_err(cannot_write(TAR))?;
    let (_, blob_bytes) = blob.finish().map_err(cannot_write(BLOB))?;
    let count = entries.count();
    drop(entries.finish().map_err(cannot_write(ENTRIES))?);
    let list = File::open(directory.join(ENTRIES)).map_err(LayerError::Read)?;
    // The entries are possible together; what they are to the layers below is looked at where those are known.
    Tree::of_one_layer(&list).map_err(|error| match error {
        TreeError::Entry { path, problem } => LayerError::Tree { entry: text(&path), problem },
        TreeError::Read(source) => LayerError::Read(source),
    })?;
    Ok(LayerInfo { diff_id, tar_bytes, blob_bytes, entries: count, content_bytes })
}

struct LayerWriter<'a, R> {
    reader: ArchiveReader<R>,
    blob: BlobWriter,
    entries: EntryWriter,
    content_bytes: u64,
    directory: &'a Path,
}

impl<R: BufRead> LayerWriter<'_, R> {
    fn read_all(&mut self) -> Result<(), LayerError> {
        let of_reader = |error| match error {
            TarError::Archive { entry, problem } => LayerError::archive(&entry, problem),
            TarError::Io(source) => LayerError::Write { path: self.directory.join(TAR), source },
        };
        while let Some(entry) = self.reader.read().map_err(of_reader)? {
            if self.entries.count() >= ENTRIES_MAX {
                return Err(LayerError::archive(&entry.path, TarProblem::TooMany));
            }
            let directory = self.directory;
            if let Some(entry) = self.entry(entry)? {
                self.entries
                    .push(&entry)
                    .map_err(|source| LayerError::Write { path: directory.join(ENTRIES), source })?;
            }
        }
        Ok(())
    }

    /// What is kept of an entry, if anything is.
    fn entry(&mut self, entry: TarEntry) -> Result<Option<Entry>, LayerError> {
        let TarEntry { path, kind, meta } = entry;
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&path[..0], &path[..]),
        };
        let mark = match name {
            OPAQUE => Some(Entry { path: parent.to_owned(), kind: Kind::Opaque, meta: meta.clone() }),
            other if other.starts_with(AUFS) => {
                self.skip(&kind, &path)?;
                return Ok(None);
            }
            other => match other.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => {
                    return Err(LayerError::archive(&path, TarProblem::Name(PathProblem::Empty)));
                }
                Some(hidden) => {
                    let hidden = if parent.is_empty() { hidden.to_owned() } else { [parent, b"/", hidden].concat() };
                    Some(Entry { path: hidden, kind: Kind::Whiteout, meta: meta.clone() })
                }
                None => None,
            },
        };
        if mark.is_some() {
            self.skip(&kind, &path)?;
            return Ok(mark);
        }
        let kind = match kind {
            TarKind::File(contents) => self.file(&contents, &path)?,
            TarKind::Directory => Kind::Directory,
            TarKind::HardLink(target) => Kind::HardLink(target),
            TarKind::SymbolicLink(target) => Kind::SymbolicLink(target),
            TarKind::CharacterDevice(major, minor) => Kind::CharacterDevice(major, minor),
            TarKind::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            TarKind::Fifo => Kind::Fifo,
        };
        Ok(Some(Entry { path, kind, meta }))
    }

    /// Keeps the contents of what is no entry of its own, for the archive alone.
    fn skip(&mut self, kind: &TarKind, path: &[u8]) -> Result<(), LayerError> {
        if let TarKind::File(contents) = kind {
            self.file(contents, path)?;
        }
        Ok(())
    }

    fn file(&mut self, contents: &Contents, path: &[u8]) -> Result<Kind, LayerError> {
        let blob = self.directory.join(BLOB);
        let cannot_write = |source| LayerError::Write { path: blob.clone(), source };
        let of_reader = |error| match error {
            TarError::Archive { problem, .. } => LayerError::archive(path, problem),
            TarError::Io(source) => LayerError::Write { path: blob.clone(), source },
        };
        let (mut at, mut stored) = (0, 0);
        let mut file = self.blob.file();
        for segment in &contents.segments {
            file.zeros(segment.offset - at).map_err(cannot_write)?;
            self.reader.content(segment.bytes, path, |bytes| file.write(bytes)).map_err(of_reader)?;
            at = segment.offset + segment.bytes;
            stored += segment.bytes;
        }
        file.zeros(contents.bytes - at).map_err(cannot_write)?;
        let (bytes, runs) = file.finish().map_err(cannot_write)?;
        for segment in &contents.segments {
            let pieces = pieces(&runs, segment.offset, segment.bytes);
            self.reader.split.content(&pieces).map_err(cannot_write)?;
        }
        self.reader.padding(stored, path).map_err(of_reader)?;
        self.content_bytes += bytes;
        Ok(Kind::File { bytes, runs })
    }
}
