//! Whether a state directory is safe to use: whoever can write to it can pass for our daemon, and whoever can put a
//! link into it leads a daemon to files of his choice.
//!
//! | who | asks | where it is |
//! | --- | --- | --- |
//! | a client that connects | [`prepare_state_dir`] | its user's own; root may look after others' daemons |
//! | who starts or is a daemon | [`PrivateDir::of_daemon`] | its user's own, root's too, with nothing in it that leads elsewhere |
//! | who embeds an orchestrator | [`PrivateDir::own`] | the same |
//!
//! Then a name in the directory means the same file until its owner, or root, changes that.

mod entry;
mod way;

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::AccessFlags;
use sandpen_types::state_dir::StateDir;

pub use entry::EntryFault;

/// Longest path of a unix socket in bytes: `sun_path` of unix(7) has 108, the last is a NUL.
pub const SOCKET_PATH_MAX: usize = 107;

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    /// The system refused.
    #[error("cannot use {path:?} as state directory; choose another one with --state-dir")]
    Io {
        /// Which directory, or what in it.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// There is something else at that path.
    #[error("the state directory {0:?} is not a directory; choose another one with --state-dir")]
    NotADirectory(PathBuf),
    /// It belongs to somebody else, who could put a daemon of their own into it.
    #[error(
        "the state directory {path:?} belongs to user id {owner}, not to you ({user}), and only its owner may start a daemon in it; run this as that user, or choose another one with --state-dir"
    )]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Our user id.
        user: u32,
    },
    /// Somebody else could put another directory in its place.
    #[error(
        "the state directory {path:?} lies below {above:?}, which {} may change; choose another one with --state-dir",
        owner.map_or_else(|| "everybody".to_owned(), |owner| format!("user id {owner}"))
    )]
    Below {
        /// Which directory.
        path: PathBuf,
        /// A directory or link on the way to it.
        above: PathBuf,
        /// Who owns that; `None` where it is open to everybody.
        owner: Option<u32>,
    },
    /// It cannot be written to.
    #[error("the state directory {path:?} is not writable; make it so or choose another one with --state-dir")]
    NotWritable {
        /// Which directory.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Others may look into it or write to it.
    #[error(
        "the state directory {path:?} is open to other users (mode {mode:o}); run `chmod 700` on it or choose another one with --state-dir"
    )]
    Open {
        /// Which directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Something in it is not as sandpen makes it, and could lead elsewhere.
    #[error(
        "{path:?} is {fault}, so no daemon uses it; make it a plain {expected} of your own (on another disk: a mount, not a link), move it away, or choose another state directory with --state-dir"
    )]
    Entry {
        /// What.
        path: PathBuf,
        /// What is wrong with it.
        fault: EntryFault,
        /// What belongs there: a file, or a directory.
        expected: &'static str,
    },
    /// No socket of that path can be made.
    #[error(
        "the socket path {path:?} has {} bytes, a unix socket's may have {SOCKET_PATH_MAX}; choose a shorter --state-dir",
        path.as_os_str().len()
    )]
    SocketPath {
        /// The socket's path.
        path: PathBuf,
    },
}

/// A directory to look for a daemon in; it is made where it is missing (0700). One that is not safe is refused, instead
/// of being changed: with `--state-dir /tmp` a chmod would hit everybody.
///
/// # Errors
/// See [`PrivateDirError`].
pub fn prepare_state_dir(path: &Path) -> Result<StateDir, PrivateDirError> {
    let path = absolute_with_socket(path)?;
    make(&path)?;
    let meta = std::fs::metadata(&path).map_err(failed(&path))?;
    // Root may look after others' daemons.
    let owner = if effective_user() == 0 { 0 } else { meta.uid() };
    check_itself(&path, meta.is_dir(), owner, meta.mode())?;
    Ok(StateDir::new(path))
}

/// A state directory of our own that was safe when it was looked at. Its entries are looked at and opened from the open
/// directory that was checked itself ([`PrivateDir::open_file`]); whoever takes names of [`PrivateDir::state_dir`] has to
/// rely on what was found of the way to it: nobody but its owner and root can put another one there.
#[derive(Debug)]
pub struct PrivateDir {
    dir: StateDir,
    descriptor: OwnedFd,
    user: u32,
}

impl PrivateDir {
    /// [`PrivateDir::own`] for a daemon's directory, in which a socket has to fit.
    ///
    /// # Errors
    /// See [`PrivateDirError`].
    pub fn of_daemon(path: &Path) -> Result<Self, PrivateDirError> {
        Self::own(&absolute_with_socket(path)?)
    }

    /// A directory to start an orchestrator in; it is made where it is missing (0700), and nothing else is changed. It
    /// belongs to our effective user, root's included: root in somebody else's would write where that one says.
    ///
    /// # Errors
    /// See [`PrivateDirError`].
    pub fn own(path: &Path) -> Result<Self, PrivateDirError> {
        let path = std::path::absolute(path).map_err(failed(path))?;
        let user = effective_user();
        make(&path)?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        let descriptor = open(&path, flags, Mode::empty()).map_err(|errno| match errno {
            Errno::ENOTDIR => PrivateDirError::NotADirectory(path.clone()),
            errno => failed(&path)(errno.into()),
        })?;
        let meta = File::from(descriptor.try_clone().map_err(failed(&path))?).metadata().map_err(failed(&path))?;
        check_itself(&path, meta.is_dir(), meta.uid(), meta.mode())?;
        check_way(&path, user)?;
        let this = Self { dir: StateDir::new(path), descriptor, user };
        for name in StateDir::FILES {
            entry::check_file(&this.descriptor, name, user).map_err(this.refused(name, "file"))?;
        }
        for name in StateDir::DIRECTORIES {
            entry::check_directory(&this.descriptor, name, user).map_err(this.refused(name, "directory"))?;
        }
        Ok(this)
    }

    /// Its names.
    pub fn state_dir(&self) -> &StateDir {
        &self.dir
    }

    /// Opens one of [`StateDir::FILES`], with `O_CREAT` made for our user alone; a link, somebody else's file or one
    /// that has other names is refused, and nothing in it is changed.
    ///
    /// # Errors
    /// [`PrivateDirError::Entry`] and [`PrivateDirError::Io`].
    pub fn open_file(&self, name: &str, flags: OFlag) -> Result<File, PrivateDirError> {
        entry::open_file(&self.descriptor, name, flags, self.user).map_err(self.refused(name, "file"))
    }

    fn refused(&self, name: &str, expected: &'static str) -> impl FnOnce(entry::Refusal) -> PrivateDirError {
        let path = self.dir.path().join(name);
        move |refusal| match refusal {
            entry::Refusal::Fault(fault) => PrivateDirError::Entry { path, fault, expected },
            entry::Refusal::System(source) => PrivateDirError::Io { path, source },
        }
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PrivateDirError {
    let path = path.to_owned();
    move |source| PrivateDirError::Io { path, source }
}

fn effective_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

fn absolute_with_socket(path: &Path) -> Result<PathBuf, PrivateDirError> {
    let path = std::path::absolute(path).map_err(failed(path))?;
    let socket = StateDir::new(path.clone()).socket();
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(PrivateDirError::SocketPath { path: socket });
    }
    Ok(path)
}

/// Makes the directory where it is missing, and nobody else can put another one in its place.
fn make(path: &Path) -> Result<(), PrivateDirError> {
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(PrivateDirError::NotADirectory(path.to_owned()));
        }
        found => return found.map(drop).map_err(failed(path)),
    }
    check_way(path, effective_user())?;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed(path))?;
    // An odd umask may have taken bits that we need ourselves.
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(failed(path))
}

fn check_way(path: &Path, user: u32) -> Result<(), PrivateDirError> {
    match way::check(path, user).map_err(failed(path))? {
        Some(way::Foreign { path: above, owner }) => {
            Err(PrivateDirError::Below { path: path.to_owned(), above, owner })
        }
        None => Ok(()),
    }
}

/// Looks at what is there, which may have been made by somebody else since it was missing.
fn check_itself(path: &Path, is_dir: bool, owner: u32, mode: u32) -> Result<(), PrivateDirError> {
    let (user, mode) = (effective_user(), mode & 0o7777);
    let path = path.to_owned();
    if !is_dir {
        return Err(PrivateDirError::NotADirectory(path));
    }
    if owner != user {
        return Err(PrivateDirError::NotOurs { path, owner, user });
    }
    if mode & 0o077 != 0 {
        return Err(PrivateDirError::Open { path, mode });
    }
    // Not before the first write: a read-only file system or lacking permissions are said at once.
    match nix::unistd::eaccess(&path, AccessFlags::W_OK | AccessFlags::X_OK) {
        Ok(()) => Ok(()),
        Err(errno) => Err(PrivateDirError::NotWritable { path, source: errno.into() }),
    }
}

#[cfg(test)]
mod tests;
