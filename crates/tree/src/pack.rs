//! Walks a path and writes a tar.
//!
//! ```text
//!   the path ──▶ its entry ──▶ a directory? ──▶ level: each name ──▶ entry ─┐
//!                                  ▲                                       │ a directory, of the same kind of file system
//!                                  └───────────────────────────────────────┘
//! ```
//!
//! Each entry is looked at, opened from its directory's descriptor, and what was opened is compared with what was looked at:
//! who changes the tree meanwhile can make an entry fail, and never have another place read.

mod contents;
mod links;

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Statx, StatxFlags, openat, readlinkat, statx};

use crate::beneath;
use crate::entry::{Kind, Meta};
use crate::name::PATH_MAX;
use crate::report::Report;
use crate::top::{Top, top};
use crate::writer::Writer;
use crate::xattrs::Attributes;
use contents::Contents;
use links::Links;

/// Most directories below one another: each is open while it is walked.
const DEPTH_MAX: usize = 512;
/// Bytes that are gathered before they are written.
const GATHERED: usize = 64 << 10;

/// How a path is packed.
#[derive(Debug, Clone, Copy)]
pub struct PackOptions {
    /// A symbolic link is followed, if the path itself is one. Those below it never are.
    pub follow: bool,
    /// Which extended attributes go along.
    pub attributes: Attributes,
}

/// Why there is no whole tar.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The path cannot be read at all.
    #[error("{path:?} cannot be read")]
    Source {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Whoever takes it.
    #[error("the stream broke")]
    Write(#[source] io::Error),
}

/// What is wrong with an entry.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it cannot be read to its end; the rest of it are zeros")]
    Contents(#[source] io::Error),
    #[error("it became another one while it was read; try again when it is still")]
    Changed,
    #[error("it became shorter while it was read; the rest of it are zeros")]
    Shrank,
    #[error("it became longer while it was read; what came later is missing")]
    Grew,
    #[error("it lies more than {DEPTH_MAX} directories deep")]
    TooDeep,
    #[error("its path has more than {PATH_MAX} bytes")]
    TooLong,
    #[error("the kernel makes it up as it is read, and it has more than {} bytes", contents::MADE_UP_MAX)]
    MadeUp,
    #[error("its device number fits into no tar")]
    Device,
}

/// What there is to know of an entry.
#[derive(Debug, thiserror::Error)]
enum Note {
    #[error("it is a socket, and was left out")]
    Socket,
    #[error("it shows what the kernel has (proc, sys and the like), and its contents were left out")]
    View,
    #[error("too many files have several names: this one may have become several files")]
    Links,
}

/// Writes a tar of what lies at `source`: its name and all below it, or, of a path that is a directory's contents
/// ([`top`]), `./` and all below it.
///
/// # Errors
/// [`PackError`]. What is wrong with an entry is in the report instead.
pub fn pack(source: &Path, options: PackOptions, out: impl Write) -> Result<Report, PackError> {
    walk(source, options, Writer::new(BufWriter::with_capacity(GATHERED, out)))
}

/// [`pack`], into a pipe ([`Writer::to_pipe`]).
///
/// # Errors
/// As [`pack`].
pub fn pack_to_pipe(source: &Path, options: PackOptions, out: File) -> Result<Report, PackError> {
    walk(source, options, Writer::to_pipe(out))
}

fn walk<W: Write>(source: &Path, options: PackOptions, out: Writer<BufWriter<W>>) -> Result<Report, PackError> {
    let mut walk = Walk {
        out,
        options,
        links: Links::default(),
        contents: Contents::new(),
        report: Report::default(),
        path: Vec::new(),
        source,
    };
    walk.all()?;
    let Walk { out, report, .. } = walk;
    out.finish().map_err(PackError::Write)?;
    Ok(report)
}

/// A directory that is being walked.
struct Level {
    names: Dir,
    /// Bytes of its path.
    path: usize,
    device: (u32, u32),
}

struct Walk<'a, W: Write> {
    out: Writer<BufWriter<W>>,
    options: PackOptions,
    links: Links,
    contents: Contents,
    report: Report,
    /// Of what is being looked at, in the tar.
    path: Vec<u8>,
    source: &'a Path,
}

/// What goes wrong with an entry, or with all.
enum Trouble {
    Entry(Problem),
    All(PackError),
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self::Entry(problem)
    }
}

impl Trouble {
    fn read(source: impl Into<io::Error>) -> Self {
        Self::Entry(Problem::Read(source.into()))
    }

    fn write(source: io::Error) -> Self {
        Self::All(PackError::Write(source))
    }
}

impl<W: Write> Walk<'_, W> {
    fn all(&mut self) -> Result<(), PackError> {
        let unreadable = |source: io::Error| PackError::Source { path: self.source.to_owned(), source };
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
        let first = match top(self.source) {
            Top::Contents => {
                let path = if self.source.as_os_str().is_empty() { Path::new(".") } else { self.source };
                let opened = openat(CWD, path, flags | OFlags::RDONLY, Mode::empty());
                let opened = opened.map_err(|errno| unreadable(errno.into()))?;
                self.directory(opened)
            }
            Top::Named { parent, name, must_be_directory } => {
                let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                let parent = openat(CWD, parent, flags | OFlags::PATH, Mode::empty());
                let parent = parent.map_err(|errno| unreadable(errno.into()))?;
                let name = CString::new(name.as_bytes()).map_err(|_| unreadable(io::ErrorKind::InvalidInput.into()))?;
                self.path.extend_from_slice(name.as_bytes());
                self.entry(parent.as_fd(), &name, self.options.follow || must_be_directory, must_be_directory)
            }
        };
        match first {
            Ok(Some(level)) => self.below(level),
            Ok(None) => Ok(()),
            Err(Trouble::Entry(Problem::Read(source))) => Err(unreadable(source)),
            Err(trouble) => self.settle::<()>(Err(trouble)).map(drop),
        }
    }

    fn below(&mut self, top: Level) -> Result<(), PackError> {
        let mut levels = vec![top];
        loop {
            let depth = levels.len();
            let Some(level) = levels.last_mut() else { return Ok(()) };
            self.path.truncate(level.path);
            let name = match level.names.read() {
                None => {
                    levels.pop();
                    continue;
                }
                Some(Err(errno)) => {
                    self.settle::<()>(Err(Trouble::read(errno)))?;
                    levels.pop();
                    continue;
                }
                Some(Ok(entry)) => entry.file_name().to_owned(),
            };
            if matches!(name.as_bytes(), b"." | b"..") {
                continue;
            }
            if !self.path.is_empty() {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(name.as_bytes());
            let device = level.device;
            let found = match level.names.fd() {
                Ok(directory) if self.path.len() <= PATH_MAX => self.entry(directory, &name, false, false),
                Ok(_) => Err(Problem::TooLong.into()),
                Err(errno) => Err(Trouble::read(errno)),
            };
            let Some(below) = self.settle(found)?.flatten() else { continue };
            if depth >= DEPTH_MAX {
                self.report.problems.add(&self.path, &Problem::TooDeep);
            } else if below.device != device && below.names.fd().is_ok_and(contents::is_view) {
                self.report.notes.add(&self.path, &Note::View);
            } else {
                levels.push(below);
            }
        }
    }

    /// Notes what is wrong with an entry.
    fn settle<T>(&mut self, found: Result<T, Trouble>) -> Result<Option<T>, PackError> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Trouble::All(error)) => Err(error),
            Err(Trouble::Entry(problem)) => {
                self.report.problems.add(&self.path, &problem);
                Ok(None)
            }
        }
    }

    /// Writes an entry; answers a directory that is to be walked.
    fn entry(
        &mut self,
        parent: BorrowedFd<'_>,
        name: &CStr,
        follow: bool,
        must_be_directory: bool,
    ) -> Result<Option<Level>, Trouble> {
        let flags = if follow { AtFlags::empty() } else { AtFlags::SYMLINK_NOFOLLOW };
        let looked = statx(parent, name, flags, StatxFlags::BASIC_STATS).map_err(Trouble::read)?;
        let kind = FileType::from_raw_mode(looked.stx_mode.into());
        if must_be_directory && kind != FileType::Directory {
            return Err(Trouble::read(io::ErrorKind::NotADirectory));
        }
        let open = |how: OFlags| {
            let how = how | OFlags::RDONLY;
            match follow {
                true => openat(parent, name, how | OFlags::CLOEXEC, Mode::empty()),
                false => beneath::open(parent, name.to_bytes(), how),
            }
        };
        let has_links = kind != FileType::Directory && looked.stx_nlink > 1;
        if has_links && let Some(first) = self.links.find(&looked) {
            let meta = Meta::of(&looked);
            return self.write(&Kind::HardLink(first), &meta).map(|()| None);
        }
        match kind {
            FileType::Directory => {
                let opened = open(OFlags::DIRECTORY).map_err(Trouble::read)?;
                same(&opened, &looked)?;
                return self.directory(opened);
            }
            FileType::RegularFile => {
                // Without waiting, should it be a FIFO by now.
                let opened = open(OFlags::NONBLOCK | OFlags::NOCTTY).map_err(Trouble::read)?;
                let now = same(&opened, &looked)?;
                self.file(&File::from(opened), &now)?;
            }
            FileType::Symlink => {
                let target = readlinkat(parent, name, Vec::new()).map_err(Trouble::read)?;
                self.write(&Kind::SymbolicLink(target.into_bytes()), &Meta::of(&looked))?;
            }
            FileType::Socket => {
                self.report.notes.add(&self.path, &Note::Socket);
                return Ok(None);
            }
            FileType::Fifo => self.write(&Kind::Fifo, &Meta::of(&looked))?,
            other => {
                let (major, minor) = (looked.stx_rdev_major, looked.stx_rdev_minor);
                if u64::from(major.max(minor)) > crate::header::ID_MAX {
                    return Err(Problem::Device.into());
                }
                let kind = match other {
                    FileType::CharacterDevice => Kind::CharacterDevice(major, minor),
                    _ => Kind::BlockDevice(major, minor),
                };
                self.write(&kind, &Meta::of(&looked))?;
            }
        }
        if has_links && !self.links.add(&looked, &self.path) {
            self.report.notes.add(&self.path, &Note::Links);
        }
        Ok(None)
    }

    fn directory(&mut self, opened: OwnedFd) -> Result<Option<Level>, Trouble> {
        let looked = statx(&opened, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(Trouble::read)?;
        let xattrs = self.options.attributes.read(&opened).map_err(Trouble::read)?;
        self.write(&Kind::Directory, &Meta { xattrs, ..Meta::of(&looked) })?;
        let names = Dir::new(opened).map_err(Trouble::read)?;
        Ok(Some(Level { names, path: self.path.len(), device: (looked.stx_dev_major, looked.stx_dev_minor) }))
    }

    fn file(&mut self, file: &File, now: &Statx) -> Result<(), Trouble> {
        let xattrs = self.options.attributes.read(file).map_err(Trouble::read)?;
        let meta = Meta { xattrs, ..Meta::of(now) };
        let segments = self.contents.find(file, now)?;
        self.write(&Kind::File { bytes: self.contents.bytes, segments: segments.clone() }, &meta)?;
        let problem = self.contents.write(file, &segments, &mut self.out).map_err(Trouble::write)?;
        if let Some(problem) = problem {
            self.report.problems.add(&self.path, &problem);
        }
        Ok(())
    }

    fn write(&mut self, kind: &Kind, meta: &Meta) -> Result<(), Trouble> {
        self.report.entries += 1;
        self.out.begin(&self.path, kind, meta).map_err(Trouble::write)
    }
}

/// What was opened, which has to be what was looked at.
fn same(opened: &OwnedFd, looked: &Statx) -> Result<Statx, Trouble> {
    let now = statx(opened, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map_err(Trouble::read)?;
    let identity = |meta: &Statx| (meta.stx_dev_major, meta.stx_dev_minor, meta.stx_ino, meta.stx_mode >> 12);
    if identity(&now) == identity(looked) { Ok(now) } else { Err(Problem::Changed.into()) }
}
