//! What a destination means, by the rules of `docker cp`:
//!
//! | source | there is nothing | there is a file | there is a directory |
//! | --- | --- | --- | --- |
//! | a file | that name; with a slash behind it an error | takes its place | into it, by the source's name |
//! | a directory | made, with the contents of the source | an error | into it, by the source's name |
//! | `DIR/.` | made, with the contents of the source | an error | its contents into it |
//!
//! The directory above has to be there. Symbolic links are followed, also one to nothing: that is made where it leads. What
//! was found is held open from then on, so that nobody can put something else in its place.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, StatxFlags, openat, readlinkat, statx};
use rustix::io::Errno;

use super::{Destination, UnpackError};
use crate::beneath;
use crate::entry::{Entry, Kind};
use crate::name::{join, split};
use crate::report::as_path;

/// Most symbolic links that are followed one after the other, as the kernel has it.
const LINKS_MAX: u32 = 40;

/// Why nothing can be put at a destination.
#[derive(Debug, thiserror::Error)]
pub enum DestinationProblem {
    #[error("the directory that it is to be made in cannot be used; make it first")]
    Above(#[source] io::Error),
    #[error("it cannot be looked at")]
    Look(#[source] io::Error),
    #[error("it is not there, and a file is to go into it; make the directory first, or leave out the slash")]
    Missing,
    #[error("it is not there; make the directory first")]
    MissingDirectory,
    #[error("it is no directory, and a directory cannot take its place")]
    File,
    #[error("it is no directory")]
    NoDirectory,
    #[error("it is neither a file nor a directory, and is left as it is")]
    Special,
    #[error("it is moved about while it is looked at, or its symbolic links lead round in circles")]
    Links,
}

/// Where a stream's entries go.
#[derive(Debug)]
pub(super) struct Place {
    /// All of them lie below it.
    pub(super) root: OwnedFd,
    /// As whoever asked calls it.
    pub(super) shown: PathBuf,
    /// What their names begin with in the stream, and below the root; empty for nothing.
    pub(super) from: Vec<u8>,
    pub(super) to: Vec<u8>,
}

/// What is at a path.
enum Found {
    Directory(OwnedFd),
    File(OwnedFd, Vec<u8>),
    Nothing(OwnedFd, Vec<u8>, bool),
}

impl Place {
    /// That of a stream whose first entry is known.
    pub(super) fn of(destination: &Destination<'_>, first: &Entry) -> Result<Self, UnpackError> {
        let (path, expected) = match destination {
            Destination::Directory(path) => {
                let (from, to) = (Vec::new(), Vec::new());
                return directory(path).map(|root| Self { root, shown: (*path).to_owned(), from, to });
            }
            Destination::Path { path, name } => (*path, *name),
        };
        let from = first.path.clone();
        if from.contains(&b'/') || expected.is_some_and(|expected| expected != from) {
            return Err(UnpackError::Outside { name: from });
        }
        let is_directory = first.kind == Kind::Directory;
        let problem = |problem| UnpackError::Destination { path: path.to_owned(), problem };
        // What is in the place of the destination is shown by its name.
        let above = path.parent().unwrap_or(Path::new("")).to_owned();
        match find(path).map_err(problem)? {
            Found::Directory(root) => Ok(Self { root, shown: path.to_owned(), to: from.clone(), from }),
            Found::File(..) if is_directory => Err(problem(DestinationProblem::File)),
            Found::Nothing(.., true) if !is_directory => Err(problem(DestinationProblem::Missing)),
            Found::File(root, to) | Found::Nothing(root, to, _) => Ok(Self { root, shown: above, from, to }),
        }
    }

    /// A path below the root, as it is shown.
    pub(super) fn show(&self, path: &[u8]) -> Vec<u8> {
        match self.shown.as_os_str().as_bytes() {
            b"/" => [b"/", path].concat(),
            above => join(above, path),
        }
    }
}

/// A directory that has to be there.
pub(super) fn directory(path: &Path) -> Result<OwnedFd, UnpackError> {
    let problem = |problem| UnpackError::Destination { path: path.to_owned(), problem };
    match find(path).map_err(problem)? {
        Found::Directory(root) => Ok(root),
        Found::File(..) => Err(problem(DestinationProblem::NoDirectory)),
        Found::Nothing(..) => Err(problem(DestinationProblem::MissingDirectory)),
    }
}

fn find(path: &Path) -> Result<Found, DestinationProblem> {
    let mut base: Option<OwnedFd> = None;
    let mut path = path.as_os_str().as_bytes().to_owned();
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    for _ in 0..LINKS_MAX {
        let open = |path: &[u8]| {
            let path = if path.is_empty() { Path::new(".") } else { as_path(path) };
            match &base {
                Some(base) => openat(base, path, flags, Mode::empty()),
                None => openat(CWD, path, flags, Mode::empty()),
            }
        };
        let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let has_slash = end < path.len();
        let (above, name) = split(&path[..end]);
        if matches!(name, b"" | b"." | b"..") {
            return match open(&path) {
                Err(Errno::NOENT) => Err(DestinationProblem::MissingDirectory),
                opened => opened.map(Found::Directory).map_err(|errno| DestinationProblem::Look(errno.into())),
            };
        }
        let above = if above.is_empty() && path[0] == b'/' { b"/" } else { above };
        let parent = open(above).map_err(|errno| DestinationProblem::Above(errno.into()))?;
        let name = name.to_owned();
        let looked = statx(&parent, OsStr::from_bytes(&name), AtFlags::SYMLINK_NOFOLLOW, StatxFlags::TYPE);
        let kind = match looked {
            Err(Errno::NOENT) => return Ok(Found::Nothing(parent, name, has_slash)),
            looked => looked.map_err(|errno| DestinationProblem::Look(errno.into()))?.stx_mode,
        };
        match FileType::from_raw_mode(kind.into()) {
            FileType::Directory => match beneath::open(parent.as_fd(), &name, flags) {
                // It was replaced just now.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                opened => return opened.map(Found::Directory).map_err(|errno| DestinationProblem::Look(errno.into())),
            },
            FileType::Symlink => {
                let target = readlinkat(&parent, OsStr::from_bytes(&name), Vec::new());
                let target = target.map_err(|errno| DestinationProblem::Look(errno.into()))?;
                path = target.into_bytes();
                if has_slash {
                    path.push(b'/');
                }
                base = Some(parent);
            }
            FileType::RegularFile if has_slash => return Err(DestinationProblem::NoDirectory),
            FileType::RegularFile => return Ok(Found::File(parent, name)),
            _ => return Err(DestinationProblem::Special),
        }
    }
    Err(DestinationProblem::Links)
}
