//! All SQL, and what goes between rows and types.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqliteConnection, SqliteExecutor, SqlitePool};

use super::{BeginStart, DatabaseError, RecordHealth, SandboxId, SandboxRow, UpsertSandbox};
use crate::spec::{ConfigName, SandboxKey, SandboxName};
use crate::state::{Event, ExitStatus, SandboxState, StoppedBy};
use crate::transition::{Transition, advance};

pub(super) fn sql(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError {
    move |source| DatabaseError::Sql { action, source: Arc::new(source) }
}

/// RFC 3339 in UTC with microseconds: sorts as text, reads well in the `sqlite3` shell.
pub(super) fn time_text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
}

/// The newest migration that the file has seen.
pub(super) async fn schema_version(pool: &SqlitePool) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(pool).await
}

/// `PRAGMA quick_check`: `None` when the file is sound.
pub(super) async fn quick_check(pool: &SqlitePool) -> Result<Option<String>, sqlx::Error> {
    let word: String = sqlx::query_scalar("PRAGMA quick_check(1)").fetch_one(pool).await?;
    Ok((word != "ok").then_some(word))
}

/// Returns when the connection that writes has done all that it was given before, also by an actor that ended
/// meanwhile.
pub(super) async fn wait_for_writer(pool: &SqlitePool) -> Result<(), DatabaseError> {
    sqlx::query("SELECT 1").execute(pool).await.map(drop).map_err(sql("waiting for the writes before"))
}

pub(super) async fn upsert(
    connection: &mut SqliteConnection,
    UpsertSandbox { spec, supervisor_pid }: &UpsertSandbox,
) -> Result<SandboxRow, DatabaseError> {
    let unreadable =
        |error: serde_json::Error| DatabaseError::Unreadable { sandbox: 0, column: "spec", detail: error.to_string() };
    let spec_json = serde_json::to_string(spec).map_err(unreadable)?;
    let created = serde_json::to_string(&SandboxState::Created).map_err(unreadable)?;
    let rows = sqlx::query(
        "INSERT INTO sandboxes (config_file, name, config_last_modified, supervisor_pid, rootfs_paths, state, spec,
                                created_at, updated_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)
         ON CONFLICT (config_file, name) DO UPDATE SET
             config_last_modified = excluded.config_last_modified, supervisor_pid = excluded.supervisor_pid,
             rootfs_paths = excluded.rootfs_paths, spec = excluded.spec, updated_at = excluded.updated_at
         WHERE status NOT IN ('STARTING', 'RUNNING', 'STOPPING', 'BACKOFF')
         RETURNING *",
    )
    .bind(spec.key.config.as_str())
    .bind(spec.key.name.as_str())
    .bind(spec.config_last_modified.map(time_text))
    .bind(i64::from(*supervisor_pid))
    .bind(spec.rootfs.to_text())
    .bind(created)
    .bind(spec_json)
    .bind(time_text(Utc::now()))
    // To its end: the row comes before the commit, whose error (a full disk) would be passed over.
    .fetch_all(connection)
    .await
    .map_err(sql("writing the row of a sandbox"))?;
    decode(rows.first().ok_or(DatabaseError::StillLive)?)
}

/// The row and its first transition; the caller's transaction makes both durable together. What is asked again
/// after it was written is answered with what was written.
pub(super) async fn begin_start(
    connection: &mut SqliteConnection,
    BeginStart { sandbox, driver, boot_id, requested_at }: &BeginStart,
) -> Result<SandboxRow, DatabaseError> {
    let mut row = match upsert(connection, sandbox).await {
        Err(DatabaseError::StillLive) => {
            let live = get(&mut *connection, &sandbox.spec.key).await?;
            let is_this_request = |row: &SandboxRow| {
                row.state == SandboxState::Starting
                    && row.supervisor_pid == sandbox.supervisor_pid
                    && time_text(row.updated_at) == time_text(*requested_at)
            };
            return live.filter(is_this_request).ok_or(DatabaseError::StillLive);
        }
        upserted => upserted?,
    };
    row.driver = Some(driver.clone());
    row.supervisor_pid = sandbox.supervisor_pid;
    row.boot_id.clone_from(boot_id);
    // The row is not live, so there is this edge.
    let step = advance(&row, &Event::StartRequested, *requested_at, None).ok().flatten();
    let (row, record) = step.ok_or(DatabaseError::StillLive)?;
    self::record(connection, [&record]).await?;
    Ok(row)
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

/// Whether an error means that the sandbox of a transition is not there.
pub(super) fn is_foreign_key_violation(error: &DatabaseError) -> bool {
    matches!(error, DatabaseError::Sql { source, .. }
        if matches!(&**source, sqlx::Error::Database(cause) if cause.is_foreign_key_violation()))
}

pub(super) async fn get<'a>(
    pool: impl SqliteExecutor<'a>,
    key: &SandboxKey,
) -> Result<Option<SandboxRow>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE config_file = ?1 AND name = ?2")
        .bind(key.config.as_str())
        .bind(key.name.as_str())
        .fetch_optional(pool)
        .await
        .map_err(sql("reading a sandbox"))?;
    row.as_ref().map(decode).transpose()
}

/// A row that cannot be read is left out and told in the log: it must not hide all others.
pub(super) async fn list(pool: &SqlitePool) -> Result<Vec<SandboxRow>, DatabaseError> {
    let rows = sqlx::query("SELECT * FROM sandboxes ORDER BY id").fetch_all(pool).await;
    let mut readable = Vec::new();
    for row in rows.map_err(sql("reading all sandboxes"))? {
        match decode(&row) {
            Ok(row) => readable.push(row),
            Err(error) => tracing::error!(%error, "a sandbox is left out of the list"),
        }
    }
    Ok(readable)
}

pub(super) async fn count_sandboxes(pool: &SqlitePool) -> Result<Vec<(String, u64)>, DatabaseError> {
    let rows = sqlx::query("SELECT status, count(*) AS count FROM sandboxes GROUP BY status").fetch_all(pool).await;
    let rows = rows.map_err(sql("counting the sandboxes"))?;
    rows.iter().map(|row| Ok((column(row, "status")?, number(0, row, "count")?))).collect()
}

/// From the columns alone. A key that is not one has no runtime directory either.
pub(super) async fn list_live_keys(pool: &SqlitePool) -> Result<Vec<SandboxKey>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT config_file, name FROM sandboxes WHERE status IN ('STARTING', 'RUNNING', 'STOPPING', 'BACKOFF')",
    )
    .fetch_all(pool)
    .await
    .map_err(sql("reading the live sandboxes"))?;
    let mut keys = Vec::new();
    for row in &rows {
        let (config, name): (String, String) = (column(row, "config_file")?, column(row, "name")?);
        if let (Ok(config), Ok(name)) = (ConfigName::new(config), SandboxName::new(name)) {
            keys.push(SandboxKey { config, name });
        }
    }
    Ok(keys)
}

pub(super) async fn list_transitions(pool: &SqlitePool, sandbox: SandboxId) -> Result<Vec<Transition>, DatabaseError> {
    let rows =
        sqlx::query("SELECT * FROM transitions WHERE sandbox_id = ?1 ORDER BY seq").bind(sandbox).fetch_all(pool);
    let rows = rows.await.map_err(sql("reading the history of a sandbox"))?;
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

/// Keeps what health checks say, with one statement; a later start has no use for it.
pub(super) async fn record_health(
    connection: &mut SqliteConnection,
    batch: &[RecordHealth],
) -> Result<(), DatabaseError> {
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

/// Removes a row that is not live, with its history (by the foreign key). One that is not there is
/// removed already: the message may have been sent again.
pub(super) async fn remove(connection: &mut SqliteConnection, sandbox: SandboxId) -> Result<(), DatabaseError> {
    let removed = sqlx::query(
        "DELETE FROM sandboxes WHERE id = ?1 AND status NOT IN ('STARTING', 'RUNNING', 'STOPPING', 'BACKOFF')",
    )
    .bind(sandbox)
    .execute(&mut *connection)
    .await
    .map_err(sql("removing a sandbox"))?;
    if removed.rows_affected() > 0 {
        return Ok(());
    }
    let exists = sqlx::query("SELECT 1 FROM sandboxes WHERE id = ?1").bind(sandbox).fetch_optional(connection).await;
    match exists.map_err(sql("removing a sandbox"))? {
        Some(_) => Err(DatabaseError::StillLive),
        None => Ok(()),
    }
}

fn decode(row: &SqliteRow) -> Result<SandboxRow, DatabaseError> {
    let id: SandboxId = column(row, "id")?;
    Ok(SandboxRow {
        id,
        spec: Arc::new(json(id, row, "spec")?),
        state: json(id, row, "state")?,
        seq: number(id, row, "seq")?,
        generation: number(id, row, "generation")?,
        restarts: number(id, row, "restarts")?,
        restarts_in_a_row: number(id, row, "restarts_in_a_row")?,
        stopped_by: stopped_by(id, row)?,
        health: optional_json(id, row, "health")?,
        boot_id: column(row, "boot_id")?,
        driver: column(row, "driver")?,
        microvm_pid: optional_number(id, row, "microvm_pid")?,
        supervisor_pid: number(id, row, "supervisor_pid")?,
        created_at: time(id, row, "created_at")?.unwrap_or_default(),
        started_at: time(id, row, "started_at")?,
        ended_at: time(id, row, "ended_at")?,
        updated_at: time(id, row, "updated_at")?.unwrap_or_default(),
    })
}

fn stopped_by(id: SandboxId, row: &SqliteRow) -> Result<Option<StoppedBy>, DatabaseError> {
    let word: Option<String> = column(row, "stopped_by")?;
    let known = |word: &str| [StoppedBy::Request, StoppedBy::Shutdown].into_iter().find(|by| by.as_str() == word);
    word.map(|word| known(&word).ok_or_else(|| unreadable(id, "stopped_by", &word))).transpose()
}

pub(super) fn column<'r, T>(row: &'r SqliteRow, name: &'static str) -> Result<T, DatabaseError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(name).map_err(sql("decoding a row"))
}

pub(super) fn unreadable(sandbox: SandboxId, column: &'static str, detail: &dyn ToString) -> DatabaseError {
    DatabaseError::Unreadable { sandbox, column, detail: detail.to_string() }
}

pub(super) fn number<T: TryFrom<i64>>(id: SandboxId, row: &SqliteRow, name: &'static str) -> Result<T, DatabaseError> {
    optional_number(id, row, name)?.ok_or_else(|| unreadable(id, name, &"no number"))
}

fn optional_number<T: TryFrom<i64>>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<Option<T>, DatabaseError> {
    let number: Option<i64> = column(row, name)?;
    number
        .map(|number| T::try_from(number).map_err(|_| unreadable(id, name, &format!("{number} is out of range"))))
        .transpose()
}

fn optional_json<T: serde::de::DeserializeOwned>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<Option<T>, DatabaseError> {
    let text: Option<String> = column(row, name)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(id, name, &error))).transpose()
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<T, DatabaseError> {
    let text: String = column(row, name)?;
    serde_json::from_str(&text).map_err(|error| unreadable(id, name, &error))
}

pub(super) fn time(id: SandboxId, row: &SqliteRow, name: &'static str) -> Result<Option<DateTime<Utc>>, DatabaseError> {
    let text: Option<String> = column(row, name)?;
    let parse = |text: String| DateTime::parse_from_rfc3339(&text).map(|at| at.to_utc());
    text.map(|text| parse(text).map_err(|error| unreadable(id, name, &error))).transpose()
}
