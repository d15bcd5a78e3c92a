//! The files that layers make together: each layer applied over those below it, as a runtime that unpacks them one after
//! the other would have them.
//!
//! ```text
//!   for each layer, the lowest first:
//!     1. its whiteouts and opaque marks: what they hide of the layers below is gone
//!     2. its entries, in their order: new, or in the place of what was there; a directory over a directory keeps what
//!        is in it
//! ```
//!
//! Only names and shape are in memory, some 60 bytes an entry; attributes stay in the layers' lists. A link on the way to
//! an entry leads where it does inside of the root, never out of it.

use std::fs::File;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::io;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::layer::ENTRIES_MAX;
use crate::layer::entry::{self, Entry, EntryReader, Kind};

mod apply;
mod problem;

use apply::{Stop, at};
pub use problem::{TreeError, TreeProblem};

/// Most bytes of all names together.
const NAMES_MAX: usize = u32::MAX as usize;
/// No node, no entry.
const NONE: u32 = u32::MAX;
const IMPLICIT: u64 = u64::MAX;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
struct Node {
    parent: u32,
    first_child: u32,
    next: u32,
    name: u32,
    inode: u32,
    name_bytes: u8,
    /// The layer that said it last.
    layer: u8,
    is_there: bool,
}

/// What an inode is, as far as the shape of the tree depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Directory,
    SymbolicLink,
    Other,
}

/// What names lead to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inode {
    /// Where the layer's list has its entry; [`IMPLICIT`] for a directory that none has.
    position: u64,
    /// How many names lead to it.
    pub(crate) links: u32,
    /// Its number on disk, once it has one.
    pub(crate) number: u32,
    layer: u8,
    pub(crate) shape: Shape,
}

/// See the module.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    inodes: Vec<Inode>,
    names: Vec<u8>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    lists: Vec<File>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

pub(crate) const ROOT: u32 = 0;

impl Tree {
    /// A root directory with nothing in it.
    pub fn new() -> Self {
        let root = Node {
            parent: ROOT,
            first_child: NONE,
            next: NONE,
            name: 0,
            inode: 0,
            name_bytes: 0,
            layer: 0,
            is_there: true,
        };
        let inode = Inode { position: IMPLICIT, links: 1, number: NONE, layer: 0, shape: Shape::Directory };
        Self {
            nodes: vec![root],
            inodes: vec![inode],
            names: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            lists: Vec::new(),
        }
    }

    /// The tree of a layer alone: whether its entries are possible together. A hard link to what it has not may be one to
    /// a layer below.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn of_one_layer(list: &File) -> Result<Self, TreeError> {
        let mut tree = Self::new();
        tree.apply_list(list, true)?;
        Ok(tree)
    }

    /// Puts a layer over those that are there; its list is open at its beginning.
    ///
    /// # Errors
    /// [`TreeError`].
    pub fn apply(&mut self, list: &File) -> Result<(), TreeError> {
        self.apply_list(list, false)
    }

    fn apply_list(&mut self, list: &File, alone: bool) -> Result<(), TreeError> {
        let layer = u8::try_from(self.lists.len()).map_err(|_| io::Error::other("more than 256 layers"))?;
        let again = || -> io::Result<File> {
            let mut file = list.try_clone()?;
            io::Seek::rewind(&mut file)?;
            Ok(file)
        };
        let mut marks = EntryReader::new(again()?);
        self.lists.push(list.try_clone()?);
        while let Some((_, entry)) = marks.read()? {
            if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) && !alone {
                self.hide(&entry).map_err(|error| at(&entry.path, error))?;
            }
        }
        let mut entries = EntryReader::new(again()?);
        while let Some((position, entry)) = entries.read()? {
            self.add(layer, position, &entry, alone).map_err(|error| at(&entry.path, error))?;
        }
        Ok(())
    }

    fn name(&self, node: u32) -> &[u8] {
        let node = &self.nodes[node as usize];
        &self.names[node.name as usize..][..usize::from(node.name_bytes)]
    }

    fn hash(&self, parent: u32, name: &[u8]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        parent.hash(&mut hasher);
        name.hash(&mut hasher);
        hasher.finish()
    }

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let is_it = |node: &u32| self.nodes[*node as usize].parent == parent && self.name(*node) == name;
        self.table.find(self.hash(parent, name), is_it).copied()
    }

    fn shape(&self, node: u32) -> Shape {
        self.inodes[self.nodes[node as usize].inode as usize].shape
    }

    fn new_inode(&mut self, layer: u8, position: u64, shape: Shape) -> Result<u32, Stop> {
        let number = u32::try_from(self.inodes.len()).ok().filter(|number| u64::from(*number) <= ENTRIES_MAX * 2);
        let number = number.ok_or(TreeProblem::TooMany)?;
        self.inodes.push(Inode { position, links: 0, number: NONE, layer, shape });
        Ok(number)
    }

    /// One more name.
    fn new_node(&mut self, parent: u32, name: &[u8], layer: u8, inode: u32) -> Result<u32, Stop> {
        let number = u32::try_from(self.nodes.len()).ok().filter(|number| u64::from(*number) <= ENTRIES_MAX * 2);
        let number = number.ok_or(TreeProblem::TooMany)?;
        if self.names.len() + name.len() > NAMES_MAX {
            return Err(TreeProblem::Names.into());
        }
        let node = Node {
            parent,
            first_child: NONE,
            next: self.nodes[parent as usize].first_child,
            name: u32::try_from(self.names.len()).map_err(|_| TreeProblem::Names)?,
            inode,
            name_bytes: u8::try_from(name.len()).map_err(|_| TreeProblem::Names)?,
            layer,
            is_there: true,
        };
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        self.nodes[parent as usize].first_child = number;
        self.link(inode)?;
        let (hash, hasher, nodes, names) = (self.hash(parent, name), &self.hasher, &self.nodes, &self.names);
        self.table.insert_unique(hash, number, |node| {
            let node = &nodes[*node as usize];
            let mut hasher = hasher.build_hasher();
            node.parent.hash(&mut hasher);
            names[node.name as usize..][..usize::from(node.name_bytes)].hash(&mut hasher);
            hasher.finish()
        });
        Ok(number)
    }

    fn link(&mut self, inode: u32) -> Result<(), Stop> {
        let links = &mut self.inodes[inode as usize].links;
        *links = links.checked_add(1).ok_or(TreeProblem::Links)?;
        Ok(())
    }

    /// Takes away a name and all below it.
    fn remove(&mut self, node: u32) {
        let mut left = vec![node];
        while let Some(node) = left.pop() {
            let Node { parent, first_child, inode, is_there, .. } = self.nodes[node as usize];
            if !is_there {
                continue;
            }
            let hash = self.hash(parent, self.name(node));
            if let Ok(found) = self.table.find_entry(hash, |there| *there == node) {
                found.remove();
            }
            self.nodes[node as usize].is_there = false;
            self.inodes[inode as usize].links -= 1;
            self.push_children(first_child, &mut left);
        }
    }

    fn push_children(&self, first: u32, to: &mut Vec<u32>) {
        let mut child = first;
        while child != NONE {
            to.push(child);
            child = self.nodes[child as usize].next;
        }
    }

    fn entry_of(&self, node: u32) -> io::Result<Option<Entry>> {
        self.entry(self.nodes[node as usize].inode).map(|found| found.map(|(entry, _)| entry))
    }
}

/// What the writer of a file system asks.
impl Tree {
    pub(crate) fn inode_of(&self, node: u32) -> u32 {
        self.nodes[node as usize].inode
    }

    pub(crate) fn inode(&self, inode: u32) -> &Inode {
        &self.inodes[inode as usize]
    }

    pub(crate) fn inode_mut(&mut self, inode: u32) -> &mut Inode {
        &mut self.inodes[inode as usize]
    }

    pub(crate) fn parent(&self, node: u32) -> u32 {
        self.nodes[node as usize].parent
    }

    pub(crate) fn name_of(&self, node: u32) -> &[u8] {
        self.name(node)
    }

    /// The names in a directory, in no order.
    pub(crate) fn children(&self, node: u32) -> impl Iterator<Item = u32> {
        let mut child = self.nodes[node as usize].first_child;
        std::iter::from_fn(move || {
            while child != NONE {
                let this = child;
                child = self.nodes[this as usize].next;
                if self.nodes[this as usize].is_there {
                    return Some(this);
                }
            }
            None
        })
    }

    /// What a layer says of an inode, and the layer's number; `None` of a directory that none has.
    pub(crate) fn entry(&self, inode: u32) -> io::Result<Option<(Entry, usize)>> {
        let Inode { position, layer, .. } = self.inodes[inode as usize];
        if position == IMPLICIT {
            return Ok(None);
        }
        let layer = usize::from(layer);
        entry::read_at(&self.lists[layer], position).map(|entry| Some((entry, layer)))
    }
}

#[cfg(test)]
impl Tree {
    /// Every path, links not followed.
    pub(crate) fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        let mut left = vec![(ROOT, String::new())];
        while let Some((node, path)) = left.pop() {
            for child in self.children(node) {
                let name = String::from_utf8_lossy(self.name(child));
                let path = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
                paths.push(path.clone());
                left.push((child, path));
            }
        }
        paths
    }
}
