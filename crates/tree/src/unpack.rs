//! Reads a tar, decides what its destination means, and makes what it tells of.
//!
//! ```text
//!   first entry ──▶ place ──▶ entries ─┬─ directory: made, its attributes when all below it is there ─┐
//!                    │                 ├─ file: written beside its place, by another name ────────────┤
//!                    │                 └─ links and the like: likewise ───────────────────────────────┤
//!                    └ cannot be: nothing is made                             queue: names, in order ◀┘
//! ```
//!
//! The stream may be hostile, and so may whoever changes the destination meanwhile: everything is made in directories that
//! were opened below the destination without following anything. What is there already is replaced as a whole, a directory
//! only by a directory, which then has what both have.

mod attributes;
mod contents;
mod made;
mod make;
mod place;
mod problem;
mod queue;

use std::io::Read;
use std::path::Path;
use std::rc::Rc;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, mkdirat};
use rustix::io::Errno;

use crate::beneath;
use crate::entry::{Entry, Kind, Meta};
use crate::name::{below, join, split};
use crate::reader::Reader;
use crate::report::{Report, as_path};
use crate::xattrs::Attributes;
use made::{Made, TemporaryNames};
use place::Place;
pub use problem::UnpackError;
use problem::{Problem, Trouble, trouble};
pub use queue::Wait;
use queue::{Queue, Step};

/// Most bytes of attributes of directories that are not complete yet.
const OPEN_ATTRIBUTES_MAX: usize = 4 << 20;
/// Of a directory that the stream does not tell of.
const UNTOLD: Mode = Mode::from_raw_mode(0o755);

/// Where a stream goes.
#[derive(Debug, Clone, Copy)]
pub enum Destination<'a> {
    /// A path, by the rules of `docker cp`: a file's or a directory's new place, or a directory to put it in.
    Path {
        /// Which.
        path: &'a Path,
        /// What the stream has to begin with, where that is known (see [`Top::name`](crate::Top::name)): nothing else is made.
        name: Option<&'a [u8]>,
    },
    /// A directory that is there, and gets all that the stream has.
    Directory(&'a Path),
}

/// Whom what is made belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owners {
    /// Whom the stream says, as far as this process may.
    Keep,
    /// Root.
    Root,
    /// Who runs this process. Set-user-ID and set-group-ID are left out.
    Caller,
}

/// What becomes of devices and FIFOs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// They are made. Their permissions are subject to the mask of the process (umask(2)).
    Make,
    /// They are problems of the report.
    Refuse,
}

/// How a stream is unpacked.
#[derive(Debug, Clone, Copy)]
pub struct UnpackOptions {
    /// Owners.
    pub owners: Owners,
    /// Devices and FIFOs.
    pub special: Special,
    /// Which extended attributes are kept.
    pub attributes: Attributes,
    /// How long is waited for the disk before a file gets its name.
    pub wait: Wait,
}

/// Unpacks a stream. What is wrong with an entry is in the report.
///
/// # Errors
/// [`UnpackError`]. Files that have got their names stay; nothing else does.
pub fn unpack(input: impl Read, destination: Destination<'_>, options: UnpackOptions) -> Result<Report, UnpackError> {
    let mut reader = Reader::new(input);
    let Some(first) = reader.read()? else {
        return match destination {
            Destination::Directory(path) => place::directory(path).map(|_| Report::default()),
            Destination::Path { .. } => Err(UnpackError::NoEntries),
        };
    };
    let mut unpacker = Unpacker {
        place: Place::of(&destination, &first)?,
        options,
        parent: None,
        open: Vec::new(),
        open_attributes: 0,
        queue: Queue::new(options.wait),
        device: None,
        made: Made::new(),
        names: TemporaryNames::new(),
        report: Report::default(),
    };
    let mut next = Some(first);
    while let Some(entry) = next {
        let done = unpacker.entry(entry, &mut reader).and_then(|()| reader.read().map_err(UnpackError::from));
        match done {
            Ok(entry) => next = entry,
            Err(error) => {
                unpacker.give_up();
                return Err(error);
            }
        }
    }
    let finished = unpacker.finish();
    finished.inspect_err(|_| unpacker.give_up())?;
    Ok(unpacker.report)
}

/// A directory that may still get entries.
struct OpenDirectory {
    path: Vec<u8>,
    meta: Meta,
}

struct Unpacker {
    place: Place,
    options: UnpackOptions,
    /// The directory that was used last, with its path below the root.
    parent: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Those above the last entry, the outermost first.
    open: Vec<OpenDirectory>,
    /// Bytes of their attributes.
    open_attributes: usize,
    queue: Queue,
    /// Of what is queued.
    device: Option<u64>,
    made: Made,
    names: TemporaryNames,
    report: Report,
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: Entry, reader: &mut Reader<R>) -> Result<(), UnpackError> {
        let path = self.placed(&entry.path).ok_or_else(|| UnpackError::Outside { name: entry.path.clone() })?;
        self.leave_all_but(&path);
        self.report.entries += 1;
        let done = match entry.kind {
            // The destination is as whoever has it made it.
            Kind::Directory if path.is_empty() => Ok(()),
            _ if path.is_empty() => Err(Problem::DirectoryThere.into()),
            Kind::Directory => self.directory(&path, entry.meta),
            Kind::File { bytes, segments } => self.file(&path, bytes, &segments, &entry.meta, reader),
            Kind::SymbolicLink(target) => self.symbolic_link(&path, &target, &entry.meta),
            Kind::HardLink(target) => match self.placed(&target) {
                Some(placed) => self.hard_link(&path, placed),
                None => Err(Problem::NotCopied(target).into()),
            },
            Kind::CharacterDevice(..) | Kind::BlockDevice(..) | Kind::Fifo => {
                self.special(&path, &entry.kind, &entry.meta)
            }
        };
        self.settle(&path, done)?;
        if self.queue.is_full() { self.flush() } else { Ok(()) }
    }

    /// Notes what is wrong with an entry.
    fn settle(&mut self, path: &[u8], done: Result<(), Trouble>) -> Result<(), UnpackError> {
        match done {
            Ok(()) => {}
            Err(Trouble::Entry(problem)) => self.report.problems.add(&self.place.show(path), &problem),
            Err(Trouble::Disk(source)) => {
                return Err(UnpackError::Write { path: as_path(&self.place.show(path)).to_owned(), source });
            }
            Err(Trouble::All(error)) => return Err(error),
        }
        Ok(())
    }

    /// A path of the stream, below the root.
    fn placed(&self, path: &[u8]) -> Option<Vec<u8>> {
        below(path, &self.place.from).map(|rest| join(&self.place.to, rest))
    }

    /// The directory of a path, which is made where the stream has not told of it.
    fn parent_of(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Trouble> {
        self.opened(split(path).0)
    }

    fn opened(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Trouble> {
        if let Some((_, parent)) = self.parent.as_ref().filter(|(known, _)| known == path) {
            return Ok(parent.clone());
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let opened = match beneath::open(&self.place.root, path, flags) {
            // It may be going to be something else.
            Err(Errno::NOENT) if self.queue.has(path) => {
                self.flush().map_err(Trouble::All)?;
                return self.opened(path);
            }
            Err(Errno::NOENT) if !path.is_empty() => {
                let (above, name) = split(path);
                let above = self.opened(above)?;
                match mkdirat(&*above, name, UNTOLD) {
                    // Somebody was faster.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(trouble(errno, Problem::Make)),
                }
                beneath::open(&*above, name, flags)
            }
            opened => opened,
        };
        let opened = Rc::new(opened.map_err(|errno| trouble(errno, Problem::Way))?);
        self.parent = Some((path.to_owned(), opened.clone()));
        Ok(opened)
    }

    fn directory(&mut self, path: &[u8], mut meta: Meta) -> Result<(), Trouble> {
        if self.queue.has(path) {
            self.flush().map_err(Trouble::All)?;
        }
        let parent = self.parent_of(path)?;
        let name = split(path).1;
        let opened = match mkdirat(&*parent, name, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => beneath::open(&*parent, name, OFlags::PATH | OFlags::DIRECTORY),
            Err(errno) => return Err(trouble(errno, Problem::Make)),
        };
        let opened = match opened {
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Problem::NoDirectoryThere.into()),
            opened => opened.map_err(|errno| trouble(errno, Problem::Make))?,
        };
        self.parent = Some((path.to_owned(), Rc::new(opened)));
        let bytes = attribute_bytes(&meta);
        let has_room = self.open_attributes + bytes <= OPEN_ATTRIBUTES_MAX;
        if !has_room {
            meta.xattrs.clear();
        }
        self.open_attributes += attribute_bytes(&meta);
        self.open.push(OpenDirectory { path: path.to_owned(), meta });
        if has_room { Ok(()) } else { Err(Problem::TooManyAttributes.into()) }
    }

    /// Those directories have all that they shall have which the next entry does not lie in.
    fn leave_all_but(&mut self, path: &[u8]) {
        while let Some(last) = self.open.pop_if(|last| below(path, &last.path).is_none_or(<[u8]>::is_empty)) {
            let OpenDirectory { path, meta } = last;
            self.open_attributes -= attribute_bytes(&meta);
            self.queue.push(Step::Directory { path, meta });
        }
    }

    /// Gives what is queued its names.
    fn flush(&mut self) -> Result<(), UnpackError> {
        let steps = self.queue.take().map_err(|source| self.disk(source))?;
        let mut steps = steps.into_iter();
        while let Some(step) = steps.next() {
            if let Err(error) = self.step(step) {
                steps.for_each(|step| self.queue.push(step));
                return Err(error);
            }
        }
        Ok(())
    }

    fn disk(&self, source: std::io::Error) -> UnpackError {
        UnpackError::Write { path: as_path(&self.place.show(&self.place.to)).to_owned(), source }
    }

    fn finish(&mut self) -> Result<(), UnpackError> {
        while let Some(OpenDirectory { path, meta }) = self.open.pop() {
            self.queue.push(Step::Directory { path, meta });
        }
        self.flush()?;
        self.settle_names().map_err(|source| self.disk(source))
    }

    /// Removes what has no name of its own yet.
    fn give_up(&mut self) {
        for step in self.queue.give_up() {
            if let Step::Rename { path, temporary } = step
                && let Ok(parent) = self.parent_of(&path)
            {
                make::remove(&*parent, &temporary);
            }
        }
    }
}

fn attribute_bytes(meta: &Meta) -> usize {
    meta.xattrs.iter().map(|(name, value)| name.len() + value.len()).sum()
}
