//! The actor: gathers updates, writes them in batches, answers all.

use std::collections::VecDeque;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt as _, ArbiterHandle, AsyncContext as _, Context, ResponseActFuture, WrapFuture as _,
};
use sqlx::SqlitePool;
use sqlx::migrate::MigrateError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use tokio::sync::{oneshot, watch};

use super::batch::{Batch, Pending, Refusal, Reply};
use super::latest_health::LatestHealth;
use super::{DatabaseError, queries};
use crate::actor_ref::{ActorRef, keep_running};
use crate::blocking::blocking;
use crate::counters::Counter;
use crate::faults::{Fault, Faults, Place, fault_of_io};
use crate::intensity::RestartIntensity;

/// Updates of one statement. At about 1 KiB of JSON each, far below SQLite's limits, and enough that
/// one commit is shared by all that wait.
const BATCH: usize = 1000;
/// Connections that read.
const READERS: u32 = 2;
/// How long SQLite waits for another program's lock before it answers that it is busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the connection that writes may be in use by a batch of an actor that has ended.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Answer<T> = ResponseActFuture<Database, Result<T, DatabaseError>>;

/// The open file: what every database actor of an orchestrator shares.
#[derive(Debug, Clone)]
pub struct DatabaseFile {
    /// The one connection that writes.
    writer: SqlitePool,
    /// Those that read: questions do not wait for a batch of updates, nor short ones for a long one.
    reader: SqlitePool,
    health: Health,
}

/// What its writes say about the host.
#[derive(Debug, Clone)]
struct Health {
    faults: Faults,
    /// The file's directory.
    dir: PathBuf,
}

impl Health {
    /// Tells how a write went. SQLite says "I/O error" to many things: the directory is asked then.
    async fn note(&self, written: Result<(), &Refusal>) {
        let Err(refusal) = written else { return self.faults.clear(&Place::Database) };
        let error = DatabaseError::from(refusal);
        let Some(mut fault) = error.fault() else { return };
        if fault == Fault::StorageFailed {
            let dir = self.dir.clone();
            let probed = blocking(move || crate::room::try_to_write(&dir)).await;
            if let Ok(Err(error)) = probed {
                fault = fault_of_io(&error);
            }
        }
        self.faults.count(match fault {
            Fault::DatabaseLocked => Counter::DatabaseBusy,
            Fault::DiskFull => Counter::DatabaseFull,
            Fault::ReadOnly => Counter::DatabaseReadOnly,
            _ => Counter::DatabaseOther,
        });
        self.faults.raise(Place::Database, fault, &crate::driver::error_chain(&error));
    }
}

impl DatabaseFile {
    /// Opens the file, makes it (0600) if missing, checks it and brings its schema up to date. Call it
    /// on the runtime on which the actor will run.
    ///
    /// # Errors
    /// A damaged, foreign or newer file, or one that cannot be written; the file is not changed then.
    pub async fn open(path: &Path, faults: Faults) -> Result<Self, DatabaseError> {
        // SQLite gives its other files the same mode.
        std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| DatabaseError::Create { path: path.to_owned(), source })?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        // One connection: this actor is the only writer, and its statements are in order. It stays, whatever the
        // host lacks by then.
        let one = || {
            let options = SqlitePoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
            options.acquire_timeout(ACQUIRE_TIMEOUT)
        };
        let pool = one().connect_with(options.clone()).await.map_err(|source| refusal(path, source))?;
        if let Some(detail) = queries::quick_check(&pool).await.map_err(|source| refusal(path, source))? {
            return Err(DatabaseError::Corrupted { path: path.to_owned(), detail });
        }
        match sqlx::migrate!("../migrations").run(&pool).await {
            Ok(()) => {
                let reader = one().max_connections(READERS).connect_with(options.pragma("query_only", "ON")).await;
                let reader = reader.map_err(|source| refusal(path, source))?;
                let health = Health { faults, dir: path.parent().unwrap_or(path).to_owned() };
                Ok(Self { writer: pool, reader, health })
            }
            Err(MigrateError::VersionMissing(version)) => Err(DatabaseError::Newer { path: path.to_owned(), version }),
            Err(MigrateError::Execute(source)) => Err(refusal(path, source)),
            Err(source) => Err(DatabaseError::Migrate { path: path.to_owned(), source }),
        }
    }
}

/// The database actor.
pub struct Database {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing_panic::Bomb,
    pub(super) writer: SqlitePool,
    pub(super) reader: SqlitePool,
    health: Health,
    pending: VecDeque<Pending>,
    writing: bool,
    /// What health checks said and no batch has written yet.
    pub(super) latest_health: LatestHealth,
    /// Changes when there may be new events.
    pub(super) events: watch::Sender<()>,
}

impl Database {
    /// An actor on a file of its own, see [`DatabaseFile::open`].
    ///
    /// # Errors
    /// See there.
    pub async fn open(path: &Path) -> Result<Self, DatabaseError> {
        Ok(Self::on(DatabaseFile::open(path, Faults::default()).await?))
    }

    /// An actor on an open file.
    pub fn on(file: DatabaseFile) -> Self {
        Self {
            #[cfg(feature = "testing")]
            bomb: crate::testing_panic::Bomb::new(crate::testing_panic::ActorKind::Database),
            writer: file.writer,
            reader: file.reader,
            health: file.health,
            pending: VecDeque::new(),
            writing: false,
            latest_health: LatestHealth::default(),
            events: watch::Sender::new(()),
        }
    }

    /// Hosts an actor on `arbiter`, where the file was opened, and another one whenever it panicked: what
    /// had not been answered is sent again by whoever waits for it, and recorded once.
    pub fn keep_running(
        file: DatabaseFile,
        arbiter: ArbiterHandle,
        intensity: RestartIntensity,
        on_restart: impl FnMut() + 'static,
    ) -> ActorRef<Self> {
        keep_running(arbiter, intensity, move |_| Self::on(file.clone()), on_restart)
    }

    /// Whether [`Database::open`] would find a file of its own version, or none; changes nothing.
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
        let version = queries::schema_version(&pool).await.map_err(|source| refusal(path, source));
        pool.close().await;
        let known = sqlx::migrate!("../migrations").iter().map(|migration| migration.version).max();
        match version? {
            Some(version) if known.is_none_or(|known| version > known) => {
                Err(DatabaseError::Newer { path: path.to_owned(), version })
            }
            _ => Ok(()),
        }
    }

    /// Takes what is pending, up to one batch, and writes it; then goes on while there is more.
    pub(super) fn write_pending(&mut self, ctx: &mut Context<Self>) {
        if self.writing || (self.pending.is_empty() && !self.latest_health.has_news()) {
            return;
        }
        self.writing = true;
        // Times are about to be written down.
        self.health.faults.look_at_clock();
        let mut batch = Batch::default();
        for pending in self.pending.drain(..BATCH.min(self.pending.len())) {
            batch.push(pending);
        }
        let health = self.latest_health.all();
        batch.push_health(health.clone());
        let (pool, noted) = (self.writer.clone(), self.health.clone());
        // Goes on to its end if this actor dies meanwhile: its transaction is never left half done. It is
        // observed here, and by the next actor's flush.
        let written = tokio::spawn(async move { batch.write(&pool).await });
        let write = async move {
            let written = written.await.unwrap_or(Ok(()));
            noted.note(written.as_ref().copied()).await;
            written
        };
        ctx.spawn(write.into_actor(self).map(move |written, this, ctx| {
            this.writing = false;
            match written {
                Ok(()) => {
                    this.latest_health.written(&health);
                    this.events.send_replace(());
                    this.write_pending(ctx);
                }
                // Those who came meanwhile waited for the same thing.
                Err(refusal) => this.pending.drain(..).for_each(|pending| pending.refuse(&refusal)),
            }
        }));
    }

    pub(super) fn wait_for<T: 'static>(
        &mut self,
        pending: impl FnOnce(Reply<T>) -> Pending,
        ctx: &mut Context<Self>,
    ) -> Answer<T> {
        let (reply, answer) = oneshot::channel();
        self.pending.push_back(pending(reply));
        self.write_pending(ctx);
        Box::pin(async move { answer.await.unwrap_or(Err(DatabaseError::Ended)) }.into_actor(self))
    }

    /// A question. What was answered as durable before is in its answer.
    pub(super) fn read<T: 'static, F>(&self, query: impl FnOnce(SqlitePool) -> F) -> Answer<T>
    where
        F: Future<Output = Result<T, DatabaseError>> + 'static,
    {
        Box::pin(query(self.reader.clone()).into_actor(self))
    }
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

#[cfg(feature = "testing")]
crate::testing_panic::takes_panics!(Database);

impl Actor for Database {
    type Context = Context<Self>;

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }
}
