//! Waiting for everything that was sent before, and closing the file after it.

use actix::{ActorContext as _, ActorFutureExt as _, Handler, Message, WrapFuture as _};
use sqlx::SqlitePool;

use super::DatabaseError;
use super::actor::{Answer, Database};
use super::batch::Pending;
use super::sql::sql;

/// Answers when everything sent before is durable or has failed, whoever sent it: an actor that takes over from
/// another one sends it before it asks what is durable.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct Flush;

/// Writes everything out, closes the file and ends the actor; SQLite's own files beside it go then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct CloseDatabase;

impl Handler<Flush> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, _: Flush, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(Pending::Flush, ctx)
    }
}

impl Handler<CloseDatabase> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, _: CloseDatabase, ctx: &mut Self::Context) -> Self::Result {
        let (writer, reader) = (self.writer.clone(), self.reader.clone());
        let flushed = self.wait_for(Pending::Flush, ctx);
        Box::pin(
            flushed
                .then(|flushed, this, _| {
                    async move {
                        // The last one to close writes the log of SQLite back into the file.
                        reader.close().await;
                        writer.close().await;
                        flushed
                    }
                    .into_actor(this)
                })
                .map(|closed, _, ctx| {
                    ctx.stop();
                    closed
                }),
        )
    }
}

/// Returns when the connection that writes has done all that it was given before, also by an actor that ended
/// meanwhile.
pub(super) async fn wait_for_writer(pool: &SqlitePool) -> Result<(), DatabaseError> {
    sqlx::query("SELECT 1").execute(pool).await.map(drop).map_err(sql("waiting for the writes before"))
}
