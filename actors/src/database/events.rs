//! Events: everything that happened, in one order, for whoever looks on.
//!
//! Transitions and removals of sandboxes come here by trigger, in the statement that makes them
//! true; what is told of the orchestrator itself is recorded with [`RecordEvent`]. A
//! reader asks for pages from a number on and is woken by [`WatchEvents`]: it reads the table, so that a slow one
//! holds up nobody, and is told of what went meanwhile ([`retention`](super::retention)).

use actix::{Handler, Message, MessageResult};
use sandpen_types::event::{EventKind, StoredEvent};
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};
use tokio::sync::watch;

use super::DatabaseError;
use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::sql::{column, json, number, sql, time, time_text, unreadable};
use crate::telemetry::outbox::NewEvent;

/// What was recorded before its actor's death comes again before so many others.
const SENT_AGAIN_WITHIN: i64 = 1000;

/// Records what happened; it is durable when this is answered. The same twice is recorded once.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RecordEvent(pub NewEvent);

impl RecordEvent {
    /// Something that happens now.
    pub fn now(sandbox: Option<SandboxKey>, kind: EventKind) -> Self {
        Self(NewEvent::now(sandbox, kind))
    }
}

/// A page of events in order. Where some between two of all events are no longer kept, numbers are missing; of one
/// sandbox none are left out in silence.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<EventPage, DatabaseError>")]
pub struct ListEvents {
    /// The first number; `None` for the oldest that is kept.
    pub from: Option<u64>,
    /// Only those of this sandbox.
    pub sandbox: Option<SandboxKey>,
    /// At most so many.
    pub limit: u32,
}

/// Answer of [`ListEvents`].
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// The events.
    pub events: Vec<StoredEvent>,
    /// Where the next page begins.
    pub next: u64,
    /// Whether there was nothing beyond this page when it was read.
    pub is_last: bool,
}

/// The process that the guest's kernel ended for lack of memory in this start of a sandbox, if that was told.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<String>, DatabaseError>")]
pub struct GetOutOfMemory {
    /// Which sandbox.
    pub sandbox: SandboxKey,
    /// Which start.
    pub generation: u64,
}

/// Resolves to a channel that changes whenever there may be new events. It ends with the database
/// actor; ask again then.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "watch::Receiver<()>")]
pub struct WatchEvents;

impl Handler<RecordEvent> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, event: RecordEvent, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Event(Box::new(Asked::new(event, reply))), ctx)
    }
}

impl Handler<ListEvents> for Database {
    type Result = Answer<EventPage>;

    fn handle(&mut self, list: ListEvents, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { self::list(&pool, list).await })
    }
}

impl Handler<GetOutOfMemory> for Database {
    type Result = Answer<Option<String>>;

    fn handle(&mut self, asked: GetOutOfMemory, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { out_of_memory(&pool, &asked).await })
    }
}

impl Handler<WatchEvents> for Database {
    type Result = MessageResult<WatchEvents>;

    fn handle(&mut self, _: WatchEvents, _: &mut Self::Context) -> Self::Result {
        MessageResult(self.events.subscribe())
    }
}

async fn out_of_memory(pool: &SqlitePool, asked: &GetOutOfMemory) -> Result<Option<String>, DatabaseError> {
    let row = sqlx::query(
        "SELECT detail ->> 'process' AS process FROM events
         WHERE config_file = ?1 AND name = ?2 AND kind = 'out_of_memory' AND detail ->> 'generation' = ?3
         ORDER BY seq DESC LIMIT 1",
    )
    .bind(asked.sandbox.config.as_str())
    .bind(asked.sandbox.name.as_str())
    .bind(i64::try_from(asked.generation).unwrap_or(i64::MAX))
    .fetch_optional(pool)
    .await
    .map_err(sql("reading an event"))?;
    row.as_ref().map(|row| column(row, "process")).transpose()
}

/// An event as the batch statement takes it.
#[derive(Serialize)]
struct EventJson<'a> {
    at: String,
    config: Option<&'a str>,
    name: Option<&'a str>,
    kind: String,
    detail: Box<RawValue>,
}

impl<'a> EventJson<'a> {
    fn of(RecordEvent(record): &'a RecordEvent) -> Result<Self, serde_json::Error> {
        let (kind, detail) = record.kind.columns()?;
        Ok(Self {
            at: time_text(record.at),
            config: record.sandbox.as_ref().map(|key| key.config.as_str()),
            name: record.sandbox.as_ref().map(|key| key.name.as_str()),
            kind,
            detail: RawValue::from_string(detail)?,
        })
    }
}

/// Records a whole batch with one statement. The same at the same microsecond is the same message, which was sent again
/// after the death of the actor that had it.
pub(super) async fn record<'a>(
    connection: &mut SqliteConnection,
    batch: impl IntoIterator<Item = &'a RecordEvent>,
) -> Result<(), DatabaseError> {
    let rows: Result<Vec<_>, _> = batch.into_iter().map(EventJson::of).collect();
    let rows = rows.and_then(|rows| serde_json::to_string(&rows)).map_err(|error| unreadable(0, "detail", &error))?;
    // Each of the two looks has an index of its own: without, every event would be compared with all that are looked at.
    sqlx::query(
        "WITH new AS MATERIALIZED (SELECT key, value ->> 'at' AS at, value ->> 'config' AS config, value ->> 'name' AS name,
                                          value ->> 'kind' AS kind, value -> 'detail' AS detail
                                   FROM json_each(?1)),
              since AS MATERIALIZED (SELECT coalesce(max(seq), 0) - ?2 AS seq FROM events)
         INSERT INTO events (at, config_file, name, kind, detail)
         SELECT at, config, name, kind, detail FROM new
         WHERE NOT EXISTS (SELECT 1 FROM events known
                           WHERE known.name IS NOT NULL AND known.config_file = new.config AND known.name = new.name
                             AND known.seq > (SELECT seq FROM since) AND known.at = new.at AND known.kind = new.kind
                             AND known.detail = new.detail)
           AND (new.name IS NOT NULL
                OR NOT EXISTS (SELECT 1 FROM events known
                               WHERE known.name IS NULL AND known.seq > (SELECT seq FROM since) AND known.at = new.at
                                 AND known.kind = new.kind AND known.detail = new.detail))
         ORDER BY key",
    )
    .bind(rows)
    .bind(SENT_AGAIN_WITHIN)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("recording events"))
}

/// The first number from which on all of a sandbox's events are kept, or where `scope` is none that of the oldest event
/// of all, and the number of the next one.
async fn bounds(pool: &SqlitePool, scope: Option<&str>) -> Result<(u64, u64), DatabaseError> {
    let row = sqlx::query(
        "SELECT CASE WHEN ?1 IS NULL THEN (SELECT min(seq) FROM events)
                     ELSE (SELECT max(gone) + 1 FROM event_counts WHERE scope IN (?1, 'sandboxes')) END AS first,
                (SELECT seq FROM sqlite_sequence WHERE name = 'events') + 1 AS next",
    );
    let row = row.bind(scope).fetch_one(pool).await.map_err(sql("reading events"))?;
    let read = |name| -> Result<Option<u64>, DatabaseError> {
        let number: Option<i64> = column(&row, name)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let next = read("next")?.unwrap_or(1);
    Ok((read("first")?.unwrap_or(next), next))
}

async fn list(pool: &SqlitePool, list: ListEvents) -> Result<EventPage, DatabaseError> {
    let ListEvents { from, sandbox, limit } = list;
    let limit = limit.max(1);
    let scope = sandbox.as_ref().map(ToString::to_string);
    // What is written from here on is the next page's.
    let (first, end) = bounds(pool, scope.as_deref()).await?;
    let from = from.unwrap_or(first);
    if from > end {
        return Err(DatabaseError::EventsAhead { from, next: end });
    }
    let (config, name) = sandbox.map(|key| (key.config.to_string(), key.name.to_string())).unzip();
    let rows = sqlx::query(match name {
        Some(_) => {
            "SELECT * FROM events WHERE config_file = ?3 AND name = ?4 AND seq >= ?1 AND seq < ?2
             ORDER BY seq LIMIT ?5"
        }
        None => "SELECT * FROM events WHERE seq >= ?1 AND seq < ?2 AND ?3 IS NULL AND ?4 IS NULL ORDER BY seq LIMIT ?5",
    });
    let rows = rows
        .bind(i64::try_from(from).unwrap_or(i64::MAX))
        .bind(i64::try_from(end).unwrap_or(i64::MAX))
        .bind(config)
        .bind(name)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await
        .map_err(sql("reading events"))?;
    // Not before: what went while we read must not go unnoticed.
    let (first, _) = bounds(pool, scope.as_deref()).await?;
    if from < first {
        return Err(DatabaseError::EventsGone { from, first });
    }
    let events: Vec<_> = rows.iter().map(decode).collect::<Result<_, _>>()?;
    let is_last = events.len() < usize::try_from(limit).unwrap_or(usize::MAX);
    let next = match events.last() {
        Some(event) if !is_last => event.seq + 1,
        _ => end,
    };
    Ok(EventPage { events, next, is_last })
}

fn decode(row: &SqliteRow) -> Result<StoredEvent, DatabaseError> {
    let seq: i64 = row.try_get("seq").map_err(sql("decoding a row"))?;
    let (config, name): (Option<String>, Option<String>) = (column(row, "config_file")?, column(row, "name")?);
    let sandbox = match (config, name) {
        (Some(config), Some(name)) => Some(SandboxKey {
            config: ConfigName::new(config).map_err(|error| unreadable(seq, "config_file", &error))?,
            name: SandboxName::new(name).map_err(|error| unreadable(seq, "name", &error))?,
        }),
        _ => None,
    };
    Ok(StoredEvent {
        seq: number(seq, row, "seq")?,
        at: time(seq, row, "at")?.unwrap_or_default(),
        sandbox,
        kind: column(row, "kind")?,
        detail: json(seq, row, "detail")?,
    })
}
