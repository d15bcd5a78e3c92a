//! What lies in a state directory: looked at, and opened, from the directory's own descriptor and without following a
//! link, before anything is read of it or written to it.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

/// What an entry is not, and should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryFault {
    /// It leads elsewhere.
    Link,
    /// It is something else than the plain file that belongs there.
    NotAFile,
    /// It is something else than the directory that belongs there.
    NotADirectory,
    /// It belongs to this user.
    Owner(u32),
    /// The file has so many names, some of them elsewhere.
    Names(u64),
    /// Others may make files in it (its permission bits).
    Writable(u32),
}

impl fmt::Display for EntryFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link => write!(f, "a symbolic link"),
            Self::NotAFile => write!(f, "no plain file"),
            Self::NotADirectory => write!(f, "no directory"),
            Self::Owner(user) => write!(f, "of user id {user}"),
            Self::Names(names) => write!(f, "a file with {names} names (hard links)"),
            Self::Writable(mode) => write!(f, "open to other users (mode {mode:o})"),
        }
    }
}

/// Why an entry is not used.
#[derive(Debug)]
pub(super) enum Refusal {
    Fault(EntryFault),
    System(io::Error),
}

impl From<EntryFault> for Refusal {
    fn from(fault: EntryFault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        match errno {
            // Of an opening that follows none.
            Errno::ELOOP => Self::Fault(EntryFault::Link),
            errno => Self::System(errno.into()),
        }
    }
}

/// Looks at a plain file that may be missing. It is not opened: closing it would end the locks that this process may
/// have on it.
pub(super) fn check_file(directory: impl AsFd, name: &str, user: u32) -> Result<(), Refusal> {
    match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(plain_file(&stat, user)?),
        Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Looks at a directory that may be missing.
pub(super) fn check_directory(directory: impl AsFd, name: &str, user: u32) -> Result<(), Refusal> {
    let stat = match fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    let mode = stat.st_mode & 0o7777;
    match kind(&stat) {
        SFlag::S_IFDIR if stat.st_uid != user => Err(EntryFault::Owner(stat.st_uid).into()),
        SFlag::S_IFDIR if mode & 0o022 != 0 => Err(EntryFault::Writable(mode).into()),
        SFlag::S_IFDIR => Ok(()),
        SFlag::S_IFLNK => Err(EntryFault::Link.into()),
        _ => Err(EntryFault::NotADirectory.into()),
    }
}

/// Opens a plain file of ours, or makes it (0600) where `flags` say so. Whatever lies there, it neither waits nor leads
/// elsewhere, and nothing is cut.
pub(super) fn open_file(directory: impl AsFd, name: &str, flags: OFlag, user: u32) -> Result<File, Refusal> {
    let safe = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = openat(directory, name, flags | safe, Mode::S_IRUSR | Mode::S_IWUSR)?;
    plain_file(&fstat(&file)?, user)?;
    Ok(file.into())
}

fn plain_file(stat: &FileStat, user: u32) -> Result<(), EntryFault> {
    #[allow(clippy::useless_conversion, reason = "its width is another one on other processors")]
    let names = u64::from(stat.st_nlink);
    match kind(stat) {
        SFlag::S_IFLNK => Err(EntryFault::Link),
        SFlag::S_IFREG if stat.st_uid != user => Err(EntryFault::Owner(stat.st_uid)),
        // One that was removed since it was opened has none.
        SFlag::S_IFREG if names > 1 => Err(EntryFault::Names(names)),
        SFlag::S_IFREG => Ok(()),
        _ => Err(EntryFault::NotAFile),
    }
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}
