//! The contents of a directory: in each block records of twelve bytes, then the names, all in the order of the names'
//! bytes (`struct erofs_dirent`).

use crate::layer::entry::Kind;
use crate::layer::{BLOCK, BLOCK_LEN};
use crate::tree::{Shape, Tree};

use super::format::file_type;

const RECORD_BYTES: usize = 12;

/// The names in a directory, sorted; `to` is filled anew.
pub(super) fn sorted_children(tree: &Tree, directory: u32, to: &mut Vec<u32>) {
    to.clear();
    to.extend(tree.children(directory));
    to.sort_unstable_by(|left, right| tree.name_of(*left).cmp(tree.name_of(*right)));
}

/// A directory, with what is in it by name; itself and its parent are among them.
#[derive(Debug)]
pub(super) struct Directory {
    /// Sorted; `None` stands for `.` (the first) and `..` (the second).
    nodes: Vec<Name>,
    /// How many lie in each block, and their bytes there.
    blocks: Vec<(usize, usize)>,
}

#[derive(Debug, Clone, Copy)]
enum Name {
    This(u32),
    Parent(u32),
    Child(u32),
}

impl Name {
    fn bytes(self, tree: &Tree) -> &[u8] {
        match self {
            Self::This(_) => b".",
            Self::Parent(_) => b"..",
            Self::Child(node) => tree.name_of(node),
        }
    }

    fn node(self) -> u32 {
        match self {
            Self::This(node) | Self::Parent(node) | Self::Child(node) => node,
        }
    }
}

impl Directory {
    /// The bytes of one that fits into a block; `None` of any other.
    pub(super) fn bytes_in_one_block(tree: &Tree, node: u32) -> Option<u64> {
        let mut bytes = 2 * RECORD_BYTES + 3;
        for child in tree.children(node) {
            bytes += RECORD_BYTES + tree.name_of(child).len();
            if bytes > BLOCK_LEN {
                return None;
            }
        }
        Some(bytes as u64)
    }

    pub(super) fn of(tree: &Tree, node: u32) -> Self {
        let mut children = Vec::new();
        sorted_children(tree, node, &mut children);
        let mut nodes = Vec::with_capacity(children.len() + 2);
        // Names that come before a full stop: there are such bytes.
        let mut own = [(&b"."[..], Name::This(node)), (b"..", Name::Parent(tree.parent(node)))].into_iter().peekable();
        for child in children {
            while let Some((_, name)) = own.next_if(|(name, _)| *name < tree.name_of(child)) {
                nodes.push(name);
            }
            nodes.push(Name::Child(child));
        }
        nodes.extend(own.map(|(_, name)| name));
        let (mut blocks, mut count, mut bytes) = (Vec::new(), 0, 0);
        for name in &nodes {
            let more = RECORD_BYTES + name.bytes(tree).len();
            if bytes + more > BLOCK_LEN {
                blocks.push((count, bytes));
                (count, bytes) = (0, 0);
            }
            count += 1;
            bytes += more;
        }
        blocks.push((count, bytes));
        Self { nodes, blocks }
    }

    pub(super) fn blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// Bytes: of the last block those that are used.
    pub(super) fn bytes(&self) -> u64 {
        let last = self.blocks.last().map_or(0, |(_, bytes)| *bytes);
        (self.blocks.len() as u64 - 1) * BLOCK + last as u64
    }

    pub(super) fn subdirectories(&self, tree: &Tree) -> u32 {
        let is_directory = |name: &&Name| match name {
            Name::Child(node) => tree.inode(tree.inode_of(*node)).shape == Shape::Directory,
            _ => false,
        };
        u32::try_from(self.nodes.iter().filter(is_directory).count()).unwrap_or(u32::MAX - 2)
    }

    pub(super) fn contents(&self, tree: &Tree) -> Vec<u8> {
        let mut contents = Vec::with_capacity(self.blocks.len() * BLOCK_LEN);
        let mut names = self.nodes.iter();
        for (count, _) in &self.blocks {
            contents.resize(contents.len().next_multiple_of(BLOCK_LEN), 0);
            let (mut offset, mut texts) = (count * RECORD_BYTES, Vec::new());
            for name in names.by_ref().take(*count) {
                let inode = tree.inode_of(name.node());
                let text = name.bytes(tree);
                contents.extend(u64::from(tree.inode(inode).number).to_le_bytes());
                contents.extend(u16::try_from(offset).unwrap_or_default().to_le_bytes());
                contents.extend([kind_of(tree, inode), 0]);
                texts.extend_from_slice(text);
                offset += text.len();
            }
            contents.extend(texts);
        }
        contents
    }
}

/// The type that readers are told without looking at the inode; zero where it is not known.
fn kind_of(tree: &Tree, inode: u32) -> u8 {
    match tree.inode(inode).shape {
        Shape::Directory => file_type(&Kind::Directory),
        Shape::SymbolicLink => file_type(&Kind::SymbolicLink(Vec::new())),
        Shape::Other => tree.entry(inode).ok().flatten().map_or(0, |(entry, _)| file_type(&entry.kind)),
    }
}
