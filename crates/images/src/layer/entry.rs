//! The list of a layer's entries, as it lies in a file: for each the number of its bytes (u32, little-endian) and a
//! record in postcard's encoding, in the order of the archive.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt as _;

use serde::{Deserialize, Serialize};

use super::blob::Run;

/// Most bytes of a record: the runs of the most scattered file that there can be, and some.
const RECORD_MAX: usize = 32 << 20;

/// What an archive says of one path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the root, in the form of `layer::path`; empty for the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Its attributes; those of a hard link, a whiteout and an opaque mark say nothing.
    pub meta: Meta,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file with contents.
    File {
        /// Bytes.
        bytes: u64,
        /// Where they are; what is between them is a hole.
        runs: Vec<Run>,
    },
    /// One more name of the file at a path, in this layer or below it.
    HardLink(Vec<u8>),
    /// A symbolic link, and where it leads.
    SymbolicLink(Vec<u8>),
    /// A character device: major and minor number.
    CharacterDevice(u32, u32),
    /// A block device.
    BlockDevice(u32, u32),
    /// A FIFO.
    Fifo,
    /// A socket: of directories alone, as archives hold none.
    Socket,
    /// What has this path in the layers below is not there.
    Whiteout,
    /// What the directory with this path has in the layers below is not there.
    Opaque,
}

/// The attributes of an entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meta {
    /// Permissions: twelve bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When it was changed: seconds since 1970,
    pub mtime: i64,
    /// and nanoseconds.
    pub mtime_nanos: u32,
    /// Extended attributes, by name.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Writes a list.
#[derive(Debug)]
pub struct EntryWriter {
    file: BufWriter<File>,
    count: u64,
}

impl EntryWriter {
    /// A new list in an empty file.
    pub fn new(file: File) -> Self {
        Self { file: BufWriter::with_capacity(1 << 18, file), count: 0 }
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Adds one.
    ///
    /// # Errors
    /// The disk's; a record that is too large.
    pub fn push(&mut self, entry: &Entry) -> io::Result<()> {
        let record = postcard::to_stdvec(entry).map_err(io::Error::other)?;
        let length = u32::try_from(record.len()).ok().filter(|length| *length as usize <= RECORD_MAX);
        let length = length.ok_or_else(|| io::Error::other("an entry with more attributes than can be kept"))?;
        self.count += 1;
        self.file.write_all(&length.to_le_bytes())?;
        self.file.write_all(&record)
    }

    /// Ends the list.
    ///
    /// # Errors
    /// The disk's.
    pub fn finish(self) -> io::Result<File> {
        self.file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// Reads a list from its beginning.
#[derive(Debug)]
pub struct EntryReader {
    file: BufReader<File>,
    position: u64,
}

impl EntryReader {
    /// The list in a file, which is read from where it is.
    pub fn new(file: File) -> Self {
        Self { file: BufReader::with_capacity(1 << 18, file), position: 0 }
    }

    /// The next one, and where it begins; `None` at the end.
    ///
    /// # Errors
    /// The disk's; a list that is damaged.
    pub fn read(&mut self) -> io::Result<Option<(u64, Entry)>> {
        if self.file.fill_buf()?.is_empty() {
            return Ok(None);
        }
        let mut length = [0; 4];
        self.file.read_exact(&mut length)?;
        let record = read_record(&mut self.file, length)?;
        let begin = self.position;
        self.position += 4 + record.len() as u64;
        Ok(Some((begin, decode(&record)?)))
    }
}

/// The record at `position` of a list.
///
/// # Errors
/// The disk's; a list that is damaged.
pub fn read_at(file: &File, position: u64) -> io::Result<Entry> {
    // Nearly all of them fit.
    let mut first = [0; 512];
    let mut filled = 0;
    while filled < first.len() {
        match file.read_at(&mut first[filled..], position + filled as u64)? {
            0 => break,
            more => filled += more,
        }
    }
    let (length, rest) = first[..filled].split_first_chunk::<4>().ok_or(io::ErrorKind::UnexpectedEof)?;
    let bytes = u32::from_le_bytes(*length) as usize;
    if let Some(record) = rest.get(..bytes) {
        return decode(record);
    }
    check(bytes)?;
    let mut record = vec![0; bytes];
    file.read_exact_at(&mut record, position + 4)?;
    decode(&record)
}

fn check(bytes: usize) -> io::Result<()> {
    if bytes <= RECORD_MAX {
        Ok(())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "a damaged list of entries"))
    }
}

fn read_record(from: &mut impl Read, length: [u8; 4]) -> io::Result<Vec<u8>> {
    let bytes = u32::from_le_bytes(length) as usize;
    check(bytes)?;
    let mut record = vec![0; bytes];
    from.read_exact(&mut record)?;
    Ok(record)
}

fn decode(record: &[u8]) -> io::Result<Entry> {
    postcard::from_bytes(record).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
