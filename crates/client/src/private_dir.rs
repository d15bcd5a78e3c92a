//! Whether a state directory is safe to use: whoever can write to it can pass for our daemon.

use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;
use sandpen_types::state_dir::StateDir;

/// Longest path of a unix socket in bytes: `sun_path` of unix(7) has 108, the last is a NUL.
pub const SOCKET_PATH_MAX: usize = 107;

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirError {
    /// The system refused.
    #[error("cannot use {path:?} as state directory; choose another one with --state-dir")]
    Io {
        /// Which directory.
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
        "the state directory {path:?} belongs to user id {owner}, not to you ({user}); choose another one with --state-dir"
    )]
    NotOurs {
        /// Which directory.
        path: PathBuf,
        /// Its owner's user id.
        owner: u32,
        /// Our user id.
        user: u32,
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

/// [`prepare`] for a daemon's directory, in which a socket has to fit.
///
/// # Errors
/// See [`PrivateDirError`].
pub fn prepare_state_dir(path: &Path) -> Result<StateDir, PrivateDirError> {
    let failed = |source| PrivateDirError::Io { path: path.to_owned(), source };
    let socket = StateDir::new(std::path::absolute(path).map_err(failed)?).socket();
    if socket.as_os_str().len() > SOCKET_PATH_MAX {
        return Err(PrivateDirError::SocketPath { path: socket });
    }
    prepare(path)
}

/// Makes the state directory where it is missing (0700) and refuses one that is not safe, instead
/// of changing it: with `--state-dir /tmp` a chmod would hit everybody.
///
/// # Errors
/// See [`PrivateDirError`].
pub fn prepare(path: &Path) -> Result<StateDir, PrivateDirError> {
    let failed = |source| PrivateDirError::Io { path: path.to_owned(), source };
    let path = std::path::absolute(path).map_err(failed)?;
    match std::fs::metadata(&path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&path).map_err(failed)?;
            // An odd umask may have taken bits that we need ourselves.
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).map_err(failed)?;
        }
        Ok(meta) if !meta.is_dir() => return Err(PrivateDirError::NotADirectory(path)),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotADirectory => return Err(PrivateDirError::NotADirectory(path)),
        Err(e) => return Err(failed(e)),
    }
    // Looked at again after the creation: the path may have been made by somebody else meanwhile.
    let meta = std::fs::metadata(&path).map_err(failed)?;
    let user = nix::unistd::geteuid().as_raw();
    if meta.uid() != user && user != 0 {
        return Err(PrivateDirError::NotOurs { path, owner: meta.uid(), user });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(PrivateDirError::Open { path, mode });
    }
    // Not before the first write: a read-only file system or lacking permissions are said at once.
    if let Err(errno) = nix::unistd::eaccess(&path, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Err(PrivateDirError::NotWritable { path, source: errno.into() });
    }
    Ok(StateDir::new(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_made_private() {
        let temp = tempfile::tempdir().unwrap();
        let dir = prepare_state_dir(&temp.path().join("a/b")).unwrap();
        assert_eq!(std::fs::metadata(dir.path()).unwrap().permissions().mode() & 0o777, 0o700);
        prepare_state_dir(dir.path()).unwrap();
    }

    #[test]
    fn an_open_directory_is_refused_and_left_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(prepare_state_dir(temp.path()), Err(PrivateDirError::Open { mode: 0o755, .. })));
        assert_eq!(std::fs::metadata(temp.path()).unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn a_file_is_no_directory() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        assert!(matches!(prepare_state_dir(temp.path()), Err(PrivateDirError::NotADirectory(_))));
        assert!(matches!(prepare_state_dir(&temp.path().join("below")), Err(PrivateDirError::NotADirectory(_))));
    }

    #[test]
    fn a_long_path_is_refused_before_anything_is_made() {
        let temp = tempfile::tempdir().unwrap();
        let long = temp.path().join("x".repeat(100));
        let text = prepare_state_dir(&long).unwrap_err().to_string();
        assert!(text.contains("shorter --state-dir"), "{text}");
        assert!(!long.exists());
    }
}
