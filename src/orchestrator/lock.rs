//! One orchestrator per state directory: the directory itself, and the lock in it.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use sandpen_client::private_dir::{PrivateDir, PrivateDirError};
use sandpen_types::state_dir::StateDir;

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// The path is not absolute.
    #[error("state directory {0:?} is not an absolute path")]
    Relative(PathBuf),
    /// It is not safe to use, or cannot be made.
    #[error(transparent)]
    NotPrivate(#[from] PrivateDirError),
    /// Its lock cannot be written.
    #[error("state directory {path:?} cannot be used; choose another with --state-dir or SANDPEN_STATE_DIR")]
    Unusable {
        /// Where it failed.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// Another orchestrator has it.
    #[error("state directory {path:?} is in use by process {holder}; there is one daemon per state directory")]
    Held {
        /// The directory.
        path: PathBuf,
        /// The other process's id as it wrote it, or `?`.
        holder: String,
    },
}

/// The held lock; released when dropped, also when the process dies.
#[derive(Debug)]
pub(super) struct StateLock(#[expect(dead_code, reason = "held for its lock")] Flock<File>);

/// Makes the directory (0700) where it is missing, looks at it and at what lies in it, and takes its lock.
pub(super) fn take(state_dir: &StateDir) -> Result<StateLock, LockError> {
    let path = state_dir.path();
    if !path.is_absolute() {
        return Err(LockError::Relative(path.to_owned()));
    }
    let dir = PrivateDir::own(path)?;
    let lock = state_dir.lock();
    let file = dir.open_file(StateDir::LOCK, OFlag::O_RDWR | OFlag::O_CREAT)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            // For people and for the message below; nothing trusts it.
            let written = held
                .set_len(0)
                .and_then(|()| held.seek(std::io::SeekFrom::Start(0)).map(drop))
                .and_then(|()| writeln!(held, "{}", std::process::id()));
            written.map_err(|source| LockError::Unusable { path: lock, source })?;
            Ok(StateLock(held))
        }
        Err((mut file, Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => holder.trim().to_owned(),
                _ => "?".to_owned(),
            };
            Err(LockError::Held { path: path.to_owned(), holder })
        }
        Err((_, errno)) => Err(LockError::Unusable { path: lock, source: errno.into() }),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_second_one_is_told_who_holds_it_and_the_directory_is_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let state_dir = StateDir::new(path.clone());
        let held = take(&state_dir).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        let refused = take(&state_dir).unwrap_err().to_string();
        assert!(refused.contains(&std::process::id().to_string()), "{refused}");
        drop(held);
        take(&state_dir).unwrap();
    }

    #[test]
    fn a_file_in_its_place_and_a_relative_path_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(take(&StateDir::new(file)), Err(LockError::NotPrivate(_))));
        assert!(matches!(take(&StateDir::new("x".into())), Err(LockError::Relative(_))));
    }

    #[test]
    fn a_link_in_the_place_of_the_lock_empties_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path().join("state"));
        drop(take(&state_dir).unwrap());
        let outside = dir.path().join("outside");
        fs::write(&outside, "as it was").unwrap();
        fs::remove_file(state_dir.lock()).unwrap();
        std::os::unix::fs::symlink(&outside, state_dir.lock()).unwrap();
        let refused = take(&state_dir).unwrap_err().to_string();
        assert!(refused.contains("daemon.lock") && refused.contains("symbolic link"), "{refused}");
        assert_eq!(fs::read(&outside).unwrap(), b"as it was");
    }
}
