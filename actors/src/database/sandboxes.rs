//! Sandboxes: one row for each name, with the specification and state of its latest start.

use std::collections::HashMap;
use std::sync::Arc;

use actix::{ActorFutureExt as _, Handler, Message};
use chrono::{DateTime, Utc};
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName, SandboxSpec};
use sandpen_types::state::{Event, SandboxState};
use sandpen_types::transition::advance;
use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, SqliteExecutor, SqlitePool};

use super::DatabaseError;
use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::renames;
use super::sql::{column, json, number, optional_json, optional_number, sql, time, time_text, unreadable};
use super::transitions::{self, stopped_by};

/// The words of every active [`Status`](sandpen_types::state::Status), for a query's text.
macro_rules! active {
    () => {
        "('STARTING', 'RUNNING', 'STOPPING', 'BACKOFF')"
    };
}
pub(super) use active;

/// Makes the row, or puts the specification into it, and records the start request, both or neither: the row of an
/// ended sandbox is as it was until the next start is on record. Answers the row, which is STARTING. The same twice,
/// as after the death of the actor that had it, begins one start.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<SandboxRow, DatabaseError>")]
pub struct BeginStart {
    /// The specification.
    pub spec: Arc<SandboxSpec>,
    /// The supervisor's process.
    pub supervisor_pid: u32,
    /// The driver that was chosen.
    pub driver: String,
    /// The host's boot.
    pub boot_id: Option<String>,
    /// The sandbox that is started again, which goes on with its disk; without one, a new one of that name, or an ended
    /// one anew with an empty disk.
    pub again: Option<SandboxId>,
    /// When it was asked for. With the supervisor's process it tells this request from another one of the same
    /// sandbox.
    pub requested_at: DateTime<Utc>,
}

/// One sandbox by its key; `None` when there is no such row.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<Option<SandboxRow>, DatabaseError>")]
pub struct GetSandbox(pub SandboxKey);

/// All sandboxes, oldest first.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<SandboxRow>, DatabaseError>")]
pub struct ListSandboxes;

/// The same for who may take nothing for unused: it says how many rows cannot be read, and are not among these.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<EverySandbox, DatabaseError>")]
pub struct ListEverySandbox;

/// Answer of [`ListEverySandbox`].
#[derive(Debug)]
pub struct EverySandbox {
    /// Those that can be read, oldest first.
    pub rows: Vec<SandboxRow>,
    /// How many cannot.
    pub left_out: usize,
}

/// How many sandboxes there are of each state's word; states without any are left out.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<(String, u64)>, DatabaseError>")]
pub struct CountSandboxes;

/// The keys of all rows, those that cannot be read otherwise included, and whether they are live or in BACKOFF.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<HashMap<SandboxKey, bool>, DatabaseError>")]
pub struct ListKeys;

/// Removes the row of a sandbox that is not live, with its history.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RemoveSandbox(pub SandboxId);

impl Handler<BeginStart> for Database {
    type Result = Answer<SandboxRow>;

    fn handle(&mut self, begin: BeginStart, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Begin(Box::new(Asked::new(begin, reply))), ctx)
    }
}

impl Handler<GetSandbox> for Database {
    type Result = Answer<Option<SandboxRow>>;

    fn handle(&mut self, GetSandbox(key): GetSandbox, _: &mut Self::Context) -> Self::Result {
        let row = self.read(|pool| async move { get(&pool, &key).await });
        Box::pin(row.map(|row, this, _| {
            let mut row = row?;
            if let Some(row) = &mut row {
                this.latest_health.apply(row);
            }
            Ok(row)
        }))
    }
}

impl Handler<ListSandboxes> for Database {
    type Result = Answer<Vec<SandboxRow>>;

    fn handle(&mut self, _: ListSandboxes, _: &mut Self::Context) -> Self::Result {
        let every = self.read(|pool| async move { list(&pool).await });
        Box::pin(every.map(|every, this, _| {
            let mut rows = every?.rows;
            for row in &mut rows {
                this.latest_health.apply(row);
            }
            Ok(rows)
        }))
    }
}

impl Handler<ListEverySandbox> for Database {
    type Result = Answer<EverySandbox>;

    fn handle(&mut self, _: ListEverySandbox, _: &mut Self::Context) -> Self::Result {
        let every = self.read(|pool| async move { list(&pool).await });
        Box::pin(every.map(|every, this, _| {
            let mut every = every?;
            for row in &mut every.rows {
                this.latest_health.apply(row);
            }
            Ok(every)
        }))
    }
}

impl Handler<CountSandboxes> for Database {
    type Result = Answer<Vec<(String, u64)>>;

    fn handle(&mut self, _: CountSandboxes, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { count(&pool).await })
    }
}

impl Handler<ListKeys> for Database {
    type Result = Answer<HashMap<SandboxKey, bool>>;

    fn handle(&mut self, _: ListKeys, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { list_keys(&pool).await })
    }
}

impl Handler<RemoveSandbox> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, RemoveSandbox(sandbox): RemoveSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.latest_health.forget(sandbox);
        self.wait_for(|reply| Pending::Remove(Asked::new(sandbox, reply)), ctx)
    }
}

/// Makes the row of a sandbox (state CREATED), or puts a new specification into the row of one that is not live.
pub(super) async fn upsert(
    connection: &mut SqliteConnection,
    spec: &SandboxSpec,
    supervisor_pid: u32,
    keeps_disk: bool,
) -> Result<SandboxRow, DatabaseError> {
    let unreadable = |error: serde_json::Error| unreadable(0, "spec", &error);
    let spec_json = serde_json::to_string(spec).map_err(unreadable)?;
    let created = serde_json::to_string(&SandboxState::Created).map_err(unreadable)?;
    let rows = sqlx::query(concat!(
        "INSERT INTO sandboxes (config_file, name, config_last_modified, supervisor_pid, rootfs_paths, state, spec,
                                created_at, updated_at, keeps_disk)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8, ?9)
         ON CONFLICT (config_file, name) DO UPDATE SET
             config_last_modified = excluded.config_last_modified, supervisor_pid = excluded.supervisor_pid,
             rootfs_paths = excluded.rootfs_paths, spec = excluded.spec, updated_at = excluded.updated_at,
             keeps_disk = excluded.keeps_disk
         WHERE status NOT IN ",
        active!(),
        " RETURNING *"
    ))
    .bind(spec.key.config.as_str())
    .bind(spec.key.name.as_str())
    .bind(spec.config_last_modified.map(time_text))
    .bind(i64::from(supervisor_pid))
    .bind(spec.rootfs.to_text())
    .bind(created)
    .bind(spec_json)
    .bind(time_text(Utc::now()))
    .bind(keeps_disk)
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
    BeginStart { spec, supervisor_pid, driver, boot_id, again, requested_at }: &BeginStart,
) -> Result<SandboxRow, DatabaseError> {
    let owner = renames::owner(connection, &spec.key).await?;
    if let Some(sandbox) = again.filter(|sandbox| owner != Some(*sandbox)) {
        // Renamed or removed meanwhile.
        return Err(DatabaseError::UnknownSandbox { sandbox });
    }
    let mut row = match upsert(connection, spec, *supervisor_pid, again.is_some()).await {
        Err(DatabaseError::StillLive) => {
            let live = get(&mut *connection, &spec.key).await?;
            let is_this_request = |row: &SandboxRow| {
                row.state == SandboxState::Starting
                    && row.supervisor_pid == *supervisor_pid
                    && time_text(row.updated_at) == time_text(*requested_at)
            };
            return live.filter(is_this_request).ok_or(DatabaseError::StillLive);
        }
        upserted => upserted?,
    };
    row.driver = Some(driver.clone());
    row.supervisor_pid = *supervisor_pid;
    row.boot_id.clone_from(boot_id);
    // The row is not live, so there is this edge.
    let step = advance(&row, &Event::StartRequested, *requested_at, None).ok().flatten();
    let (row, record) = step.ok_or(DatabaseError::StillLive)?;
    transitions::record(connection, [&record]).await?;
    Ok(row)
}

async fn get<'a>(pool: impl SqliteExecutor<'a>, key: &SandboxKey) -> Result<Option<SandboxRow>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE config_file = ?1 AND name = ?2")
        .bind(key.config.as_str())
        .bind(key.name.as_str())
        .fetch_optional(pool)
        .await
        .map_err(sql("reading a sandbox"))?;
    row.as_ref().map(decode).transpose()
}

/// The row of this number.
pub(super) async fn by_id(
    connection: &mut SqliteConnection,
    sandbox: SandboxId,
) -> Result<Option<SandboxRow>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM sandboxes WHERE id = ?1").bind(sandbox).fetch_optional(connection).await;
    row.map_err(sql("reading a sandbox"))?.as_ref().map(decode).transpose()
}

/// A row that cannot be read is left out and told in the log: it must not hide all others.
async fn list(pool: &SqlitePool) -> Result<EverySandbox, DatabaseError> {
    let rows = sqlx::query("SELECT * FROM sandboxes ORDER BY id").fetch_all(pool).await;
    let mut every = EverySandbox { rows: Vec::new(), left_out: 0 };
    for row in rows.map_err(sql("reading all sandboxes"))? {
        match decode(&row) {
            Ok(row) => every.rows.push(row),
            Err(error) => {
                tracing::error!(%error, "a sandbox is left out of the list");
                every.left_out += 1;
            }
        }
    }
    Ok(every)
}

async fn count(pool: &SqlitePool) -> Result<Vec<(String, u64)>, DatabaseError> {
    let rows = sqlx::query("SELECT status, count(*) AS count FROM sandboxes GROUP BY status").fetch_all(pool).await;
    let rows = rows.map_err(sql("counting the sandboxes"))?;
    rows.iter().map(|row| Ok((column(row, "status")?, number(0, row, "count")?))).collect()
}

/// From the columns alone. A key that is not one has no files either.
async fn list_keys(pool: &SqlitePool) -> Result<HashMap<SandboxKey, bool>, DatabaseError> {
    let rows = sqlx::query(concat!("SELECT config_file, name, status IN ", active!(), " AS active FROM sandboxes"))
        .fetch_all(pool)
        .await
        .map_err(sql("reading the names of all sandboxes"))?;
    let mut keys = HashMap::new();
    for row in &rows {
        let (config, name): (String, String) = (column(row, "config_file")?, column(row, "name")?);
        if let (Ok(config), Ok(name)) = (ConfigName::new(config), SandboxName::new(name)) {
            keys.insert(SandboxKey { config, name }, column(row, "active")?);
        }
    }
    Ok(keys)
}

/// Removes a row that is not live, with its history (by the foreign key). One that is not there is
/// removed already: the message may have been sent again.
pub(super) async fn remove(connection: &mut SqliteConnection, sandbox: SandboxId) -> Result<(), DatabaseError> {
    let removed = sqlx::query(concat!("DELETE FROM sandboxes WHERE id = ?1 AND status NOT IN ", active!()))
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
        keeps_disk: number::<u8>(id, row, "keeps_disk")? != 0,
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

#[cfg(test)]
mod tests {
    use sandpen_types::state::Status;

    #[test]
    fn queries_have_the_words_of_the_active() {
        let words = Status::ALL.into_iter().filter(|status| status.is_active()).map(|status| format!("'{status}'"));
        assert_eq!(active!(), format!("({})", words.collect::<Vec<_>>().join(", ")));
    }
}
