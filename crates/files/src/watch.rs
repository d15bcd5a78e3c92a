//! The guest's side of watching: what the system tells of a directory or a file, as events on a stream.
//!
//! ```text
//!   watched: Watching ──▶ events … ─┬─ the system dropped some: Overflow, and what is there is watched anew
//!                                   └─ what was asked for is gone: Failed, the end
//! ```
//!
//! Whoever does not read the events has the system drop some: nothing is kept here.

mod inotify;
#[cfg(test)]
mod tests;
mod tree;

use std::io::{self, Write};

use rustix::io::Errno;

use crate::error::{FileError, FileErrorKind};
use crate::event::WatchEvent;
use crate::frame::{self, FrameError};
use crate::path::checked;
use inotify::{Happening, Inotify};
use tree::Tree;

/// Most directories that are watched at once.
pub const WATCHES_MAX: usize = 64 << 10;

/// Why nothing is told any more.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// It was told as the last event.
    #[error("what is watched")]
    Failed(#[from] FileError),
    /// Whoever reads the events is gone.
    #[error("the stream of events")]
    Stream(#[from] io::Error),
    /// An event that is too long.
    #[error("an event")]
    Frame(#[from] FrameError),
}

/// Tells what happens to what is at `path`, and with `recursive` below it, until it is gone or nobody reads any more.
///
/// # Errors
/// [`WatchError`]: there is no other end.
pub fn watch(path: &[u8], recursive: bool, output: impl Write) -> Result<(), WatchError> {
    let mut teller = Teller { output, number: 0, batch: Vec::new() };
    let result = tell_all(path, recursive, &mut teller);
    if let Err(WatchError::Failed(error)) = &result {
        teller.tell(&WatchEvent::Failed(error.clone()))?;
        teller.flush()?;
    }
    result
}

fn tell_all(path: &[u8], recursive: bool, teller: &mut Teller<impl Write>) -> Result<(), WatchError> {
    let path = checked(path)?;
    let failed = |errno| FileError { kind: kind(errno), path: path.to_vec() };
    let mut inotify = Inotify::new().map_err(failed)?;
    let mut tree = Tree::new(path, recursive);
    tree.begin(&inotify).map_err(failed)?;
    teller.tell(&WatchEvent::Watching)?;
    loop {
        teller.flush()?;
        for happening in inotify.next_batch().map_err(failed)? {
            apply(happening, &mut tree, &inotify, teller, &failed)?;
        }
    }
}

fn apply(
    happening: Happening,
    tree: &mut Tree,
    inotify: &Inotify,
    teller: &mut Teller<impl Write>,
    failed: &impl Fn(Errno) -> FileError,
) -> Result<(), WatchError> {
    let is_root = |watch| tree.is_root(watch);
    match happening {
        Happening::Overflow => {
            teller.tell(&WatchEvent::Overflow)?;
            tree.begin(inotify).map_err(failed)?;
        }
        // The last that comes of a watch: it is gone, or its file system is.
        Happening::Gone(watch) | Happening::MovedItself(watch) if is_root(watch) => {
            return Err(failed(Errno::NOENT).into());
        }
        Happening::Gone(watch) => tree.forget(watch),
        // Directories below are told of by the one that they are in.
        Happening::Modified(at) if at.is_told(is_root(at.watch)) => {
            tell_at(tree, &at, teller, |path| WatchEvent::Modified { path })?;
        }
        Happening::Closed(at) if at.is_told(is_root(at.watch)) => {
            tell_at(tree, &at, teller, |path| WatchEvent::Closed { path })?;
        }
        Happening::Attributes(at) if at.is_told(is_root(at.watch)) => {
            let is_directory = at.is_directory;
            tell_at(tree, &at, teller, |path| WatchEvent::Attributes { path, is_directory })?;
        }
        Happening::MovedItself(_) | Happening::Modified(_) | Happening::Closed(_) | Happening::Attributes(_) => {}
        Happening::Created(at) => {
            let is_directory = at.is_directory;
            let Some(path) = tell_at(tree, &at, teller, |path| WatchEvent::Created { path, is_directory })? else {
                return Ok(());
            };
            if is_directory {
                // What came into it before it was watched is told now.
                let told = &mut |path: Vec<u8>, is_directory| teller.tell(&WatchEvent::Created { path, is_directory });
                tree.add(inotify, path, told).map_err(|error| error.told(failed))?;
            }
        }
        Happening::Removed(at) => {
            let is_directory = at.is_directory;
            let path = tell_at(tree, &at, teller, |path| WatchEvent::Removed { path, is_directory })?;
            if let (Some(path), true) = (path, is_directory) {
                tree.leave(inotify, &path);
            }
        }
        Happening::Renamed(from, to) => {
            let is_directory = to.is_directory;
            let (from, to) = match (tree.path_of(&from), tree.path_of(&to)) {
                (Some(from_path), Some(to_path)) => (from_path, to_path),
                // One of the directories is not watched any more.
                (Some(_), None) => return apply(Happening::Removed(from), tree, inotify, teller, failed),
                (None, Some(_)) => return apply(Happening::Created(to), tree, inotify, teller, failed),
                (None, None) => return Ok(()),
            };
            teller.tell(&WatchEvent::Renamed { from: from.clone(), to: to.clone(), is_directory })?;
            if is_directory {
                let told = &mut |path: Vec<u8>, is_directory| teller.tell(&WatchEvent::Created { path, is_directory });
                tree.moved(inotify, &from, &to, told).map_err(|error| error.told(failed))?;
            }
        }
    }
    Ok(())
}

/// Tells it, unless it is of a directory that is not watched any more.
fn tell_at(
    tree: &Tree,
    at: &inotify::Place,
    teller: &mut Teller<impl Write>,
    event: impl FnOnce(Vec<u8>) -> WatchEvent,
) -> Result<Option<Vec<u8>>, WatchError> {
    let Some(path) = tree.path_of(at) else { return Ok(None) };
    teller.tell(&event(path.clone()))?;
    Ok(Some(path))
}

/// The system has no room for more watches, which is no lack of room on a disk.
fn kind(errno: Errno) -> FileErrorKind {
    if errno == Errno::NOSPC { FileErrorKind::TooManyOpen } else { FileErrorKind::of(errno) }
}

/// Encodes events, and writes many at once.
struct Teller<W> {
    output: W,
    number: u32,
    batch: Vec<u8>,
}

/// More than that is written before there is still more.
const BATCH_MAX: usize = 64 << 10;

impl<W: Write> Teller<W> {
    fn tell(&mut self, event: &WatchEvent) -> Result<(), WatchError> {
        self.batch.extend(frame::encode(self.number, event)?);
        self.number = self.number.wrapping_add(1);
        if self.batch.len() > BATCH_MAX { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), WatchError> {
        self.output.write_all(&self.batch)?;
        self.batch.clear();
        Ok(self.output.flush()?)
    }
}
