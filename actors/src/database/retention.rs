//! What is kept of the past: bounds that no guest can widen, in the triggers of `0005_bounds.sql`.
//!
//! ```text
//!   a start    ─▶ its row's generation grows ─▶ trigger: the oldest starts beyond STARTS_KEPT go, four at most
//!   an event   ─▶ trigger: the oldest one of the same sandbox, or of no sandbox, or of all sandboxes goes
//!   the actor  ─▶ started: histories of before that are longer, by bites, beside its work
//! ```

use sandpen_types::error_chain::error_chain;
use sandpen_types::row::SandboxId;
use sqlx::SqlitePool;

use super::DatabaseError;
use super::sql::sql;

/// So many starts (generations) of each sandbox are kept, with all of their transitions, whether or not they are live.
pub const STARTS_KEPT: u64 = 100;
/// So many events of all sandboxes are kept, removed ones included. At some 400 bytes each about 40 MB.
pub const EVENTS_KEPT: u64 = 100_000;
/// So many of them at most are one sandbox's: what it does evicts nobody else's.
pub const EVENTS_KEPT_OF_SANDBOX: u64 = 1000;
/// So many events that are of no sandbox are kept.
pub const OWN_EVENTS_KEPT: u64 = 10_000;

/// Starts that are dropped in one transaction. Each has some five transitions: a few milliseconds, in which nobody
/// else can write.
const BITE: i64 = 200;

/// Drops what the triggers would take long for: histories of before there were bounds. Each bite waits for the
/// connection that writes as everybody does. A host that cannot write ends it; the next actor goes on.
pub(super) async fn drop_old_starts(reader: &SqlitePool, writer: &SqlitePool) {
    let dropped = async {
        let mut transitions = 0;
        for sandbox in too_long(reader).await? {
            loop {
                match drop_bite(writer, sandbox).await? {
                    0 => break,
                    rows => transitions += rows,
                }
            }
        }
        Ok::<_, DatabaseError>(transitions)
    };
    match dropped.await {
        Ok(0) => {}
        Ok(transitions) => tracing::info!(transitions, "old histories were cut to the latest {STARTS_KEPT} starts"),
        Err(error) => tracing::warn!(error = error_chain(&error), "old histories could not be cut yet"),
    }
}

/// The sandboxes whose oldest start is to go.
async fn too_long(reader: &SqlitePool) -> Result<Vec<SandboxId>, DatabaseError> {
    sqlx::query_scalar(
        "SELECT id FROM sandboxes
         WHERE (SELECT generation FROM transitions WHERE sandbox_id = id ORDER BY seq LIMIT 1) <= generation - ?1",
    )
    .bind(kept())
    .fetch_all(reader)
    .await
    .map_err(sql("looking for old histories"))
}

/// Drops the oldest starts of a sandbox; answers how many transitions went.
async fn drop_bite(writer: &SqlitePool, sandbox: SandboxId) -> Result<u64, DatabaseError> {
    let dropped = sqlx::query(
        "DELETE FROM transitions
         WHERE sandbox_id = ?1
           AND seq < (SELECT seq FROM transitions
                      WHERE sandbox_id = ?1
                        AND (generation > (SELECT generation FROM sandboxes WHERE id = ?1) - ?2
                             OR generation >= ?3 + (SELECT generation FROM transitions WHERE sandbox_id = ?1 ORDER BY seq LIMIT 1))
                      ORDER BY seq LIMIT 1)",
    );
    let dropped = dropped.bind(sandbox).bind(kept()).bind(BITE).execute(writer).await;
    Ok(dropped.map_err(sql("cutting an old history"))?.rows_affected())
}

fn kept() -> i64 {
    i64::try_from(STARTS_KEPT).unwrap_or(i64::MAX)
}
