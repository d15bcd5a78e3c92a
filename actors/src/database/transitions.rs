//! Transitions: each sandbox's history, append-only. A trigger projects each onto the sandbox's row; of each sandbox the
//! latest starts are kept ([`retention`](super::retention)).

use actix::{Handler, Message};
use sandpen_types::history::{HistoryCursor, HistoryPage};
use sandpen_types::row::SandboxId;
use sandpen_types::state::{ExitStatus, StoppedBy};
use sandpen_types::transition::Transition;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, SqlitePool};

use super::DatabaseError;
use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::sql::{column, json, number, optional_number, sql, time, time_text, unreadable};

/// One edge of the state machine, made durable. The same sandbox and number twice is recorded once.
#[derive(Debug, Clone, PartialEq, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RecordTransition(pub Transition);

/// A page of the history of one sandbox in order of `seq`; empty beyond its ends.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Transition>, DatabaseError>")]
pub struct ListTransitions {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which ones; never more than [`HistoryPage::MAX`].
    pub page: HistoryPage,
}

impl Handler<RecordTransition> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, RecordTransition(edge): RecordTransition, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Update(Box::new(Asked::new(edge, reply))), ctx)
    }
}

impl Handler<ListTransitions> for Database {
    type Result = Answer<Vec<Transition>>;

    fn handle(&mut self, list: ListTransitions, _: &mut Self::Context) -> Self::Result {
        self.read(move |pool| async move { self::list(&pool, list).await })
    }
}

/// A transition as the batch statement takes it.
#[derive(Serialize)]
struct TransitionJson<'a> {
    sandbox: SandboxId,
    seq: u64,
    generation: u64,
    event: &'a str,
    status: &'static str,
    state: Box<RawValue>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    failure_reason: Option<String>,
    at: String,
    microvm_pid: Option<u32>,
    supervisor_pid: u32,
    driver: Option<&'a str>,
    restarts: u32,
    stopped_by: Option<StoppedBy>,
    restarts_in_a_row: u32,
    boot_id: Option<&'a str>,
}

impl<'a> TransitionJson<'a> {
    fn of(record: &'a Transition) -> Result<Self, serde_json::Error> {
        let exit = record.state.exit();
        Ok(Self {
            sandbox: record.sandbox,
            seq: record.seq,
            generation: record.generation,
            event: &record.event,
            status: record.state.status().as_str(),
            state: serde_json::value::to_raw_value(&record.state)?,
            exit_code: exit.and_then(|exit| if let ExitStatus::Code(code) = exit { Some(code) } else { None }),
            exit_signal: exit.and_then(|exit| if let ExitStatus::Signal(signal) = exit { Some(signal) } else { None }),
            failure_reason: record.state.failure().map(ToString::to_string),
            at: time_text(record.at),
            microvm_pid: record.microvm_pid,
            supervisor_pid: record.supervisor_pid,
            driver: record.driver.as_deref(),
            restarts: record.restarts,
            stopped_by: record.stopped_by,
            restarts_in_a_row: record.restarts_in_a_row,
            boot_id: record.boot_id.as_deref(),
        })
    }
}

/// Records a whole batch with one statement: one hop to SQLite's thread, one commit. A number that
/// is there already is left as it is.
pub(super) async fn record<'a>(
    connection: &mut SqliteConnection,
    batch: impl IntoIterator<Item = &'a Transition>,
) -> Result<(), DatabaseError> {
    let rows: Result<Vec<_>, _> = batch.into_iter().map(TransitionJson::of).collect();
    let json = rows.and_then(|rows| serde_json::to_string(&rows)).map_err(|error| DatabaseError::Unreadable {
        sandbox: 0,
        column: "state",
        detail: error.to_string(),
    })?;
    sqlx::query(
        "INSERT INTO transitions (sandbox_id, seq, generation, event, status, state, exit_code, exit_signal,
                                  failure_reason, at, microvm_pid, supervisor_pid, driver, restarts,
                                  stopped_by, restarts_in_a_row, boot_id)
         SELECT value ->> 'sandbox', value ->> 'seq', value ->> 'generation', value ->> 'event', value ->> 'status',
                value -> 'state', value ->> 'exit_code', value ->> 'exit_signal', value ->> 'failure_reason',
                value ->> 'at', value ->> 'microvm_pid', value ->> 'supervisor_pid', value ->> 'driver',
                value ->> 'restarts', value ->> 'stopped_by', value ->> 'restarts_in_a_row', value ->> 'boot_id'
         FROM json_each(?1) WHERE true
         ON CONFLICT (sandbox_id, seq) DO NOTHING",
    )
    .bind(json)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("recording state changes"))
}

async fn list(pool: &SqlitePool, list: ListTransitions) -> Result<Vec<Transition>, DatabaseError> {
    let ListTransitions { sandbox, page: HistoryPage { cursor, limit } } = list;
    let (query, seq) = match cursor {
        HistoryCursor::After(seq) => {
            ("SELECT * FROM transitions WHERE sandbox_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3", seq)
        }
        HistoryCursor::Before(seq) => {
            ("SELECT * FROM transitions WHERE sandbox_id = ?1 AND seq < ?2 ORDER BY seq DESC LIMIT ?3", seq)
        }
    };
    let rows = sqlx::query(query)
        .bind(sandbox)
        .bind(i64::try_from(seq).unwrap_or(i64::MAX))
        .bind(i64::from(limit.min(HistoryPage::MAX)))
        .fetch_all(pool);
    let mut rows = rows.await.map_err(sql("reading the history of a sandbox"))?;
    if let HistoryCursor::Before(_) = cursor {
        rows.reverse();
    }
    let decoded = rows.iter().map(|row| {
        Ok(Transition {
            sandbox,
            seq: number(sandbox, row, "seq")?,
            generation: number(sandbox, row, "generation")?,
            event: column(row, "event")?,
            state: json(sandbox, row, "state")?,
            at: time(sandbox, row, "at")?.unwrap_or_default(),
            microvm_pid: optional_number(sandbox, row, "microvm_pid")?,
            supervisor_pid: number(sandbox, row, "supervisor_pid")?,
            driver: column(row, "driver")?,
            restarts: number(sandbox, row, "restarts")?,
            restarts_in_a_row: number(sandbox, row, "restarts_in_a_row")?,
            stopped_by: stopped_by(sandbox, row)?,
            boot_id: column(row, "boot_id")?,
        })
    });
    decoded.collect()
}

pub(super) fn stopped_by(id: SandboxId, row: &SqliteRow) -> Result<Option<StoppedBy>, DatabaseError> {
    let word: Option<String> = column(row, "stopped_by")?;
    let known = |word: &str| [StoppedBy::Request, StoppedBy::Shutdown].into_iter().find(|by| by.as_str() == word);
    word.map(|word| known(&word).ok_or_else(|| unreadable(id, "stopped_by", &word))).transpose()
}

/// Whether an error means that the sandbox of a transition is not there.
pub(super) fn is_foreign_key_violation(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::Sql { source, .. }
        if matches!(&**source, sqlx::Error::Database(cause) if cause.is_foreign_key_violation()))
}
