//! The files that layers make together: each layer applied over those below it, as a runtime that unpacks them one after
//! the other would have them.
//!
//! ```text
//!   for each layer, the lowest first:
//!     1. its whiteouts and opaque marks: what they hide of the layers below is gone; over a link on their way only where
//!        the layer leaves that a link
//!     2. its entries, in their order: new, or in the place of what was there; a directory over a directory keeps what
//!        is in it
//! ```
//!
//! Only names and shape are in memory, some 50 bytes an entry; attributes stay in the layers' lists. A link on the way to
//! an entry leads where it does inside of the root, never out of it.

use std::fs::File;
use std::hash::{BuildHasher as _, Hash as _, Hasher as _};
use std::io;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::layer::ENTRIES_MAX;
use crate::layer::entry::{self, Entry, EntryReader, Kind};

mod apply;
mod problem;

use apply::{Links, Stop, at};
pub use problem::{TreeError, TreeProblem};

/// Most bytes of all names together, so that what an archive takes of memory has a bound: some 140 MiB with
/// [`ENTRIES_MAX`]. Images of a million files have 20 MiB.
const NAMES_MAX: usize = 64 << 20;
/// No node, no number.
const NONE: u32 = u32::MAX;

/// A name in a directory, and what it leads to: nearly all that there is has one name. A tree of two million of them is to
/// be small, so each has 24 bytes.
#[derive(Debug, Clone, Copy)]
struct Node {
    /// [`NONE`] once the name has gone; what it led to may have others.
    parent: u32,
    /// The next one in the same directory.
    next: u32,
    name: u32,
    /// Of a directory the first one in it; else how many names lead here.
    links: u32,
    place: Place,
    /// The layer that said it last.
    layer: u8,
    name_bytes: u8,
    leads: Leads,
}

/// Where the layer's list has an entry, or the node that a hard link is to. 40 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place([u8; 5]);

/// What a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leads {
    /// What this node is.
    Here(Shape),
    /// What the node at its place is.
    There,
}

impl Place {
    /// That of a directory that no list has.
    const IMPLICIT: Self = Self([u8::MAX; 5]);

    fn new(number: u64) -> Result<Self, TreeProblem> {
        match number.to_le_bytes().split_first_chunk() {
            Some((low, [0, 0, 0])) => Ok(Self(*low)),
            // A list of more than 1 TiB.
            _ => Err(TreeProblem::Names),
        }
    }

    fn get(self) -> u64 {
        let mut bytes = [0; 8];
        bytes[..self.0.len()].copy_from_slice(&self.0);
        u64::from_le_bytes(bytes)
    }
}

/// What an inode is, as far as the shape of the tree depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Directory,
    SymbolicLink,
    File,
    CharacterDevice,
    BlockDevice,
    Fifo,
    Socket,
}

/// See the module. An inode goes by the number of the node that led to it first.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
    names: Vec<u8>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
    lists: Vec<File>,
    /// How far all ways were that were gone.
    steps: u64,
    /// Of each inode the one on disk.
    numbers: Vec<u32>,
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
            next: NONE,
            name: 0,
            links: NONE,
            place: Place::IMPLICIT,
            layer: 0,
            name_bytes: 0,
            leads: Leads::Here(Shape::Directory),
        };
        Self {
            nodes: vec![root],
            names: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            lists: Vec::new(),
            steps: 0,
            numbers: Vec::new(),
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
        let (mut count, mut name_bytes, mut links) = (0, 0, Links::default());
        while let Some((_, entry)) = marks.read()? {
            count += 1;
            name_bytes += entry.path.rsplit(|byte| *byte == b'/').next().map_or(0, <[u8]>::len);
            if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) && !alone {
                self.hide(&entry, &mut links).map_err(|error| at(&entry.path, error))?;
            }
        }
        if !links.is_empty() {
            self.hide_over_links(links, &again)?;
        }
        self.reserve(count, name_bytes);
        let mut entries = EntryReader::new(again()?);
        while let Some((position, entry)) = entries.read()? {
            self.add(layer, position, &entry, alone).map_err(|error| at(&entry.path, error))?;
        }
        Ok(())
    }

    /// Room for so many more, at once: what grows step by step is there twice for moments, or leaves holes behind.
    fn reserve(&mut self, count: usize, name_bytes: usize) {
        let most = usize::try_from(ENTRIES_MAX).unwrap_or(usize::MAX);
        self.nodes.reserve_exact(count.min(most));
        self.names.reserve_exact(name_bytes.min(NAMES_MAX - self.names.len()));
        let (hasher, nodes, names) = (&self.hasher, &self.nodes, &self.names);
        let more = most.saturating_sub(self.table.len()).min(count);
        self.table.reserve(more, |node| hash(hasher, nodes[*node as usize].parent, name(nodes, names, *node)));
    }

    fn name(&self, node: u32) -> &[u8] {
        name(&self.nodes, &self.names, node)
    }

    fn child(&self, parent: u32, name: &[u8]) -> Option<u32> {
        let is_it = |node: &u32| self.nodes[*node as usize].parent == parent && self.name(*node) == name;
        self.table.find(hash(&self.hasher, parent, name), is_it).copied()
    }

    fn first_child(&self, node: u32) -> u32 {
        match self.nodes[node as usize] {
            Node { leads: Leads::Here(Shape::Directory), links, .. } => links,
            _ => NONE,
        }
    }

    /// One more name.
    fn new_node(&mut self, parent: u32, name: &[u8], layer: u8, place: Place, leads: Leads) -> Result<u32, Stop> {
        let number = u32::try_from(self.nodes.len()).ok().filter(|number| u64::from(*number) <= ENTRIES_MAX * 2);
        let number = number.ok_or(TreeProblem::TooMany)?;
        if self.names.len() + name.len() > NAMES_MAX {
            return Err(TreeProblem::Names.into());
        }
        let node = Node {
            parent,
            next: self.nodes[parent as usize].links,
            name: u32::try_from(self.names.len()).map_err(|_| TreeProblem::Names)?,
            links: if leads == Leads::Here(Shape::Directory) { NONE } else { 1 },
            place,
            layer,
            name_bytes: u8::try_from(name.len()).map_err(|_| TreeProblem::Names)?,
            leads,
        };
        self.names.extend_from_slice(name);
        self.nodes.push(node);
        self.nodes[parent as usize].links = number;
        let (hasher, nodes, names) = (&self.hasher, &self.nodes, &self.names);
        self.table.insert_unique(hash(hasher, parent, name), number, |node| {
            hash(hasher, nodes[*node as usize].parent, self::name(nodes, names, *node))
        });
        Ok(number)
    }

    /// One more name of an inode that is no directory.
    fn new_link(&mut self, parent: u32, name: &[u8], layer: u8, inode: u32) -> Result<(), Stop> {
        let links = &mut self.nodes[inode as usize].links;
        *links = links.checked_add(1).ok_or(TreeProblem::Links)?;
        self.new_node(parent, name, layer, Place::new(u64::from(inode))?, Leads::There)?;
        Ok(())
    }

    /// Takes away a name and all below it.
    fn remove(&mut self, node: u32) {
        let mut left = vec![node];
        while let Some(node) = left.pop() {
            let parent = self.nodes[node as usize].parent;
            if parent == NONE {
                continue;
            }
            let hash = hash(&self.hasher, parent, self.name(node));
            if let Ok(found) = self.table.find_entry(hash, |there| *there == node) {
                found.remove();
            }
            self.nodes[node as usize].parent = NONE;
            let inode = self.inode_of(node);
            if self.shape(inode) != Shape::Directory {
                self.nodes[inode as usize].links -= 1;
            }
            self.push_children(self.first_child(node), &mut left);
        }
    }

    fn push_children(&self, first: u32, to: &mut Vec<u32>) {
        let mut child = first;
        while child != NONE {
            to.push(child);
            child = self.nodes[child as usize].next;
        }
    }
}

fn name<'a>(nodes: &[Node], names: &'a [u8], node: u32) -> &'a [u8] {
    let node = &nodes[node as usize];
    &names[node.name as usize..][..usize::from(node.name_bytes)]
}

fn hash(hasher: &DefaultHashBuilder, parent: u32, name: &[u8]) -> u64 {
    let mut hasher = hasher.build_hasher();
    parent.hash(&mut hasher);
    name.hash(&mut hasher);
    hasher.finish()
}

/// What the writer of a file system asks.
impl Tree {
    pub(crate) fn inode_of(&self, node: u32) -> u32 {
        match self.nodes[node as usize] {
            Node { leads: Leads::There, place, .. } => u32::try_from(place.get()).unwrap_or(NONE),
            _ => node,
        }
    }

    pub(crate) fn shape(&self, inode: u32) -> Shape {
        match self.nodes[inode as usize].leads {
            Leads::Here(shape) => shape,
            Leads::There => Shape::File,
        }
    }

    /// How many names lead to an inode that is no directory.
    pub(crate) fn links(&self, inode: u32) -> u32 {
        self.nodes[inode as usize].links
    }

    /// Begins to give numbers to inodes; no layer comes any more.
    pub(crate) fn begin_numbers(&mut self) {
        // Only layers need it.
        self.table = HashTable::new();
        self.numbers = vec![NONE; self.nodes.len()];
    }

    /// The number of an inode on disk; none is `u32::MAX`.
    pub(crate) fn number(&self, inode: u32) -> u32 {
        self.numbers[inode as usize]
    }

    pub(crate) fn set_number(&mut self, inode: u32, number: u32) {
        self.numbers[inode as usize] = number;
    }

    pub(crate) fn parent(&self, node: u32) -> u32 {
        self.nodes[node as usize].parent
    }

    pub(crate) fn name_of(&self, node: u32) -> &[u8] {
        self.name(node)
    }

    /// The names in a directory, in no order.
    pub(crate) fn children(&self, node: u32) -> impl Iterator<Item = u32> {
        let mut child = self.first_child(node);
        std::iter::from_fn(move || {
            while child != NONE {
                let this = child;
                let Node { next, parent, .. } = self.nodes[this as usize];
                child = next;
                if parent != NONE {
                    return Some(this);
                }
            }
            None
        })
    }

    /// What a layer says of an inode, and the layer's number; `None` of a directory that none has.
    pub(crate) fn entry(&self, inode: u32) -> io::Result<Option<(Entry, usize)>> {
        let Node { place, layer, .. } = self.nodes[inode as usize];
        if place == Place::IMPLICIT {
            return Ok(None);
        }
        let layer = usize::from(layer);
        entry::read_at(&self.lists[layer], place.get()).map(|entry| Some((entry, layer)))
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

    /// How many names are on the lists of directories, those that have gone included.
    pub(crate) fn linked(&self) -> usize {
        let mut linked = Vec::new();
        for node in 0..u32::try_from(self.nodes.len()).unwrap() {
            self.push_children(self.first_child(node), &mut linked);
        }
        linked.len()
    }
}
