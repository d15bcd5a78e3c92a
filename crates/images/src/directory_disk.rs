//! A root directory as a disk in one file: its contents, and behind them an EROFS file system of them.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

use rustix::fd::AsFd;

use crate::erofs::{self, ErofsError, Placement};
use crate::layer::BLOCK;
use crate::layer::blob::BlobWriter;
use crate::layer::entry::{Entry, EntryWriter, Kind, Meta};
use crate::tree::{Tree, TreeError};
use crate::walk::{self, Found, Owners, Sink, WalkError};

/// What is read of a file at once.
const READ: usize = 256 << 10;

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryDiskError {
    /// The directory.
    #[error(transparent)]
    Walk(#[from] WalkError),
    /// Its files make no tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// The file system.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The disk's file.
    #[error("writing the disk; is there room?")]
    Write(#[source] io::Error),
    /// More than a file system has numbers for.
    #[error("the directory has more than a file system holds")]
    TooLarge,
}

/// Writes the disk of `root` into `disk`, an empty file; `scratch` is another one. Sockets are kept, and what is mounted in
/// the directory is part of it.
///
/// # Errors
/// [`DirectoryDiskError`].
pub fn write(
    root: impl AsFd,
    shown: &Path,
    owners: Owners,
    disk: &File,
    scratch: File,
) -> Result<u64, DirectoryDiskError> {
    let mut blob = disk.try_clone().map_err(DirectoryDiskError::Write)?;
    // Behind the block of the superblock.
    blob.seek(SeekFrom::Start(BLOCK)).map_err(DirectoryDiskError::Write)?;
    let mut sink = DiskSink { blob: BlobWriter::new(blob), entries: EntryWriter::new(scratch), buffer: vec![0; READ] };
    walk::walk(root, shown, owners, false, &mut sink)?;
    let (_, bytes) = sink.blob.finish().map_err(DirectoryDiskError::Write)?;
    let list = sink.entries.finish().map_err(DirectoryDiskError::Write)?;
    let mut tree = Tree::new();
    tree.apply(&list)?;
    let blocks = u32::try_from(bytes / BLOCK).map_err(|_| DirectoryDiskError::TooLarge)?;
    Ok(erofs::write(&mut tree, &[blocks], Placement::Behind(blocks), disk)?)
}

struct DiskSink {
    blob: BlobWriter,
    entries: EntryWriter,
    buffer: Vec<u8>,
}

impl DiskSink {
    fn file(&mut self, mut file: &File, mut left: u64) -> io::Result<Kind> {
        let mut contents = self.blob.file();
        while left > 0 {
            // What is a hole there is one here, without being read.
            let at = file.stream_position()?;
            let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
                Ok(data) => data.min(at + left),
                Err(rustix::io::Errno::NXIO) => at + left,
                // A file system that does not tell.
                Err(_) => at,
            };
            contents.zeros(data - at)?;
            left -= data - at;
            file.seek(SeekFrom::Start(data))?;
            let part = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            if part == 0 {
                break;
            }
            file.read_exact(&mut self.buffer[..part])?;
            contents.write(&self.buffer[..part])?;
            left -= part as u64;
        }
        let (bytes, runs) = contents.finish()?;
        Ok(Kind::File { bytes, runs })
    }
}

impl Sink for DiskSink {
    fn take(&mut self, path: &[u8], meta: Meta, found: Found<'_>) -> io::Result<()> {
        let kind = match found {
            Found::Directory => Kind::Directory,
            Found::File(file, bytes) => self.file(file, bytes)?,
            Found::HardLink(target) => Kind::HardLink(target.to_owned()),
            Found::SymbolicLink(target) => Kind::SymbolicLink(target.to_owned()),
            Found::CharacterDevice(major, minor) => Kind::CharacterDevice(major, minor),
            Found::BlockDevice(major, minor) => Kind::BlockDevice(major, minor),
            Found::Fifo => Kind::Fifo,
            Found::Socket => Kind::Socket,
        };
        self.entries.push(&Entry { path: path.to_owned(), kind, meta })
    }
}
