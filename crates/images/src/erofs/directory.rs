//! The contents of a directory: in each block records of twelve bytes, then the names, all in the order of the names'
//! bytes (`struct erofs_dirent`).

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

/// A directory, with what is in it by name; itself and its parent are among them. One of a million names is never there as
/// a whole: its blocks are made one after the other.
#[derive(Debug)]
pub(super) struct Directory {
    node: u32,
    /// Sorted.
    children: Vec<u32>,
}

/// A name in a block, and the node that it leads to.
type Named<'a> = (&'a [u8], u32);

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
        Self { node, children }
    }

    /// All names, sorted. There are bytes that come before a full stop.
    fn names<'a>(&'a self, tree: &'a Tree) -> impl Iterator<Item = Named<'a>> {
        let mut own = [(&b"."[..], self.node), (b"..", tree.parent(self.node))].into_iter().peekable();
        let mut children = self.children.iter().map(|child| (tree.name_of(*child), *child)).peekable();
        std::iter::from_fn(move || match (own.peek(), children.peek()) {
            (Some((own_name, _)), Some((name, _))) if own_name > name => children.next(),
            (Some(_), _) => own.next(),
            (None, _) => children.next(),
        })
    }

    /// The names of each block, and their bytes there.
    fn each_block<E>(&self, tree: &Tree, mut block: impl FnMut(&[Named<'_>], usize) -> Result<(), E>) -> Result<(), E> {
        let (mut names, mut bytes) = (Vec::new(), 0);
        for name in self.names(tree) {
            let more = RECORD_BYTES + name.0.len();
            if bytes + more > BLOCK_LEN {
                block(&names, bytes)?;
                names.clear();
                bytes = 0;
            }
            names.push(name);
            bytes += more;
        }
        block(&names, bytes)
    }

    /// How many blocks it has, and its bytes: of the last block those that are used.
    pub(super) fn size(&self, tree: &Tree) -> (u64, u64) {
        let (mut blocks, mut last) = (0, 0);
        let counted = self.each_block(tree, |_, bytes| {
            blocks += 1;
            last = bytes as u64;
            Ok::<_, std::convert::Infallible>(())
        });
        match counted {
            Ok(()) => (blocks, (blocks - 1) * BLOCK + last),
        }
    }

    pub(super) fn subdirectories(&self, tree: &Tree) -> u32 {
        let is_directory = |node: &&u32| tree.shape(tree.inode_of(**node)) == Shape::Directory;
        u32::try_from(self.children.iter().filter(is_directory).count()).unwrap_or(u32::MAX - 2)
    }

    /// Gives the contents, a block at a time; the last one may be shorter.
    pub(super) fn contents<E>(&self, tree: &Tree, mut to: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut contents = Vec::with_capacity(BLOCK_LEN);
        self.each_block(tree, |names, _| {
            if !contents.is_empty() {
                contents.resize(BLOCK_LEN, 0);
                to(&contents)?;
            }
            contents.clear();
            let mut offset = names.len() * RECORD_BYTES;
            for (text, node) in names {
                let inode = tree.inode_of(*node);
                contents.extend(u64::from(tree.number(inode)).to_le_bytes());
                contents.extend(u16::try_from(offset).unwrap_or_default().to_le_bytes());
                contents.extend([file_type(tree.shape(inode)), 0]);
                offset += text.len();
            }
            contents.extend(names.iter().flat_map(|(text, _)| *text));
            Ok(())
        })?;
        to(&contents)
    }
}
