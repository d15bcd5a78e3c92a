//! What was removed is gone from the files too: a specification holds the values of an environment.
//!
//! SQLite overwrites what is deleted (`secure_delete`), in its log first, where the states before it stand until the
//! log is written back and cut. That costs two writes to the disk, so it is done once for all that is removed within a
//! [moment](PAUSES), and after a start, for what an orchestrator that died had not got to.
//!
//! ```text
//!   nothing to do ── a row removed, a specification replaced ─▶ due ─ pause ─▶ log cut ─▶ nothing to do
//!                                                                ▲               │ somebody reads an older state
//!                                                                └───────────────┘
//! ```

use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, WrapFuture as _};
use sandpen_types::backoff::Pauses;
use sqlx::SqlitePool;

use super::actor::Database;
use super::file::BUSY_TIMEOUT;

/// From a removal to the end of what it leaves, and from one try to the next where another program reads.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(500), Duration::from_mins(1));

/// What is to be done.
#[derive(Debug, Default)]
pub(super) struct Erasure {
    /// Something was removed since the log was cut last.
    is_due: bool,
    is_scheduled: bool,
    failures: u32,
}

impl Database {
    /// Cuts the log soon, once for everybody who asks until then.
    pub(super) fn erase_soon(&mut self, ctx: &mut Context<Self>) {
        self.erasure.is_due = true;
        if std::mem::replace(&mut self.erasure.is_scheduled, true) {
            return;
        }
        ctx.run_later(PAUSES.after(self.erasure.failures + 1), |this, ctx| {
            this.erasure.is_due = false;
            let writer = this.writer.clone();
            // To its end, whatever becomes of this actor: the connection's settings are put back.
            let cut = tokio::spawn(async move { cut_log(&writer).await });
            ctx.spawn(cut.into_actor(this).map(|cut, this, ctx| {
                this.erasure.is_scheduled = false;
                match cut {
                    Ok(Ok(true)) => this.erasure.failures = 0,
                    cut => {
                        tracing::debug!(?cut, "what was removed is still in SQLite's log");
                        this.erasure.failures = this.erasure.failures.saturating_add(1);
                        this.erasure.is_due = true;
                    }
                }
                if this.erasure.is_due {
                    this.erase_soon(ctx);
                }
            }));
        });
    }
}

/// Writes SQLite's log back into the file and cuts it; false where somebody reads an older state. Waits for nobody.
async fn cut_log(writer: &SqlitePool) -> Result<bool, sqlx::Error> {
    let mut connection = writer.acquire().await?;
    sqlx::query("PRAGMA busy_timeout = 0").execute(&mut *connection).await?;
    let cut = sqlx::query_scalar::<_, i64>("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *connection).await;
    let again = format!("PRAGMA busy_timeout = {}", BUSY_TIMEOUT.as_millis());
    sqlx::query(sqlx::AssertSqlSafe(again)).execute(&mut *connection).await?;
    // The first column: whether it was kept from it.
    Ok(cut? == 0)
}
