//! The actor: gathers updates, writes them in batches, answers all.

use std::collections::VecDeque;
use std::path::Path;

use actix::{
    Actor, ActorFutureExt as _, ArbiterHandle, AsyncContext as _, Context, ResponseActFuture, WrapFuture as _,
};
use sqlx::SqlitePool;
use tokio::sync::{oneshot, watch};

use super::batch::{Batch, Pending, Reply};
use super::erase::Erasure;
use super::health::LatestHealth;
use super::write_faults::WriteFaults;
use super::{DatabaseError, DatabaseFile, retention};
use crate::runtime::actor_ref::{ActorRef, keep_running};
use crate::runtime::intensity::RestartIntensity;
use crate::telemetry::faults::Faults;

/// Updates of one statement. At about 1 KiB of JSON each, far below SQLite's limits, and enough that
/// one commit is shared by all that wait.
const BATCH: usize = 1000;
pub(super) type Answer<T> = ResponseActFuture<Database, Result<T, DatabaseError>>;

/// The database actor.
pub struct Database {
    #[cfg(feature = "testing")]
    pub(super) bomb: crate::testing::panic::Bomb,
    pub(super) writer: SqlitePool,
    pub(super) reader: SqlitePool,
    faults: WriteFaults,
    pending: VecDeque<Pending>,
    writing: bool,
    pub(super) erasure: Erasure,
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
            bomb: crate::testing::panic::Bomb::new(crate::testing::panic::ActorKind::Database),
            writer: file.writer,
            reader: file.reader,
            faults: file.faults,
            pending: VecDeque::new(),
            writing: false,
            erasure: Erasure::default(),
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

    /// Takes what is pending, up to one batch, and writes it; then goes on while there is more.
    pub(super) fn write_pending(&mut self, ctx: &mut Context<Self>) {
        if self.writing || (self.pending.is_empty() && !self.latest_health.has_news()) {
            return;
        }
        self.writing = true;
        self.faults.look_at_clock();
        let mut batch = Batch::default();
        for pending in self.pending.drain(..BATCH.min(self.pending.len())) {
            batch.push(pending);
        }
        let health = self.latest_health.all();
        batch.push_health(health.clone());
        let (pool, noted) = (self.writer.clone(), self.faults.clone());
        // Goes on to its end if this actor dies meanwhile: its transaction is never left half done. It is
        // observed here, and by the next actor's flush.
        let written = tokio::spawn(async move { batch.write(&pool).await });
        let write = async move {
            let written = written.await.unwrap_or(Ok(true));
            noted.note(written.as_ref().map(drop)).await;
            written
        };
        ctx.spawn(write.into_actor(self).map(move |written, this, ctx| {
            this.writing = false;
            match written {
                Ok(erases) => {
                    this.latest_health.written(&health);
                    this.events.send_replace(());
                    if erases {
                        this.erase_soon(ctx);
                    }
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

#[cfg(feature = "testing")]
crate::testing::panic::takes_panics!(Database);

impl Actor for Database {
    type Context = Context<Self>;

    /// Does, beside all else, what the one before had not got to, and drops what earlier versions kept too much of.
    fn started(&mut self, ctx: &mut Self::Context) {
        self.erase_soon(ctx);
        let (reader, writer) = (self.reader.clone(), self.writer.clone());
        ctx.spawn(async move { retention::drop_old_starts(&reader, &writer).await }.into_actor(self));
    }

    #[cfg(feature = "testing")]
    fn stopped(&mut self, _: &mut Self::Context) {
        self.bomb.stopped();
    }
}
