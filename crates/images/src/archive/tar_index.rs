//! Where the files of a tar are in it: one pass over its headers, and nothing of its content is read.
//!
//! Sources: POSIX.1-2017 (pax, "ustar Interchange Format") and GNU tar's manual ("Basic Tar Format"). Two readers of
//! a tar must not come to see different files in it, so what they are known to differ in is refused: sizes of entries
//! that have no content, sparse files, and records that count for all that follow. What needs memory is bounded:
//! entries, their names, and the records before one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as Place;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use sandpen_tree::header::{Header, field};
use sandpen_tree::record::{BLOCK, BLOCK_LEN, decimal, first_record, has_checksum};

use super::{ArchiveError, BlobReader};
use crate::fields;
use crate::json::shown;

/// Most headers.
const HEADERS_MAX: u64 = 100_000;
/// Longest name, as Linux has it.
const NAME_MAX: usize = 4096;
/// Most bytes of all names together.
const NAMES_MAX: usize = 16 << 20;
/// Most bytes of an entry's records.
const RECORDS_MAX: u64 = 1 << 20;
/// Most links from one to the next.
const LINKS_MAX: usize = 4;

/// The files of a tar by their names.
#[derive(Debug)]
pub(super) struct TarIndex {
    file: Arc<File>,
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug, Clone)]
enum Entry {
    File { at: u64, size: u64 },
    Link(String),
    Other(&'static str),
    Twice,
}

/// Whether these bytes begin with a tar's header.
pub(super) fn is_header(bytes: &[u8]) -> bool {
    bytes.first_chunk::<BLOCK_LEN>().is_some_and(|block| block[0] != 0 && has_checksum(block))
}

impl TarIndex {
    pub(super) fn new(file: File) -> Result<Self, ArchiveError> {
        let len = file.metadata().map_err(|error| ArchiveError::io("the archive", error))?.len();
        let mut scan = Scan { file: &file, len, at: 0, names: 0, entries: BTreeMap::new(), next: Records::default() };
        let mut headers = 0;
        while scan.header()? {
            headers += 1;
            if headers > HEADERS_MAX {
                return Err(scan.refused(format!("it has more than {HEADERS_MAX} entries")));
            }
        }
        let entries = scan.entries;
        Ok(Self { file: Arc::new(file), entries })
    }

    /// Whether something of this name is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The file of this name. A link, as Docker wrote them for a layer that another image has too, leads to another
    /// file of this index or nowhere.
    pub(super) fn find(&self, path: &str) -> Result<Option<BlobReader>, ArchiveError> {
        let mut name = path.to_owned();
        for _ in 0..=LINKS_MAX {
            let not_file = |found| ArchiveError::NotFile { path: shown(&name), found };
            match self.entries.get(&name) {
                None if name == path => return Ok(None),
                None => return Err(ArchiveError::Missing { path: shown(&name) }),
                Some(Entry::File { at, size }) => {
                    return Ok(Some(BlobReader { file: Arc::clone(&self.file), at: *at, end: at + size }));
                }
                Some(Entry::Link(target)) => {
                    name = follow(&name, target).ok_or_else(|| ArchiveError::Outside { path: shown(target) })?;
                }
                Some(Entry::Other(found)) => return Err(not_file(found)),
                Some(Entry::Twice) => return Err(ArchiveError::Twice { path: shown(&name) }),
            }
        }
        Err(ArchiveError::NotFile { path: shown(path), found: "a link to a link, again and again," })
    }
}

/// The name that a link of this name leads to.
fn follow(name: &str, target: &str) -> Option<String> {
    let mut parts: Vec<_> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" => return None, // from the root, above all
            "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// What records say about the entry behind them.
#[derive(Debug, Default)]
struct Records {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

/// A pass over the headers.
struct Scan<'a> {
    file: &'a File,
    len: u64,
    /// Where the next header is, or the one at hand.
    at: u64,
    names: usize,
    entries: BTreeMap<String, Entry>,
    next: Records,
}

impl Scan<'_> {
    fn refused(&self, reason: impl Into<String>) -> ArchiveError {
        ArchiveError::Tar { at: self.at, reason: reason.into() }
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> Result<(), ArchiveError> {
        self.file.read_exact_at(buf, at).map_err(|error| ArchiveError::io("the archive", error))
    }

    /// Takes the next header; `false` is the end.
    fn header(&mut self) -> Result<bool, ArchiveError> {
        let is_whole = self.next.path.is_none() && self.next.link.is_none() && self.next.size.is_none();
        if self.at >= self.len && is_whole {
            return Ok(false); // without the empty blocks, as some write it
        }
        if self.len.saturating_sub(self.at) < BLOCK {
            return Err(self.refused("it ends within a header, so a part of it is missing"));
        }
        let mut block = [0; BLOCK_LEN];
        self.read(self.at, &mut block)?;
        if block == [0; BLOCK_LEN] {
            return if is_whole { Ok(false) } else { Err(self.refused("it ends before an entry that was begun")) };
        }
        if !has_checksum(&block) {
            return Err(self.refused("its header has a wrong checksum"));
        }
        let header = Header(block);
        let size = fields::number(&header.0[field::SIZE]);
        let mut size = size.ok_or_else(|| self.refused("its size is no number"))?;
        let kind = header.kind();
        let is_record = matches!(kind, b'x' | b'g' | b'L' | b'K');
        if let (false, Some(other)) = (is_record, self.next.size) {
            size = other;
        }
        let content = self.at + BLOCK;
        let end = content.checked_add(size).filter(|end| *end <= self.len).ok_or_else(|| {
            self.refused(format!("its entry has {size} bytes, but the file ends before, so a part of it is missing"))
        })?;
        if is_record {
            self.records(kind, content, size)?;
        } else {
            self.entry(kind, &header, content, size)?;
        }
        self.at = end.next_multiple_of(BLOCK);
        Ok(true)
    }

    /// Keeps what stands before an entry.
    fn records(&mut self, kind: u8, content: u64, size: u64) -> Result<(), ArchiveError> {
        let most = if matches!(kind, b'L' | b'K') { NAME_MAX as u64 + 1 } else { RECORDS_MAX };
        let len = usize::try_from(size).ok().filter(|_| size <= most);
        let len = len.ok_or_else(|| self.refused(format!("it has {size} bytes of names or records")))?;
        let mut bytes = vec![0; len];
        self.read(content, &mut bytes)?;
        match kind {
            b'L' | b'K' => {
                let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default().to_vec();
                *(if kind == b'L' { &mut self.next.path } else { &mut self.next.link }) = Some(name);
            }
            _ => {
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let Ok(record) = first_record(rest) else {
                        return Err(self.refused("its records have no form"));
                    };
                    rest = record.rest;
                    self.record(kind == b'g', record.key, record.value)?;
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, is_global: bool, key: &[u8], value: &[u8]) -> Result<(), ArchiveError> {
        if key.starts_with(b"GNU.sparse.") {
            return Err(self.refused("it has sparse files, which no archive of images has"));
        }
        let next = match key {
            b"path" | b"linkpath" | b"size" if is_global => {
                return Err(self.refused("it has names or sizes for all files that follow"));
            }
            b"path" => &mut self.next.path,
            b"linkpath" => &mut self.next.link,
            b"size" => {
                let size = decimal(value).ok_or_else(|| self.refused("its size is no number"))?;
                self.next.size = Some(size);
                return Ok(());
            }
            _ => return Ok(()),
        };
        *next = Some(value.to_vec());
        Ok(())
    }

    /// Notes an entry.
    fn entry(&mut self, kind: u8, header: &Header, at: u64, size: u64) -> Result<(), ArchiveError> {
        let records = std::mem::take(&mut self.next);
        let path = records.path.unwrap_or_else(|| fields::name(header));
        let entry = match kind {
            b'0' | 0 | b'7' if path.ends_with(b"/") => Entry::Other("a directory"),
            b'0' | 0 | b'7' => Entry::File { at, size },
            b'1' => Entry::Other("a hard link"),
            b'2' => {
                let target = records.link.unwrap_or_else(|| header.target().to_owned());
                match String::from_utf8(target) {
                    Ok(target) if target.len() <= NAME_MAX => Entry::Link(target),
                    _ => Entry::Other("a link to no name"),
                }
            }
            b'3' | b'4' | b'6' => Entry::Other("a device or a pipe"),
            b'5' => Entry::Other("a directory"),
            b'S' => return Err(self.refused("it has sparse files, which no archive of images has")),
            other => return Err(self.refused(format!("its entry is of the unknown type '{}'", other.escape_ascii()))),
        };
        if !matches!(kind, b'0' | 0 | b'7') && size != 0 {
            return Err(self.refused("its entry is no file but has a size"));
        }
        if path.len() > NAME_MAX {
            return Err(self.refused(format!("its entry has a name of more than {NAME_MAX} bytes")));
        }
        // Nothing asks for a name that is not UTF-8.
        let Ok(mut path) = std::str::from_utf8(&path) else { return Ok(()) };
        while let Some(rest) = path.strip_prefix("./") {
            path = rest;
        }
        let name = path.trim_end_matches('/').to_owned();
        let target = if let Entry::Link(target) = &entry { target.len() } else { 0 };
        self.names += name.len() + target;
        if self.names > NAMES_MAX {
            return Err(self.refused(format!("its names have more than {NAMES_MAX} bytes together")));
        }
        match self.entries.entry(name) {
            Place::Vacant(place) => {
                place.insert(entry);
            }
            Place::Occupied(mut place) => {
                // A directory may be named once more: nothing is read from it.
                let is_same = matches!((place.get(), &entry), (Entry::Other(one), Entry::Other(two)) if one == two);
                if !is_same {
                    place.insert(Entry::Twice);
                }
            }
        }
        Ok(())
    }
}
