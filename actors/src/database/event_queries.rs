//! The SQL of events.

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqlitePool};

use super::queries::{column, json, number, sql, time, time_text, unreadable};
use super::{DatabaseError, EventPage, EventRecord, ListEvents, RecordEvent};
use crate::spec::{ConfigName, SandboxKey, SandboxName};

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
        let (kind, detail) = record.happening.columns()?;
        Ok(Self {
            at: time_text(record.at),
            config: record.sandbox.as_ref().map(|key| key.config.as_str()),
            name: record.sandbox.as_ref().map(|key| key.name.as_str()),
            kind,
            detail: RawValue::from_string(detail)?,
        })
    }
}

/// Records a whole batch with one statement.
pub(super) async fn record<'a>(
    connection: &mut SqliteConnection,
    batch: impl IntoIterator<Item = &'a RecordEvent>,
) -> Result<(), DatabaseError> {
    let rows: Result<Vec<_>, _> = batch.into_iter().map(EventJson::of).collect();
    let rows = rows.and_then(|rows| serde_json::to_string(&rows)).map_err(|error| unreadable(0, "detail", &error))?;
    sqlx::query(
        "INSERT INTO events (at, config_file, name, kind, detail)
         SELECT value ->> 'at', value ->> 'config', value ->> 'name', value ->> 'kind', value -> 'detail'
         FROM json_each(?1) ORDER BY key",
    )
    .bind(rows)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("recording events"))
}

/// The numbers of the oldest kept event and of the next one.
async fn bounds(pool: &SqlitePool) -> Result<(u64, u64), DatabaseError> {
    let row = sqlx::query(
        "SELECT (SELECT min(seq) FROM events) AS first,
                (SELECT seq FROM sqlite_sequence WHERE name = 'events') + 1 AS next",
    );
    let row = row.fetch_one(pool).await.map_err(sql("reading events"))?;
    let read = |name| -> Result<Option<u64>, DatabaseError> {
        let number: Option<i64> = column(&row, name)?;
        Ok(number.and_then(|number| u64::try_from(number).ok()))
    };
    let next = read("next")?.unwrap_or(1);
    Ok((read("first")?.unwrap_or(next), next))
}

pub(super) async fn list(pool: &SqlitePool, list: ListEvents) -> Result<EventPage, DatabaseError> {
    let ListEvents { from, sandbox, limit } = list;
    let limit = limit.max(1);
    // What is written from here on is the next page's.
    let (first, end) = bounds(pool).await?;
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
    let (first, _) = bounds(pool).await?;
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

fn decode(row: &SqliteRow) -> Result<EventRecord, DatabaseError> {
    let seq: i64 = row.try_get("seq").map_err(sql("decoding a row"))?;
    let (config, name): (Option<String>, Option<String>) = (column(row, "config_file")?, column(row, "name")?);
    let sandbox = match (config, name) {
        (Some(config), Some(name)) => Some(SandboxKey {
            config: ConfigName::new(config).map_err(|error| unreadable(seq, "config_file", &error))?,
            name: SandboxName::new(name).map_err(|error| unreadable(seq, "name", &error))?,
        }),
        _ => None,
    };
    Ok(EventRecord {
        seq: number(seq, row, "seq")?,
        at: time(seq, row, "at")?.unwrap_or_default(),
        sandbox,
        kind: column(row, "kind")?,
        detail: json(seq, row, "detail")?,
    })
}
