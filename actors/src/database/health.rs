//! Health: what each sandbox's check said last. It is known at once, and written with what is written next.

use std::collections::HashMap;

use actix::{Handler, Message};
use sandpen_types::health::HealthState;
use sandpen_types::row::{SandboxId, SandboxRow};
use serde::Serialize;
use sqlx::SqliteConnection;

use super::DatabaseError;
use super::actor::Database;
use super::sql::{sql, unreadable};

/// Keeps what a health check says of a sandbox's current start. Nobody waits for it: questions are answered with it
/// at once, and it is durable with what is written next, soon if it is news. What a check says next replaces it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Message)]
#[rtype(result = "()")]
pub struct RecordHealth {
    /// Which sandbox.
    pub sandbox: SandboxId,
    /// Which start; nothing happens when there is a later one.
    pub generation: u64,
    /// What.
    pub health: HealthState,
    /// Whether its status is another one than before: worth a commit of its own.
    pub is_news: bool,
}

impl Handler<RecordHealth> for Database {
    type Result = ();

    fn handle(&mut self, record: RecordHealth, ctx: &mut Self::Context) {
        if self.latest_health.put(record) {
            self.write_pending(ctx);
        }
    }
}

/// What health checks said last and no batch has written yet: one value for each sandbox, however often its check
/// runs.
#[derive(Debug, Default)]
pub(super) struct LatestHealth(HashMap<SandboxId, RecordHealth>);

impl LatestHealth {
    /// Takes the place of what the check said before. News stay news until they are written; answers whether it is.
    pub(super) fn put(&mut self, mut record: RecordHealth) -> bool {
        if let Some(before) = self.0.get(&record.sandbox) {
            if before.generation > record.generation {
                return false;
            }
            record.is_news |= before.is_news && before.generation == record.generation;
        }
        let is_news = record.is_news;
        self.0.insert(record.sandbox, record);
        is_news
    }

    /// Whether one of them is worth a commit of its own.
    pub(super) fn has_news(&self) -> bool {
        self.0.values().any(|record| record.is_news)
    }

    /// For the next batch. They stay here until they are written.
    pub(super) fn all(&self) -> Vec<RecordHealth> {
        self.0.values().cloned().collect()
    }

    /// Forgets what was written, unless something newer has come meanwhile.
    pub(super) fn written(&mut self, written: &[RecordHealth]) {
        for record in written {
            if self.0.get(&record.sandbox) == Some(record) {
                self.0.remove(&record.sandbox);
            }
        }
    }

    /// A sandbox that is being removed.
    pub(super) fn forget(&mut self, sandbox: SandboxId) {
        self.0.remove(&sandbox);
    }

    /// Brings a row that was read up to date.
    pub(super) fn apply(&self, row: &mut SandboxRow) {
        if let Some(record) = self.0.get(&row.id)
            && record.generation == row.generation
        {
            row.health = Some(record.health.clone());
        }
    }
}

/// Keeps what health checks say, with one statement; a later start has no use for it.
pub(super) async fn record(connection: &mut SqliteConnection, batch: &[RecordHealth]) -> Result<(), DatabaseError> {
    let json = serde_json::to_string(batch).map_err(|error| unreadable(0, "health", &error))?;
    sqlx::query(
        "UPDATE sandboxes SET health = said.value -> 'health' FROM json_each(?1) AS said
         WHERE sandboxes.id = said.value ->> 'sandbox' AND sandboxes.generation = said.value ->> 'generation'",
    )
    .bind(json)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("recording the health of sandboxes"))
}
