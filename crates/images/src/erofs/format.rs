//! Records of EROFS, as `fs/erofs/erofs_fs.h` of Linux 6.1 has them; all numbers are little-endian.

use crate::layer::BLOCK;
use crate::layer::entry::{Kind, Meta};
use crate::tree::Shape;

/// What inode numbers count (`EROFS_SLOTSIZE`).
pub(super) const SLOT_BYTES: u64 = 32;
/// Bytes of an extended inode.
pub(super) const INODE_BYTES: u64 = 64;
/// `EROFS_SUPER_MAGIC_V1`, and where the superblock is.
const MAGIC: u32 = 0xE0F5_E1E2;
const SUPERBLOCK_OFFSET: usize = 1024;
/// `EROFS_FEATURE_COMPAT_SB_CHKSUM`: the superblock has a checksum.
const COMPAT_CHECKSUM: u32 = 1;
/// `EROFS_FEATURE_INCOMPAT_CHUNKED_FILE`.
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// The superblock, as far as it differs.
#[derive(Debug)]
pub(super) struct Superblock {
    /// The slot of the root directory.
    pub(super) root: u16,
    pub(super) inodes: u64,
    pub(super) blocks: u32,
    /// Where slots are counted from.
    pub(super) metadata_block: u32,
}

impl Superblock {
    /// The first block.
    pub(super) fn block(&self) -> Vec<u8> {
        let mut block = vec![0; usize::try_from(BLOCK).unwrap_or(4096)];
        let mut put = |offset: usize, bytes: &[u8]| {
            let begin = SUPERBLOCK_OFFSET + offset;
            block[begin..begin + bytes.len()].copy_from_slice(bytes);
        };
        put(0, &MAGIC.to_le_bytes());
        put(8, &COMPAT_CHECKSUM.to_le_bytes());
        put(12, &[12]); // logarithm of a block's bytes
        put(14, &self.root.to_le_bytes());
        put(16, &self.inodes.to_le_bytes());
        put(36, &self.blocks.to_le_bytes());
        put(40, &self.metadata_block.to_le_bytes());
        put(80, &INCOMPAT_CHUNKED_FILE.to_le_bytes());
        // Over the rest of the block from there on, with its own place zero; the kernel does not invert at the end.
        let checksum = !crc32c::crc32c(&block[SUPERBLOCK_OFFSET..]);
        block[SUPERBLOCK_OFFSET + 4..SUPERBLOCK_OFFSET + 8].copy_from_slice(&checksum.to_le_bytes());
        block
    }
}

/// How an inode's data lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DataLayout {
    /// `EROFS_INODE_FLAT_PLAIN`: in one piece.
    Plain = 0,
    /// `EROFS_INODE_FLAT_INLINE`: behind the inode.
    Inline = 2,
    /// `EROFS_INODE_CHUNK_BASED`: by a map behind the inode.
    Chunks = 4,
}

/// `struct erofs_inode_extended`.
#[derive(Debug)]
pub(super) struct InodeRecord<'a> {
    meta: &'a Meta,
    mode: u16,
    ordinal: u32,
    xattr_count: u16,
    pub(super) layout: DataLayout,
    pub(super) bytes: u64,
    /// A block, a device, or the form of a map.
    pub(super) start: u32,
    pub(super) links: u32,
}

impl<'a> InodeRecord<'a> {
    pub(super) fn new(meta: &'a Meta, kind: &Kind, ordinal: u32, xattr_bytes: u64) -> Self {
        // A device's number, as the kernel packs it (`new_encode_dev`).
        let device = |major: u32, minor: u32| (minor & 0xFF) | (major << 8) | ((minor & !0xFF) << 12);
        let (format, start) = match kind {
            Kind::Directory => (0o040_000, 0),
            Kind::SymbolicLink(_) => (0o120_000, 0),
            Kind::CharacterDevice(major, minor) => (0o020_000, device(*major, *minor)),
            Kind::BlockDevice(major, minor) => (0o060_000, device(*major, *minor)),
            Kind::Fifo => (0o010_000, 0),
            Kind::Socket => (0o140_000, 0),
            Kind::File { .. } | Kind::HardLink(_) | Kind::Whiteout | Kind::Opaque => (0o100_000, 0),
        };
        // Linux has no others: what an archive says of them is of no meaning, and some say 0644.
        let permissions = if matches!(kind, Kind::SymbolicLink(_)) { 0o777 } else { meta.mode };
        // The header counts as one and is 12 bytes long (`erofs_xattr_ibody_size`).
        let xattr_count = if xattr_bytes == 0 { 0 } else { (xattr_bytes - 12) / 4 + 1 };
        Self {
            meta,
            mode: format | permissions,
            ordinal,
            xattr_count: u16::try_from(xattr_count).unwrap_or_default(),
            layout: DataLayout::Plain,
            bytes: 0,
            start,
            links: 1,
        }
    }

    pub(super) fn encode(&self) -> [u8; 64] {
        let mut record = [0; 64];
        let mut put = |offset: usize, bytes: &[u8]| record[offset..offset + bytes.len()].copy_from_slice(bytes);
        // Version 1 in the lowest bit, the layout in the next three.
        put(0, &(1 | ((self.layout as u16) << 1)).to_le_bytes());
        put(2, &self.xattr_count.to_le_bytes());
        put(4, &self.mode.to_le_bytes());
        put(8, &self.bytes.to_le_bytes());
        put(16, &self.start.to_le_bytes());
        put(20, &self.ordinal.to_le_bytes());
        put(24, &self.meta.uid.to_le_bytes());
        put(28, &self.meta.gid.to_le_bytes());
        put(32, &self.meta.mtime.to_le_bytes());
        put(40, &self.meta.mtime_nanos.to_le_bytes());
        put(44, &self.links.to_le_bytes());
        record
    }
}

/// `EROFS_FT_…`: what a directory says of an entry.
pub(super) fn file_type(shape: Shape) -> u8 {
    match shape {
        Shape::File => 1,
        Shape::Directory => 2,
        Shape::CharacterDevice => 3,
        Shape::BlockDevice => 4,
        Shape::Fifo => 5,
        Shape::Socket => 6,
        Shape::SymbolicLink => 7,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_symbolic_link_has_all_permissions_whatever_its_archive_says() {
        let meta = Meta { mode: 0o644, ..Meta::default() };
        let mode = |kind: Kind| InodeRecord::new(&meta, &kind, 1, 0).encode()[4..6].to_vec();
        assert_eq!(mode(Kind::SymbolicLink(b"x".to_vec())), 0o120_777_u16.to_le_bytes());
        assert_eq!(mode(Kind::Fifo), 0o010_644_u16.to_le_bytes());
    }
}
