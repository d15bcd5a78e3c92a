//! The open file: made, checked and brought up to date before an actor works on it.

use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use super::DatabaseError;
use super::write_faults::WriteFaults;
use crate::telemetry::faults::Faults;

/// Connections that read.
const READERS: u32 = 2;
/// How long SQLite waits for another program's lock before it answers that it is busy.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connection that writes may be in use by a batch of an actor that has ended.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

/// The open file: what every database actor of an orchestrator shares.
#[derive(Debug, Clone)]
pub struct DatabaseFile {
    /// The one connection that writes.
    pub(super) writer: SqlitePool,
    /// Those that read: questions do not wait for a batch of updates, nor short ones for a long one.
    pub(super) reader: SqlitePool,
    pub(super) faults: WriteFaults,
}

impl DatabaseFile {
    /// Opens the file, makes it (0600) if missing, checks it and brings its schema up to date. Call it
    /// on the runtime on which the actor will run.
    ///
    /// A link in the file's place is refused. SQLite opens by name and would follow one that comes between this look
    /// and its own; it says no more than afterwards that it was another file. Who can do that can write to the
    /// directory, which whoever starts an orchestrator has found to be its user's alone, with no link in the place of
    /// SQLite's other files.
    ///
    /// # Errors
    /// A damaged, foreign or newer file, or one that cannot be written; the file is not changed then.
    pub async fn open(path: &Path, faults: Faults) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::Create { path: path.to_owned(), source };
        let ours = make(path).map_err(failed)?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            // With `erase`: what was removed is not to be found in free pages.
            .pragma("secure_delete", "ON")
            .busy_timeout(BUSY_TIMEOUT);
        // One connection: this actor is the only writer, and its statements are in order. It stays, whatever the
        // host lacks by then.
        let one = || {
            let options = SqlitePoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
            options.acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let pool = one().connect_with(options.clone()).await.map_err(|source| refusal(path, source))?;
        if identity(&std::fs::symlink_metadata(path).map_err(failed)?) != ours {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "another file has taken its place")));
        }
        if let Some(detail) = quick_check(&pool).await.map_err(|source| refusal(path, source))? {
            return Err(DatabaseError::Corrupted { path: path.to_owned(), detail });
        }
        match sqlx::migrate!("./migrations").run(&pool).await {
            Ok(()) => {
                let reader = one().max_connections(READERS).connect_with(options.pragma("query_only", "ON")).await;
                let reader = reader.map_err(|source| refusal(path, source))?;
                let faults = WriteFaults::new(faults, path.parent().unwrap_or(path).to_owned());
                Ok(Self { writer: pool, reader, faults })
            }
            Err(MigrateError::VersionMissing(version)) => Err(DatabaseError::Newer { path: path.to_owned(), version }),
            Err(MigrateError::Execute(source)) => Err(refusal(path, source)),
            Err(source) => Err(DatabaseError::Migrate { path: path.to_owned(), source }),
        }
    }

    /// Whether [`DatabaseFile::open`] would find a file of its own version, or none; changes nothing.
    ///
    /// # Errors
    /// [`DatabaseError::Newer`], or the file cannot be read.
    pub async fn check(path: &Path) -> Result<(), DatabaseError> {
        if !path.exists() {
            return Ok(());
        }
        let options = SqliteConnectOptions::new().filename(path).read_only(true).busy_timeout(BUSY_TIMEOUT);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
        let pool = pool.map_err(|source| refusal(path, source))?;
        let version = schema_version(&pool).await.map_err(|source| refusal(path, source));
        pool.close().await;
        let known = sqlx::migrate!("./migrations").iter().map(|migration| migration.version).max();
        match version? {
            Some(version) if known.is_none_or(|known| version > known) => {
                Err(DatabaseError::Newer { path: path.to_owned(), version })
            }
            _ => Ok(()),
        }
    }
}

/// Makes the file where it is missing; which one it is. Closed before SQLite opens it: a later end of ours would take
/// SQLite's locks along. SQLite gives its other files the same mode.
fn make(path: &Path) -> io::Result<(u64, u64)> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    let file = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)?;
    Ok(identity(&file.metadata()?))
}

fn identity(meta: &std::fs::Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// The newest migration that the file has seen.
async fn schema_version(pool: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(pool).await
}

/// `PRAGMA quick_check`: `None` when the file is sound.
async fn quick_check(pool: &SqlitePool) -> Result<Option<String>, sqlx::Error> {
    let word: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await?;
    Ok((word != "ok").then_some(word))
}

/// What an error at opening means for the user.
fn refusal(path: &Path, source: sqlx::Error) -> DatabaseError {
    // Result codes of SQLite: SQLITE_CORRUPT is 11, SQLITE_NOTADB 26; the low byte of extended ones.
    let code = source.as_database_error().and_then(sqlx::error::DatabaseError::code);
    let primary = code.and_then(|code| code.parse::<i32>().ok()).map(|code| code & 0xff);
    match primary {
        Some(11 | 26) => DatabaseError::Corrupted { path: path.to_owned(), detail: source.to_string() },
        _ => DatabaseError::Open { path: path.to_owned(), source },
    }
}
