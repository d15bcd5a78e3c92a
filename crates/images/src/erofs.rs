//! An EROFS file system of a tree: names and attributes in one part, the contents of files in blobs that lie where its
//! inodes say. Source of the format: Linux's `fs/erofs/erofs_fs.h` and its documentation ("erofs"), of 6.1 and older than
//! what came later: blocks of 4 KiB, no compression, no second device.
//!
//! ```text
//!   block 0                M                               │ then, or between 0 and M
//!   ┌────────────┬───────┬───────────────────┬────────────┐ ┌────────┬────────┐
//!   │ superblock │ …     │ inodes, small     │ large      │ │ blob 1 │ blob 2 │ …
//!   │ at 1024    │       │ directories       │ directories│ │        │        │
//!   └────────────┴───────┴───────────────────┴────────────┘ └────────┴────────┘
//! ```
//!
//! Inodes are of the extended kind (64 bytes: whole owners and times). A directory or a link that fits lies behind its
//! inode; a file with a hole has a map of chunks, of 64 KiB or more; any other one lies in one piece.

use std::fs::File;
use std::io::{self, BufWriter, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::FileExt as _;

use crate::layer::BLOCK;
use crate::layer::entry::{Entry, Kind, Meta};
use crate::tree::{ROOT, Shape, Tree};

mod chunks;
mod directory;
mod format;
mod xattrs;

use chunks::Chunks;
use directory::Directory;
use format::{DataLayout, INODE_BYTES, InodeRecord, SLOT_BYTES, Superblock};

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum ErofsError {
    /// The list of a layer's entries.
    #[error("reading what a layer says of a file")]
    Read(#[source] io::Error),
    /// The disk.
    #[error("writing the metadata; is there room on the disk?")]
    Write(#[source] io::Error),
    /// More than EROFS has numbers for.
    #[error("the image is too large for a file system: {0}")]
    TooLarge(&'static str),
    /// Attributes that do not fit.
    #[error("the extended attributes of {0:?} do not fit")]
    Xattrs(String),
}

/// Most bytes of the maps of all files: nothing else here is large without anything in the layers that is. As much is a map
/// of 4 TiB, scattered all over.
const MAPS_MAX: u64 = 256 << 20;

/// Where everything lies, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The file holds the superblock and the metadata; the blobs follow it, the topmost layer's first.
    Before,
    /// The file holds one blob of this many blocks already, from block 1 on; the metadata follows it.
    Behind(u32),
}

/// Writes the file system of `tree`; `blobs` are the blocks of each layer's blob, the lowest first. Answers the bytes of
/// the metadata with what comes before it: a whole number of blocks.
///
/// # Errors
/// [`ErofsError`]; what was written is of no use then.
pub fn write(tree: &mut Tree, blobs: &[u32], placement: Placement, file: &File) -> Result<u64, ErofsError> {
    let begin = match placement {
        Placement::Before => 1,
        Placement::Behind(blocks) => blocks.checked_add(1).ok_or(ErofsError::TooLarge("blocks"))?,
    };
    let plan = Plan::new(tree)?;
    let inode_blocks = plan.inode_bytes.div_ceil(BLOCK);
    let too_many = |_| ErofsError::TooLarge("metadata");
    let large_begin = u32::try_from(u64::from(begin) + inode_blocks).map_err(too_many)?;
    let end = u32::try_from(u64::from(large_begin) + plan.large_blocks).map_err(too_many)?;
    let mut starts = vec![0; blobs.len()];
    let mut next = match placement {
        Placement::Before => end,
        Placement::Behind(_) => 1,
    };
    for (start, blocks) in starts.iter_mut().zip(blobs).rev() {
        *start = next;
        next = next.checked_add(*blocks).ok_or(ErofsError::TooLarge("contents"))?;
    }
    let mut inodes = BufWriter::with_capacity(1 << 18, file);
    inodes.seek(SeekFrom::Start(u64::from(begin) * BLOCK)).map_err(ErofsError::Write)?;
    let mut writer = Writer { inodes, at: 0, file, large: large_begin, starts, ordinal: 0 };
    writer.all(tree, &plan)?;
    writer.fill_to(inode_blocks * BLOCK)?;
    writer.inodes.flush().map_err(ErofsError::Write)?;
    let superblock = Superblock { root: FIRST_SLOT, inodes: plan.inodes, blocks: next.max(end), metadata_block: begin };
    file.write_all_at(&superblock.block(), 0).map_err(ErofsError::Write)?;
    let bytes = u64::from(end) * BLOCK;
    file.set_len(bytes).map_err(ErofsError::Write)?;
    Ok(bytes)
}

/// The slot of the root: 0 is no inode number that programs take.
const FIRST_SLOT: u16 = 2;

/// How much room each inode takes, and in which order they lie.
struct Plan {
    /// Directories, in the order in which their entries' inodes lie.
    directories: Vec<u32>,
    inode_bytes: u64,
    large_blocks: u64,
    map_bytes: u64,
    inodes: u64,
}

/// What an inode needs beside its record.
struct Needs {
    xattr_bytes: u64,
    /// Bytes behind record and attributes that lie in one block.
    tail_bytes: u64,
    /// Bytes of a chunk map.
    map_bytes: u64,
    /// Whether what would be behind it has blocks of its own.
    is_large: bool,
}

/// The bytes that may follow an inode in its block.
fn tail_max(xattr_bytes: u64) -> u64 {
    BLOCK.saturating_sub(INODE_BYTES + xattr_bytes % BLOCK)
}

impl Plan {
    fn new(tree: &mut Tree) -> Result<Self, ErofsError> {
        let mut plan = Self {
            directories: vec![ROOT],
            inode_bytes: u64::from(FIRST_SLOT) * SLOT_BYTES,
            large_blocks: 0,
            map_bytes: 0,
            inodes: 0,
        };
        tree.begin_numbers();
        plan.place(tree, ROOT)?;
        let mut next = 0;
        let mut sorted = Vec::new();
        while let Some(directory) = plan.directories.get(next).copied() {
            next += 1;
            directory::sorted_children(tree, directory, &mut sorted);
            for child in &sorted {
                if tree.shape(tree.inode_of(*child)) == Shape::Directory {
                    plan.directories.push(*child);
                }
                plan.place(tree, *child)?;
            }
        }
        Ok(plan)
    }

    /// Gives an inode its number, unless it has one.
    fn place(&mut self, tree: &mut Tree, node: u32) -> Result<(), ErofsError> {
        let inode = tree.inode_of(node);
        if tree.number(inode) != u32::MAX {
            return Ok(());
        }
        let entry = tree.entry(inode).map_err(ErofsError::Read)?.map(|(entry, _)| entry);
        let needs = needs(tree, node, entry.as_ref())?;
        self.map_bytes = self.map_bytes.saturating_add(needs.map_bytes);
        if self.map_bytes > MAPS_MAX {
            return Err(ErofsError::TooLarge("files with holes"));
        }
        let at = position(self.inode_bytes, &needs);
        let number = u32::try_from(at / SLOT_BYTES).ok().filter(|number| *number != u32::MAX);
        tree.set_number(inode, number.ok_or(ErofsError::TooLarge("inodes"))?);
        self.inode_bytes = end_of(at, &needs);
        if needs.is_large {
            let is_directory = tree.shape(inode) == Shape::Directory;
            self.large_blocks += if is_directory { Directory::of(tree, node).size(tree).0 } else { 1 };
        }
        self.inodes += 1;
        Ok(())
    }
}

/// Where an inode may begin: what follows it in its block may not leave it.
fn position(at: u64, needs: &Needs) -> u64 {
    let at = at.next_multiple_of(INODE_BYTES);
    let tail = at + INODE_BYTES + needs.xattr_bytes;
    if needs.tail_bytes > 0 && tail % BLOCK + needs.tail_bytes > BLOCK {
        // With the attributes' part of a block before it.
        let begin = (tail.next_multiple_of(BLOCK) - INODE_BYTES - needs.xattr_bytes).next_multiple_of(INODE_BYTES);
        if (begin + INODE_BYTES + needs.xattr_bytes) % BLOCK + needs.tail_bytes <= BLOCK && begin >= at {
            return begin;
        }
        return at.next_multiple_of(BLOCK);
    }
    at
}

fn end_of(at: u64, needs: &Needs) -> u64 {
    at + INODE_BYTES + needs.xattr_bytes + needs.tail_bytes + needs.map_bytes
}

/// What the inode of a name needs, with what a layer says of it.
fn needs(tree: &Tree, node: u32, entry: Option<&Entry>) -> Result<Needs, ErofsError> {
    let mut needs = Needs { xattr_bytes: 0, tail_bytes: 0, map_bytes: 0, is_large: false };
    if let Some(entry) = entry {
        needs.xattr_bytes = xattrs::bytes(&entry.meta.xattrs).ok_or_else(|| too_many_xattrs(entry))?;
    }
    let in_block = |bytes: u64| bytes <= tail_max(needs.xattr_bytes);
    match entry.map_or(&Kind::Directory, |entry| &entry.kind) {
        Kind::Directory => match Directory::bytes_in_one_block(tree, node).filter(|bytes| in_block(*bytes)) {
            Some(bytes) => needs.tail_bytes = bytes,
            None => needs.is_large = true,
        },
        Kind::SymbolicLink(target) if in_block(target.len() as u64) => needs.tail_bytes = target.len() as u64,
        Kind::SymbolicLink(_) => needs.is_large = true,
        Kind::File { bytes, runs } => needs.map_bytes = Chunks::of(*bytes, runs).map_or(0, |chunks| chunks.map_bytes()),
        _ => {}
    }
    Ok(needs)
}

fn too_many_xattrs(entry: &Entry) -> ErofsError {
    ErofsError::Xattrs(String::from_utf8_lossy(&entry.path).into_owned())
}

struct Writer<'a> {
    inodes: BufWriter<&'a File>,
    /// Bytes written to it, from its beginning.
    at: u64,
    file: &'a File,
    /// The next block of large directories.
    large: u32,
    /// Where each blob begins.
    starts: Vec<u32>,
    ordinal: u32,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ErofsError> {
        self.at += bytes.len() as u64;
        self.inodes.write_all(bytes).map_err(ErofsError::Write)
    }

    fn fill_to(&mut self, position: u64) -> Result<(), ErofsError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        while self.at < position {
            let part = usize::try_from(position - self.at).unwrap_or(ZEROS.len()).min(ZEROS.len());
            self.put(&ZEROS[..part])?;
        }
        Ok(())
    }

    /// Every inode, in the order of the plan.
    fn all(&mut self, tree: &Tree, plan: &Plan) -> Result<(), ErofsError> {
        self.one(tree, ROOT)?;
        let mut sorted = Vec::new();
        for directory in &plan.directories {
            directory::sorted_children(tree, *directory, &mut sorted);
            for child in &sorted {
                self.one(tree, *child)?;
            }
        }
        Ok(())
    }

    fn one(&mut self, tree: &Tree, node: u32) -> Result<(), ErofsError> {
        let inode = tree.inode_of(node);
        let position = u64::from(tree.number(inode)) * SLOT_BYTES;
        if position < self.at {
            // One more name of it.
            return Ok(());
        }
        self.fill_to(position)?;
        let (entry, layer) = tree.entry(inode).map_err(ErofsError::Read)?.unzip();
        // What no layer says of a directory.
        let implicit = Meta { mode: 0o755, ..Meta::default() };
        let meta = entry.as_ref().map_or(&implicit, |entry| &entry.meta);
        let kind = entry.as_ref().map_or(&Kind::Directory, |entry| &entry.kind);
        let needs = needs(tree, node, entry.as_ref())?;
        self.ordinal += 1;
        let mut record = InodeRecord::new(meta, kind, self.ordinal, needs.xattr_bytes);
        record.links = tree.links(inode);
        let (mut tail, mut map) = (Vec::new(), Vec::new());
        match kind {
            Kind::Directory => {
                let directory = Directory::of(tree, node);
                record.links = 2 + directory.subdirectories(tree);
                record.bytes = directory.size(tree).1;
                if needs.is_large {
                    record.start = self.large;
                    directory.contents(tree, |block| self.put_large(block).map(drop))?;
                } else {
                    record.layout = DataLayout::Inline;
                    directory.contents(tree, |block| {
                        tail.extend_from_slice(block);
                        Ok::<_, ErofsError>(())
                    })?;
                }
            }
            Kind::SymbolicLink(target) => {
                record.bytes = target.len() as u64;
                if needs.is_large {
                    record.start = self.put_large(target)?;
                } else {
                    record.layout = DataLayout::Inline;
                    tail.clone_from(target);
                }
            }
            Kind::File { bytes, runs } => {
                record.bytes = *bytes;
                let start =
                    layer.and_then(|layer| self.starts.get(layer)).copied().ok_or(ErofsError::TooLarge("layers"))?;
                if let Some(chunks) = Chunks::of(*bytes, runs) {
                    record.layout = DataLayout::Chunks;
                    record.start = chunks.format();
                    map = chunks.map(start);
                } else if let Some(run) = runs.first() {
                    record.start = start.checked_add(run.block).ok_or(ErofsError::TooLarge("contents"))?;
                }
            }
            _ => {}
        }
        self.put(&record.encode())?;
        self.put(&xattrs::encode(&meta.xattrs))?;
        self.put(&tail)?;
        self.put(&map)
    }

    /// A block's contents in a block of their own; answers its number.
    fn put_large(&mut self, contents: &[u8]) -> Result<u32, ErofsError> {
        let block = self.large;
        self.file.write_all_at(contents, u64::from(block) * BLOCK).map_err(ErofsError::Write)?;
        self.large = block.checked_add(1).ok_or(ErofsError::TooLarge("metadata"))?;
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::FILE_MAX;
    use crate::layer::blob::{Run, UNIT};
    use crate::layer::entry::EntryWriter;

    /// The file system of files of the largest size, with these contents.
    fn written(files: usize, runs: &[Run]) -> Result<u64, ErofsError> {
        let mut list = EntryWriter::new(tempfile::tempfile().unwrap());
        for number in 0..files {
            let kind = Kind::File { bytes: FILE_MAX, runs: runs.to_vec() };
            list.push(&Entry { path: number.to_string().into_bytes(), kind, meta: Meta::default() }).unwrap();
        }
        let mut list = list.finish().unwrap();
        list.rewind().unwrap();
        let mut tree = Tree::new();
        tree.apply(&list).unwrap();
        write(&mut tree, &[1000], Placement::Before, &tempfile::tempfile().unwrap())
    }

    #[test]
    fn holes_take_little_room_and_never_more_than_there_is_a_bound_for() {
        assert!(written(1000, &[]).unwrap() < 1 << 20);
        let units = u32::try_from(FILE_MAX / UNIT).unwrap();
        let last = [Run { unit: units - 1, count: 1, block: 0 }];
        assert!(written(3, &last).unwrap() > 12 << 20);
        assert!(matches!(written(65, &last), Err(ErofsError::TooLarge(_))));
    }
}
