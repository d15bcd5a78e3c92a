//! A removal that is never deeper than two directories.
//!
//! ```text
//!   top ─┬ file ─▶ gone
//!        ├ a ─┬ file ─▶ gone
//!        │    └ b (with all below it) ─▶ moved to top, as .0 ─┐      a is empty ─▶ gone
//!        └ .0 ◀───────────────────────────────────────────────┘      and so on, until none was moved
//! ```
//! A directory of any depth is moved in one step, so each costs one. What is still to be done is two numbers.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, chmod, fchmod, fstat, renameat, unlinkat};
use rustix::io::Errno;

use super::{DIRECTORY, is_entry, open_below, split};

/// What a directory's owner needs to empty it.
const ALL_OF_OWNER: Mode = Mode::RWXU;

/// Removes what is at `path`, whatever it is, with all that is in it. `goes_on` is asked before each step. Fine if there is
/// nothing.
///
/// # Errors
/// The first of what cannot be removed, a mounted file system for example; the rest goes. `Interrupted` when `goes_on` says
/// no.
pub fn remove(path: &Path, goes_on: &dyn Fn() -> bool) -> io::Result<()> {
    let (parent, name) = match split(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        split => split?,
    };
    let top = match open_below(parent.as_fd(), &name, DIRECTORY) {
        Err(Errno::ACCESS) => {
            open_up(&parent, &name)?;
            open_below(parent.as_fd(), &name, DIRECTORY)?
        }
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return Ok(unlinkat(&parent, &name, AtFlags::empty())?),
        opened => opened?,
    };
    give_to_owner(&top);
    let mut removal = Removal { top, next: 0, done: 0, removed: 0, fault: None, goes_on };
    loop {
        let before = removal.removed;
        removal.clear_top()?;
        match unlinkat(&parent, &name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            // Some file systems pass over a name when others go while a directory is read.
            Err(Errno::NOTEMPTY | Errno::EXIST) if removal.fault.is_none() && removal.removed > before => {}
            Err(error) => return Err(removal.fault.unwrap_or(error).into()),
        }
    }
}

/// One that is under way.
pub(super) struct Removal<'a> {
    pub(super) top: OwnedFd,
    /// The number that the next directory is moved to.
    pub(super) next: u64,
    /// All before this number are done.
    pub(super) done: u64,
    /// How many names are gone.
    pub(super) removed: u64,
    /// The first of what could not be removed.
    pub(super) fault: Option<Errno>,
    pub(super) goes_on: &'a dyn Fn() -> bool,
}

impl Removal<'_> {
    fn clear_top(&mut self) -> io::Result<()> {
        let mut entries = Dir::read_from(&self.top)?;
        while let Some(entry) = entries.read() {
            let entry = entry?;
            if is_entry(entry.file_name()) && !self.is_gone(&entries, entry.file_name())? {
                self.clear(entry.file_name())?;
                while self.done < self.next {
                    let name = numbered(self.done);
                    self.done += 1;
                    self.clear(&name)?;
                }
            }
        }
        Ok(())
    }

    /// Removes a name of the top; the directories that are in it are moved to the top.
    pub(super) fn clear(&mut self, name: &CStr) -> io::Result<()> {
        let mut opened = open_below(self.top.as_fd(), name, DIRECTORY);
        if opened.as_ref().is_err_and(|errno| *errno == Errno::ACCESS) && open_up(&self.top, name).is_ok() {
            opened = open_below(self.top.as_fd(), name, DIRECTORY);
        }
        let directory = match opened {
            Ok(directory) => directory,
            // Something else has come into its place.
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let gone = unlinkat(&self.top, name, AtFlags::empty());
                self.note(gone);
                return Ok(());
            }
            Err(Errno::NOENT) => return Ok(()),
            Err(error) => {
                self.note(Err(error));
                return Ok(());
            }
        };
        give_to_owner(&directory);
        let mut entries = Dir::new(directory)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    self.note(Err(error));
                    break;
                }
            };
            if is_entry(entry.file_name()) && !self.is_gone(&entries, entry.file_name())? {
                self.move_up(&entries, entry.file_name())?;
            }
        }
        match unlinkat(&self.top, name, AtFlags::REMOVEDIR) {
            // What stays in it is noted, or the next round's.
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            gone => self.note(gone),
        }
        Ok(())
    }

    /// Whether a name is gone by one step, or cannot be removed; otherwise it is a directory that is not empty.
    fn is_gone(&mut self, directory: &Dir, name: &CStr) -> io::Result<bool> {
        if !(self.goes_on)() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let directory = directory.fd()?;
        let gone = match unlinkat(directory, name, AtFlags::empty()) {
            // POSIX has the one for directories, Linux the other.
            Err(refused @ (Errno::PERM | Errno::ISDIR)) => match unlinkat(directory, name, AtFlags::REMOVEDIR) {
                Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(false),
                Err(Errno::NOTDIR) => Err(refused),
                gone => gone,
            },
            gone => gone,
        };
        self.note(gone);
        Ok(true)
    }

    fn move_up(&mut self, directory: &Dir, name: &CStr) -> io::Result<()> {
        let mut is_open = false;
        loop {
            match renameat(directory.fd()?, name, &self.top, numbered(self.next).as_c_str()) {
                Ok(()) => {
                    self.next += 1;
                    return Ok(());
                }
                // The guest has used that name itself.
                Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => self.next += 1,
                // To move a directory is to change where its `..` leads.
                Err(Errno::ACCESS) if !is_open => {
                    is_open = true;
                    if let Err(error) = open_up(directory.fd()?, name) {
                        self.note(Err(error));
                        return Ok(());
                    }
                }
                Err(error) => {
                    self.note(Err(error));
                    return Ok(());
                }
            }
        }
    }

    fn note(&mut self, gone: Result<(), Errno>) {
        match gone {
            Ok(()) => self.removed += 1,
            Err(Errno::NOENT) => {}
            Err(error) => drop(self.fault.get_or_insert(error)),
        }
    }
}

/// The name that a directory is moved to.
fn numbered(number: u64) -> CString {
    // A number has no zero byte.
    CString::new(format!(".{number}")).unwrap_or_default()
}

/// Lets the owner empty an open directory, which a guest may have forbidden. Where that fails the removal does, and says so.
fn give_to_owner(directory: &OwnedFd) {
    let lacks = |mode: u32| Mode::from_raw_mode(mode) & ALL_OF_OWNER != ALL_OF_OWNER;
    if fstat(directory).is_ok_and(|meta| lacks(meta.st_mode)) {
        let _ = fchmod(directory, ALL_OF_OWNER);
    }
}

/// The same of one that cannot even be opened.
fn open_up(directory: impl std::os::fd::AsFd, name: &CStr) -> Result<(), Errno> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = open_below(directory.as_fd(), name, how)?;
    // The mode of what is open without being read is changed by this path alone.
    chmod(format!("/proc/self/fd/{}", opened.as_raw_fd()), ALL_OF_OWNER)
}
