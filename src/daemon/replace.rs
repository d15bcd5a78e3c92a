//! Whether this version can take over from the daemon that runs: looked at before that one is ended.

use std::path::{Path, PathBuf};

use sandpen_actors::database::{DatabaseError, DatabaseFile};
use sandpen_drivers::start_message;
use sandpen_guest::protocol::FrameError;
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::waiter::{WaiterError, check_readable};

/// Why this version cannot take over; nothing was changed, and the other daemon goes on.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    /// The database is of another version.
    #[error("the daemon is not replaced")]
    Database(#[from] DatabaseError),
    /// What a live microVM's waiter has written is of another version.
    #[error("the daemon is not replaced: this version could not find its microVMs again")]
    Waiter(#[from] WaiterError),
    /// A live microVM's guest speaks another version of the control protocol.
    #[error("the daemon is not replaced: this version could not speak with the microVM of {runtime_dir:?}")]
    Guest {
        /// The runtime directory of its sandbox: `run/CONFIG/NAME` of the state directory.
        runtime_dir: PathBuf,
        /// Which version it speaks, and what to do.
        #[source]
        source: FrameError,
    },
}

/// Looks at everything that is read of an earlier daemon's.
///
/// # Errors
/// [`ReplaceError`].
pub async fn check_can_take_over(dir: &StateDir) -> Result<(), ReplaceError> {
    DatabaseFile::check(&dir.database()).await?;
    for config in directories(&dir.runtime_root()) {
        for sandbox in directories(&config) {
            check_readable(&sandbox)?;
            start_message::check_version(&sandbox)
                .map_err(|source| ReplaceError::Guest { runtime_dir: sandbox.clone(), source })?;
        }
    }
    Ok(())
}

fn directories(path: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
