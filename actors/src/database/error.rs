//! How the database fails, and what that says about the host.

use std::path::PathBuf;
use std::sync::Arc;

use sandpen_types::fault::Fault;
use sandpen_types::row::SandboxId;
use sandpen_types::spec::SandboxKey;

/// A failure of the database. Nothing of the request was written, unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite or sqlx refused.
    #[error("{action}")]
    Sql {
        /// What was being done.
        action: &'static str,
        /// The cause; shared by all that one refusal concerns.
        #[source]
        source: Arc<sqlx::Error>,
    },
    /// The file cannot be made or opened.
    #[error("the database {path:?} cannot be opened")]
    Open {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
    /// The file's directory does not let us make it.
    #[error("the database {path:?} cannot be made")]
    Create {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The file is damaged or something else.
    #[error(
        "{path:?} is damaged or not a sandpen database ({detail}); nothing was changed. Move it away to begin anew, or restore a copy"
    )]
    Corrupted {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// A newer sandpen made the file.
    #[error(
        "{path:?} was made by a newer sandpen (schema {version}); nothing was changed. Use that version, or another state directory"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its schema version that this program does not know.
        version: i64,
    },
    /// The schema could not be brought up to date.
    #[error("bringing the database {path:?} up to date")]
    Migrate {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// The sandbox's row is not there (any more).
    #[error("there is no row {sandbox} of a sandbox")]
    UnknownSandbox {
        /// The row number.
        sandbox: SandboxId,
    },
    /// The sandbox has not ended.
    #[error("the sandbox has not ended")]
    StillLive,
    /// Another sandbox has the name.
    #[error("there is a sandbox {key} already")]
    NameTaken {
        /// The name.
        key: SandboxKey,
    },
    /// A sandbox that had the name, or was to have it, may have it on its files still.
    #[error("files of a renamed sandbox still have the name {key}")]
    NameReserved {
        /// The name.
        key: SandboxKey,
    },
    /// A column holds what this program cannot read.
    #[error("row {sandbox} holds an unreadable {column}: {detail}")]
    Unreadable {
        /// The row number.
        sandbox: SandboxId,
        /// Which column.
        column: &'static str,
        /// Why.
        detail: String,
    },
    /// Events before this one are no longer kept.
    #[error("event {from} is no longer kept; the first one that is kept is {first}")]
    EventsGone {
        /// What was asked for.
        from: u64,
        /// The first number that is kept.
        first: u64,
    },
    /// There has been no such event yet.
    #[error("event {from} has not happened yet; the next one is {next}. Numbers begin at 1 in each state directory")]
    EventsAhead {
        /// What was asked for.
        from: u64,
        /// The number of the next event.
        next: u64,
    },
    /// The actor ended before it could answer; whether the update is durable is unknown.
    #[error("the database actor has ended")]
    Ended,
}

impl DatabaseError {
    /// What SQLite's refusal says about the host; `None` when it is no fault of it.
    pub fn fault(&self) -> Option<Fault> {
        let Self::Sql { source, .. } = self else { return None };
        let cause = match &**source {
            sqlx::Error::Database(cause) => cause,
            // The connection that writes waits for a lock.
            sqlx::Error::PoolTimedOut => return Some(Fault::DatabaseLocked),
            _ => return None,
        };
        // SQLITE_BUSY, LOCKED, READONLY, IOERR, FULL, CANTOPEN; the low byte of extended ones.
        match cause.code()?.parse::<i32>().ok()? & 0xff {
            5 | 6 => Some(Fault::DatabaseLocked),
            8 => Some(Fault::ReadOnly),
            13 => Some(Fault::DiskFull),
            10 | 14 => Some(Fault::StorageFailed),
            _ => None,
        }
    }
}
