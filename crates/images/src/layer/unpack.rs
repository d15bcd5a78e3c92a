//! From a packed archive to a layer's files, as one stream: a thread reads and unpacks, another one hashes, reads the
//! archive and writes.
//!
//! ```text
//!   source ─▶ [hash] ─▶ unpack ══ chunks, a few ══▶ hash ─▶ archive reader ─▶ blob, entries, tar ─▶ checked as a tree
//! ```

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{channel, sync_channel};
use std::thread;

use sandpen_tree::name;

use super::archive_reader::{ArchiveReader, Contents, TarEntry, TarError, TarKind, TarProblem};
use super::blob::{BlobWriter, pieces};
use super::entry::{Entry, EntryWriter, Kind};
use super::error::{LayerError, text};
use super::ratio::TooMuch;
use super::split::SplitWriter;
use super::stream::{CHUNKS, Stream, feed};
use super::{BLOB, ENTRIES, ENTRIES_MAX, Expected, LayerInfo, NameProblem, TAR};
use crate::tree::{Tree, TreeError};

/// Bytes of a sparse file, holes included, between two looks at what is written of it.
const LOOK: u64 = 16 << 20;

/// What the name of a whiteout begins with, and that of an opaque directory's mark (OCI image-spec, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Marks of AUFS, which mean nothing elsewhere.
const AUFS: &[u8] = b".wh..wh.";

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
        let written = write(Stream::new(chunks, give_back, read), directory);
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

/// Held by whoever has the tree of a layer in memory.
static TREE: Mutex<()> = Mutex::new(());

/// A new file of a layer.
fn create(directory: &Path, name: &str) -> Result<File, LayerError> {
    let path = directory.join(name);
    // Read, to be looked through at the end; for us alone, as the directory is.
    let created = File::options().read(true).write(true).create_new(true).open(&path);
    created.map_err(|source| LayerError::Write { path, source })
}

/// Reads the archive, and writes the layer's files.
fn write(mut stream: Stream<'_>, directory: &Path) -> Result<LayerInfo, LayerError> {
    let cannot_write = |name: &str| {
        let path = directory.join(name);
        move |source| LayerError::Write { path, source }
    };
    let (tar, blob, entries) = (create(directory, TAR)?, create(directory, BLOB)?, create(directory, ENTRIES)?);
    let files = [&tar, &blob, &entries].map(File::try_clone).into_iter().collect::<Result<_, _>>();
    stream.goes_into(files.map_err(cannot_write(TAR))?);
    let mut layer = LayerWriter {
        reader: ArchiveReader::new(stream, SplitWriter::new(tar).map_err(cannot_write(TAR))?),
        blob: BlobWriter::synced_early(blob).map_err(cannot_write(BLOB))?,
        entries: EntryWriter::new(entries),
        content_bytes: 0,
        directory,
    };
    if let Err(error) = layer.read_all() {
        // The reader's errors come through the archive reader.
        return Err(if layer.reader.input().is_too_much() { LayerError::Ratio(TooMuch) } else { error });
    }
    let LayerWriter { reader, blob, entries, content_bytes, .. } = layer;
    let (stream, split) = reader.into_parts();
    let (diff_id, tar_bytes) = stream.into_digest();
    split.finish().map_err(cannot_write(TAR))?;
    let (_, blob_bytes) = blob.finish().map_err(cannot_write(BLOB))?;
    let count = entries.count();
    drop(entries.finish().map_err(cannot_write(ENTRIES))?);
    let list = File::open(directory.join(ENTRIES)).map_err(LayerError::Read)?;
    // The entries are possible together; what they are to the layers below is looked at where those are known. One layer at
    // a time: so memory is that of the largest tree, however many are unpacked side by side.
    let _alone = TREE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    Tree::of_one_layer(&list).map_err(|error| match error {
        TreeError::Entry { path, problem } => LayerError::Tree { entry: text(&path), problem },
        TreeError::Read(source) => LayerError::Read(source),
    })?;
    Ok(LayerInfo { diff_id, tar_bytes, blob_bytes, entries: count, content_bytes })
}

struct LayerWriter<'a> {
    reader: ArchiveReader<Stream<'a>>,
    blob: BlobWriter,
    entries: EntryWriter,
    content_bytes: u64,
    directory: &'a Path,
}

impl LayerWriter<'_> {
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
        let (parent, name) = name::split(&path);
        let mark = match name {
            OPAQUE => Some(Entry { path: parent.to_owned(), kind: Kind::Opaque, meta: meta.clone() }),
            other if other.starts_with(AUFS) => {
                self.skip(&kind, &path)?;
                return Ok(None);
            }
            other => match other.strip_prefix(WHITEOUT) {
                Some(b"" | b"." | b"..") => {
                    return Err(LayerError::archive(&path, TarProblem::Name(NameProblem::Empty)));
                }
                Some(hidden) => {
                    Some(Entry { path: name::join(parent, hidden), kind: Kind::Whiteout, meta: meta.clone() })
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
            let before = at;
            at = segment.offset + segment.bytes;
            stored += segment.bytes;
            // Few bytes of the archive may be many here.
            if before / LOOK != at / LOOK {
                self.reader.input_mut().check().map_err(cannot_write)?;
            }
        }
        file.zeros(contents.bytes - at).map_err(cannot_write)?;
        let (bytes, runs) = file.finish().map_err(cannot_write)?;
        for segment in &contents.segments {
            let pieces = pieces(&runs, segment.offset, segment.bytes);
            self.reader.split.content(&pieces).map_err(cannot_write)?;
        }
        self.reader.padding(stored).map_err(of_reader)?;
        self.content_bytes += bytes;
        Ok(Kind::File { bytes, runs })
    }
}
