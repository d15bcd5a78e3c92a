//! Makes entries beside their places, and puts them there.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt as _;

use rustix::fd::{AsFd, BorrowedFd};
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, StatxFlags, fstat, fsync, linkat, makedev, mknodat, renameat, statat, statx,
    symlinkat, syncfs, unlinkat,
};
use rustix::io::Errno;

use super::made::Identity;
use super::problem::{Note, Problem, Trouble, trouble};
use super::queue::Step;
use super::{Special, UnpackError, Unpacker, Wait, attributes, contents};
use crate::beneath;
use crate::entry::{Kind, Meta};
use crate::name::split;
use crate::reader::Reader;
use crate::sparse::Segment;

/// How many names are tried that nobody else has.
const TRIES: u32 = 16;

/// Removes what has no name of its own.
pub(super) fn remove(parent: impl AsFd, temporary: &[u8]) {
    // What cannot be removed has a name that says what it is.
    let _ = unlinkat(parent, temporary, AtFlags::empty());
}

/// Refuses what is to take a directory's place.
fn refuse_directory(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Trouble> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
            Err(Problem::DirectoryThere.into())
        }
        Ok(_) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(trouble(errno, Problem::Make)),
    }
}

impl Unpacker {
    /// Makes something by a name that nobody else has.
    fn beside<T>(&mut self, mut make: impl FnMut(&[u8]) -> rustix::io::Result<T>) -> Result<(Vec<u8>, T), Trouble> {
        for _ in 0..TRIES {
            let name = self.names.next();
            match make(&name) {
                Err(Errno::EXIST) => {}
                made => return made.map(|made| (name, made)).map_err(|errno| trouble(errno, Problem::Make)),
            }
        }
        Err(trouble(Errno::EXIST, Problem::Make))
    }

    pub(super) fn file<R: Read>(
        &mut self,
        path: &[u8],
        bytes: u64,
        segments: &[Segment],
        meta: &Meta,
        reader: &mut Reader<R>,
    ) -> Result<(), Trouble> {
        let parent = self.parent_of(path)?;
        refuse_directory(parent.as_fd(), split(path).1)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOCTTY;
        let mode = Mode::RUSR | Mode::WUSR;
        let (temporary, opened) = self.beside(|name| beneath::create(&*parent, name, flags, mode))?;
        let file = File::from(opened);
        let done = contents::fill(&file, bytes, segments, reader).and_then(|()| self.complete(path, &file, meta));
        let identity = done.inspect_err(|_| remove(&*parent, &temporary))?;
        // One wait is for the files of one file system.
        if self.device.replace(identity.0) != Some(identity.0)
            && let Err(error) = self.flush()
        {
            remove(&*parent, &temporary);
            return Err(Trouble::All(error));
        }
        let data = segments.iter().map(|segment| segment.bytes).sum();
        self.queue.file(file, data).map_err(|source| {
            remove(&*parent, &temporary);
            trouble(source, Problem::Make)
        })?;
        self.made.add(path, identity);
        self.queue.push(Step::Rename { path: path.to_owned(), temporary });
        Ok(())
    }

    /// Gives a file its attributes.
    fn complete(&mut self, path: &[u8], file: &File, meta: &Meta) -> Result<Identity, Trouble> {
        let note = attributes::give(file, meta, self.options)?;
        self.note(path, note);
        let there = file.metadata().map_err(|source| trouble(source, Problem::Make))?;
        Ok((there.dev(), there.ino()))
    }

    fn note(&mut self, path: &[u8], note: Option<Note>) {
        if let Some(note) = note {
            self.report.notes.add(&self.place.show(path), &note);
        }
    }

    pub(super) fn symbolic_link(&mut self, path: &[u8], target: &[u8], meta: &Meta) -> Result<(), Trouble> {
        self.by_name(path, FileType::Symlink, meta, |parent, name| symlinkat(target, parent, name))
    }

    pub(super) fn special(&mut self, path: &[u8], kind: &Kind, meta: &Meta) -> Result<(), Trouble> {
        if self.options.special == Special::Refuse {
            return Err(Problem::Special.into());
        }
        let (kind, device) = match kind {
            Kind::CharacterDevice(major, minor) => (FileType::CharacterDevice, makedev(*major, *minor)),
            Kind::BlockDevice(major, minor) => (FileType::BlockDevice, makedev(*major, *minor)),
            _ => (FileType::Fifo, 0),
        };
        let mode = Mode::from_raw_mode(meta.mode);
        self.by_name(path, kind, meta, |parent, name| mknodat(parent, name, kind, mode, device))
    }

    /// Makes what cannot be opened.
    fn by_name(
        &mut self,
        path: &[u8],
        kind: FileType,
        meta: &Meta,
        make: impl Fn(BorrowedFd<'_>, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), Trouble> {
        let parent = self.parent_of(path)?;
        refuse_directory(parent.as_fd(), split(path).1)?;
        let (temporary, ()) = self.beside(|name| make(parent.as_fd(), name))?;
        let given = self.complete_place(path, &parent, &temporary, kind, meta);
        let identity = given.inspect_err(|_| remove(&*parent, &temporary))?;
        self.made.add(path, identity);
        self.queue.push(Step::Rename { path: path.to_owned(), temporary });
        Ok(())
    }

    /// Gives what was made just now its attributes. Who has put something else in its place since gets nothing for that.
    fn complete_place(
        &mut self,
        path: &[u8],
        parent: impl AsFd,
        temporary: &[u8],
        kind: FileType,
        meta: &Meta,
    ) -> Result<Identity, Trouble> {
        let place =
            beneath::open_last(parent, temporary, OFlags::PATH).map_err(|errno| trouble(errno, Problem::Make))?;
        let there = fstat(&place).map_err(|errno| trouble(errno, Problem::Make))?;
        if FileType::from_raw_mode(there.st_mode) != kind || there.st_nlink != 1 {
            return Err(Problem::Make(io::ErrorKind::AlreadyExists.into()).into());
        }
        let note = attributes::give_to_place(&place, meta, self.options);
        let note = note.map_err(|source| trouble(source, Problem::Attributes))?;
        self.note(path, note);
        Ok((there.st_dev, there.st_ino))
    }

    pub(super) fn hard_link(&mut self, path: &[u8], target: Vec<u8>) -> Result<(), Trouble> {
        let identity = match self.made.find(&target) {
            Some(identity) => identity,
            None if self.made.is_full() => self.young(&target)?,
            None => return Err(Problem::NotCopied(self.place.show(&target)).into()),
        };
        self.made.add(path, identity);
        self.queue.push(Step::Link { target, identity, path: path.to_owned() });
        Ok(())
    }

    /// A file of which there were too many to keep them all: it has to have its name, and to be as young as this copy.
    fn young(&mut self, target: &[u8]) -> Result<Identity, Trouble> {
        self.flush().map_err(Trouble::All)?;
        let parent = self.parent_of(target)?;
        let flags = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let looked = statx(&*parent, split(target).1, AtFlags::SYMLINK_NOFOLLOW, flags);
        match looked {
            Ok(looked) if self.made.is_as_young(&looked) => {
                Ok((makedev(looked.stx_dev_major, looked.stx_dev_minor), looked.stx_ino))
            }
            _ => Err(Problem::NotCopied(self.place.show(target)).into()),
        }
    }

    pub(super) fn step(&mut self, step: Step) -> Result<(), UnpackError> {
        let (done, path) = match step {
            Step::Rename { path, temporary } => (self.rename(&path, &temporary), path),
            Step::Link { target, identity, path } => (self.link(&path, &target, identity), path),
            Step::Directory { path, meta } => (self.complete_directory(&path, &meta), path),
        };
        self.settle(&path, done)
    }

    fn rename(&mut self, path: &[u8], temporary: &[u8]) -> Result<(), Trouble> {
        let parent = self.parent_of(path)?;
        renameat(&*parent, temporary, &*parent, split(path).1).map_err(|errno| {
            remove(&*parent, temporary);
            match errno {
                Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST => Problem::DirectoryThere.into(),
                Errno::BUSY => Problem::Mounted(errno.into()).into(),
                errno => trouble(errno, Problem::Make),
            }
        })
    }

    fn link(&mut self, path: &[u8], target: &[u8], identity: Identity) -> Result<(), Trouble> {
        let parent = self.parent_of(path)?;
        refuse_directory(parent.as_fd(), split(path).1)?;
        let from = self.parent_of(target)?;
        let flags = AtFlags::empty();
        let (temporary, ()) = self.beside(|name| linkat(&*from, split(target).1, &*parent, name, flags)).map_err(
            |trouble| match trouble {
                Trouble::Entry(_) => Problem::Replaced(self.place.show(target)).into(),
                other => other,
            },
        )?;
        let there = statat(&*parent, temporary.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
        if !there.is_ok_and(|there| (there.st_dev, there.st_ino) == identity) {
            remove(&*parent, &temporary);
            return Err(Problem::Replaced(self.place.show(target)).into());
        }
        self.rename(path, &temporary)?;
        // Where the place had this file already, it keeps both names.
        remove(&*parent, &temporary);
        Ok(())
    }

    fn complete_directory(&mut self, path: &[u8], meta: &Meta) -> Result<(), Trouble> {
        let parent = self.parent_of(path)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let opened = beneath::open(&*parent, split(path).1, flags);
        let opened = opened.map_err(|errno| trouble(errno, Problem::Attributes))?;
        let note = attributes::give(&opened, meta, self.options)?;
        self.note(path, note);
        Ok(())
    }

    /// Waits until the names are on the disk, too.
    pub(super) fn settle_names(&mut self) -> io::Result<()> {
        let is_alone = self.report.entries <= 1;
        if !is_alone && self.options.wait == Wait::ForFew {
            return Ok(());
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        // Who may not read it has no way to wait for it.
        let Ok(root) = beneath::open(&self.place.root, b"", flags) else { return Ok(()) };
        match if is_alone { fsync(&root) } else { syncfs(&root) } {
            // Of a file system that keeps nothing.
            Err(Errno::INVAL) => Ok(()),
            done => Ok(done?),
        }
    }
}
