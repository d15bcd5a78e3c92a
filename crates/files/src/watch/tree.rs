//! Which directories are watched, and what they are called.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::io::Errno;

use super::inotify::{Inotify, Place};
use super::{WATCHES_MAX, WatchError};
use crate::error::FileError;
use crate::path::join;

/// Everything that is watched.
pub(super) struct Tree {
    root: Vec<u8>,
    recursive: bool,
    root_watch: Option<i32>,
    watches: BTreeMap<i32, Vec<u8>>,
}

/// Why something is not watched.
pub(super) enum AddError {
    System(Errno),
    Telling(WatchError),
}

impl From<Errno> for AddError {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

impl AddError {
    pub(super) fn told(self, failed: &impl Fn(Errno) -> FileError) -> WatchError {
        match self {
            Self::System(errno) => failed(errno).into(),
            Self::Telling(error) => error,
        }
    }
}

impl Tree {
    pub(super) fn new(root: &[u8], recursive: bool) -> Self {
        Self { root: root.to_vec(), recursive, root_watch: None, watches: BTreeMap::new() }
    }

    /// Watches all that is there, also what is watched already, and nothing else any more.
    pub(super) fn begin(&mut self, inotify: &Inotify) -> Result<(), Errno> {
        let watch = inotify.add(&self.root, true)?;
        if self.root_watch.is_some_and(|before| before != watch) {
            // It is another one.
            return Err(Errno::NOENT);
        }
        self.root_watch = Some(watch);
        let before = std::mem::replace(&mut self.watches, BTreeMap::from([(watch, self.root.clone())]));
        let root = self.root.clone();
        match self.walk(inotify, root, true, &mut |_, _| Ok(())) {
            Err(AddError::System(errno)) => return Err(errno),
            // Nothing is told here.
            Ok(()) | Err(AddError::Telling(_)) => {}
        }
        for left in before.into_keys().filter(|left| !self.watches.contains_key(left)) {
            inotify.remove(left);
        }
        Ok(())
    }

    pub(super) fn is_root(&self, watch: i32) -> bool {
        self.root_watch == Some(watch)
    }

    pub(super) fn path_of(&self, place: &Place) -> Option<Vec<u8>> {
        let directory = self.watches.get(&place.watch)?;
        Some(place.name.as_ref().map_or_else(|| directory.clone(), |name| join(directory, name)))
    }

    /// Watches a directory that came, and tells of what is in it.
    pub(super) fn add(
        &mut self,
        inotify: &Inotify,
        path: Vec<u8>,
        tell: &mut dyn FnMut(Vec<u8>, bool) -> Result<(), WatchError>,
    ) -> Result<(), AddError> {
        if self.recursive && self.add_one(inotify, &path)?.is_some() {
            self.walk(inotify, path, true, tell)
        } else {
            Ok(())
        }
    }

    /// Whether it was not watched before; `None` where it is not there, or no directory.
    fn add_one(&mut self, inotify: &Inotify, path: &[u8]) -> Result<Option<bool>, Errno> {
        match inotify.add(path, false) {
            Ok(watch) if self.is_root(watch) => Ok(None),
            Ok(watch) if self.watches.len() >= WATCHES_MAX && !self.watches.contains_key(&watch) => {
                inotify.remove(watch);
                Err(Errno::NOSPC)
            }
            Ok(watch) => Ok(Some(self.watches.insert(watch, path.to_vec()).is_none())),
            // Gone meanwhile, or not for this user to look into.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Watches what is below a directory, and tells of what is in those that were not watched before.
    fn walk(
        &mut self,
        inotify: &Inotify,
        top: Vec<u8>,
        is_new: bool,
        tell: &mut dyn FnMut(Vec<u8>, bool) -> Result<(), WatchError>,
    ) -> Result<(), AddError> {
        if !self.recursive {
            return Ok(());
        }
        let mut open = vec![(top, is_new)];
        while let Some((directory, is_told)) = open.pop() {
            // One that is gone, or no directory, has nothing in it.
            let Ok(entries) = std::fs::read_dir(Path::new(OsStr::from_bytes(&directory))) else { continue };
            for entry in entries.flatten() {
                let path = join(&directory, entry.file_name().as_bytes());
                let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_told {
                    tell(path.clone(), is_directory).map_err(AddError::Telling)?;
                }
                if is_directory && let Some(is_new) = self.add_one(inotify, &path)? {
                    open.push((path, is_told || is_new));
                }
            }
        }
        Ok(())
    }

    /// Nothing more comes of it.
    pub(super) fn forget(&mut self, watch: i32) {
        self.watches.remove(&watch);
    }

    /// A directory went away: what is below it is not watched any more.
    pub(super) fn leave(&mut self, inotify: &Inotify, path: &[u8]) {
        let left: Vec<i32> = self.below(path).collect();
        for watch in left {
            inotify.remove(watch);
            self.watches.remove(&watch);
        }
    }

    /// A directory has another name. Directories in it that had the old one no more when they were to be watched are watched
    /// now, and so is it itself; what is in these is told.
    pub(super) fn moved(
        &mut self,
        inotify: &Inotify,
        from: &[u8],
        to: &[u8],
        tell: &mut dyn FnMut(Vec<u8>, bool) -> Result<(), WatchError>,
    ) -> Result<(), AddError> {
        let moved: Vec<i32> = self.below(from).collect();
        for watch in moved {
            if let Some(path) = self.watches.get_mut(&watch) {
                *path = [to, &path[from.len()..]].concat();
            }
        }
        match self.recursive.then(|| self.add_one(inotify, to)).transpose()?.flatten() {
            Some(is_new) => self.walk(inotify, to.to_vec(), is_new, tell),
            None => Ok(()),
        }
    }

    fn below(&self, path: &[u8]) -> impl Iterator<Item = i32> {
        let is_below =
            move |of: &[u8]| of.strip_prefix(path).is_some_and(|rest| rest.first().is_none_or(|b| *b == b'/'));
        self.watches.iter().filter(move |(_, of)| is_below(of)).map(|(watch, _)| *watch)
    }
}
