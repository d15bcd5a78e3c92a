//! One layer over those below it: what its entries and marks do to the tree.

use std::collections::HashSet;
use std::fs::File;
use std::io;

use super::problem::{LINKS_MAX, STEPS_MAX, STEPS_OF_LINK, TreeError, TreeProblem};
use super::{Leads, NONE, Node, Place, ROOT, Shape, Tree};
use crate::layer::entry::{Entry, EntryReader, Kind};

/// Where a path leads.
enum Way {
    /// A directory, and the name in it.
    In(u32, Vec<u8>),
    Root,
    /// A directory of the way is not there.
    Nowhere,
}

/// The symbolic links that marks of a layer lead over. The layer may have something else in their place: what lies below
/// that is not where they led.
#[derive(Default)]
pub(super) struct Links {
    met: HashSet<u32>,
    /// Of these, the ones that give way.
    replaced: HashSet<u32>,
}

impl Links {
    pub(super) fn is_empty(&self) -> bool {
        self.met.is_empty()
    }
}

impl Tree {
    /// Where a path leads, over links. With `make`, directories of the way that are not there are made.
    fn place(&mut self, path: &[u8], make: Option<u8>) -> Result<Way, Stop> {
        self.place_over(path, make, &mut |_| true)
    }

    /// The same over those links only that are to be followed; behind others is nothing.
    fn place_over(&mut self, path: &[u8], make: Option<u8>, follow: &mut dyn FnMut(u32) -> bool) -> Result<Way, Stop> {
        if path.is_empty() {
            return Ok(Way::Root);
        }
        // The parts that are left, the next one last.
        let mut left: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_owned).collect();
        self.step(left.len() as u64)?;
        let (mut at, mut links) = (ROOT, 0);
        while let Some(part) = left.pop() {
            match part.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    at = self.nodes[at as usize].parent;
                    continue;
                }
                _ => {}
            }
            if left.is_empty() {
                return Ok(Way::In(at, part));
            }
            let Some(child) = self.child(at, &part) else {
                let Some(layer) = make else { return Ok(Way::Nowhere) };
                at = self.new_node(at, &part, layer, Place::IMPLICIT, Leads::Here(Shape::Directory))?;
                continue;
            };
            let inode = self.inode_of(child);
            match self.shape(inode) {
                Shape::Directory => at = child,
                Shape::SymbolicLink if !follow(child) => return Ok(Way::Nowhere),
                Shape::SymbolicLink => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(TreeProblem::LinkLoop.into());
                    }
                    let Some((Entry { kind: Kind::SymbolicLink(target), .. }, _)) = self.entry(inode)? else {
                        return Err(Stop::Read(io::ErrorKind::InvalidData.into()));
                    };
                    if target.first() == Some(&b'/') {
                        at = ROOT;
                    }
                    let before = left.len();
                    left.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_owned));
                    self.step((left.len() - before) as u64 + STEPS_OF_LINK)?;
                }
                _ => return Err(TreeProblem::BelowFile.into()),
            }
        }
        Ok(Way::Root)
    }

    /// So many steps more: how long the ways are is what an archive says, and how many there are.
    fn step(&mut self, steps: u64) -> Result<(), Stop> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEPS_MAX { Err(TreeProblem::Steps.into()) } else { Ok(()) }
    }

    /// A whiteout or an opaque mark of a layer whose entries come later. One over links is noted, and done when it is known
    /// which of them the layer leaves ([`Tree::hide_over_links`]).
    pub(super) fn hide(&mut self, entry: &Entry, links: &mut Links) -> Result<(), Stop> {
        let mut is_direct = true;
        let way = self.place_over(&entry.path, None, &mut |link| {
            is_direct = false;
            links.met.insert(link);
            true
        });
        if is_direct { self.hide_at(entry, way) } else { Ok(()) }
    }

    /// The marks that were noted: of a layer, whose list is opened anew each time.
    pub(super) fn hide_over_links(
        &mut self,
        mut links: Links,
        list: &impl Fn() -> io::Result<File>,
    ) -> Result<(), TreeError> {
        let mut entries = EntryReader::new(list()?);
        while let Some((_, entry)) = entries.read()? {
            if !matches!(entry.kind, Kind::Whiteout | Kind::Opaque | Kind::SymbolicLink(_)) {
                let named = self.named(&entry.path).map_err(|error| at(&entry.path, error))?;
                links.replaced.extend(named.filter(|node| links.met.contains(node)));
            }
        }
        let mut marks = EntryReader::new(list()?);
        while let Some((_, entry)) = marks.read()? {
            if matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
                // One that was done already has nothing left to do.
                let way = self.place_over(&entry.path, None, &mut |link| !links.replaced.contains(&link));
                self.hide_at(&entry, way).map_err(|error| at(&entry.path, error))?;
            }
        }
        Ok(())
    }

    /// What has this path, over no links.
    fn named(&mut self, path: &[u8]) -> Result<Option<u32>, Stop> {
        let mut at = ROOT;
        for part in path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")) {
            self.step(1)?;
            let Some(child) = self.child(at, part) else { return Ok(None) };
            at = child;
        }
        Ok(Some(at))
    }

    fn hide_at(&mut self, entry: &Entry, way: Result<Way, Stop>) -> Result<(), Stop> {
        let found = match way {
            Ok(Way::Root) => Some(ROOT),
            Ok(Way::In(parent, name)) => self.child(parent, &name),
            // Nothing is hidden where nothing is.
            Ok(Way::Nowhere) | Err(Stop::Problem(TreeProblem::BelowFile)) => None,
            Err(error) => return Err(error),
        };
        match (found, &entry.kind) {
            (Some(ROOT), Kind::Whiteout) => Err(TreeProblem::Root.into()),
            (Some(node), Kind::Whiteout) => {
                self.remove(node);
                Ok(())
            }
            (Some(node), _) => {
                let mut children = Vec::new();
                self.push_children(self.first_child(node), &mut children);
                for child in children {
                    self.remove(child);
                }
                // So that one more mark does not look at them again.
                if let Node { leads: Leads::Here(Shape::Directory), links, .. } = &mut self.nodes[node as usize] {
                    *links = NONE;
                }
                Ok(())
            }
            (None, _) => Ok(()),
        }
    }

    pub(super) fn add(&mut self, layer: u8, position: u64, entry: &Entry, alone: bool) -> Result<(), Stop> {
        let shape = match &entry.kind {
            Kind::Whiteout | Kind::Opaque => return Ok(()),
            Kind::Directory => Shape::Directory,
            Kind::SymbolicLink(_) => Shape::SymbolicLink,
            Kind::File { .. } | Kind::HardLink(_) => Shape::File,
            Kind::CharacterDevice(..) => Shape::CharacterDevice,
            Kind::BlockDevice(..) => Shape::BlockDevice,
            Kind::Fifo => Shape::Fifo,
            Kind::Socket => Shape::Socket,
        };
        let place = Place::new(position)?;
        let (parent, name) = match self.place(&entry.path, Some(layer))? {
            Way::In(parent, name) => (parent, name),
            Way::Root | Way::Nowhere => {
                if shape != Shape::Directory {
                    return Err(TreeProblem::Root.into());
                }
                self.nodes[ROOT as usize] = Node { place, layer, ..self.nodes[ROOT as usize] };
                return Ok(());
            }
        };
        let there = self.child(parent, &name);
        let inode = match &entry.kind {
            Kind::HardLink(target) => match self.target(target)? {
                Some(found) if there.is_some_and(|there| self.inode_of(there) == found) => return Ok(()),
                Some(found) => Some(found),
                // It may be in a layer below.
                None if alone => None,
                None => return Err(TreeProblem::LinkToNothing.into()),
            },
            _ => None,
        };
        if let Some(node) = there {
            let Node { leads, layer: its_layer, .. } = self.nodes[node as usize];
            if leads == Leads::Here(Shape::Directory) && shape == Shape::Directory {
                self.nodes[node as usize] = Node { place, layer, ..self.nodes[node as usize] };
                return Ok(());
            }
            if its_layer == layer {
                return Err(TreeProblem::Twice.into());
            }
            self.remove(node);
        }
        match inode {
            Some(inode) => self.new_link(parent, &name, layer, inode),
            None => self.new_node(parent, &name, layer, place, Leads::Here(shape)).map(drop),
        }
    }

    /// The inode that a hard link is to; the last part of its path is not followed.
    fn target(&mut self, path: &[u8]) -> Result<Option<u32>, Stop> {
        match self.place(path, None) {
            Ok(Way::Root) => Err(TreeProblem::LinkToDirectory.into()),
            Ok(Way::Nowhere) | Err(Stop::Problem(TreeProblem::BelowFile)) => Ok(None),
            Ok(Way::In(parent, name)) => match self.child(parent, &name) {
                Some(node) if self.shape(self.inode_of(node)) == Shape::Directory => {
                    Err(TreeProblem::LinkToDirectory.into())
                }
                Some(node) => Ok(Some(self.inode_of(node))),
                None => Ok(None),
            },
            Err(error) => Err(error),
        }
    }
}

/// What stops a walk.
pub(super) enum Stop {
    Problem(TreeProblem),
    Read(io::Error),
}

impl From<TreeProblem> for Stop {
    fn from(problem: TreeProblem) -> Self {
        Self::Problem(problem)
    }
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

pub(super) fn at(path: &[u8], stop: Stop) -> TreeError {
    match stop {
        Stop::Problem(problem) => TreeError::Entry { path: path.to_owned(), problem },
        Stop::Read(error) => TreeError::Read(error),
    }
}
