//! Jobs: one row for each, until it is one of the oldest ended ones, or its sandbox is removed.
//!
//! ```text
//!   AddJob ─▶ (asked for) ─ MarkJobBegun ─▶ running ─ EndJob, or its sandbox's end (by trigger: gone) ─▶ ended ─┐
//!                 └── no guest ever had it ──────────────────────────────────────────────────────── RemoveJobs ◀┘
//! ```

use actix::{Handler, Message};
use chrono::{DateTime, TimeDelta, Utc};
use sandpen_types::job::JobInfo;
use sandpen_types::row::SandboxId;
use sandpen_types::session::{SessionEnd, SessionId};
use sqlx::sqlite::SqliteRow;
use sqlx::{SqliteConnection, SqlitePool};

use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::sql::{column, number, optional_json, sql, time, time_text, unreadable};
use super::{DatabaseError, transitions};

/// A job on record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which.
    pub id: SessionId,
    /// What it runs.
    pub label: String,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has a standard input that can be written to.
    pub stdin: bool,
    /// When it was asked for.
    pub asked_at: DateTime<Utc>,
    /// Whether a guest has said that it has it.
    pub is_begun: bool,
    /// When its end was heard of, and the end.
    pub ended: Option<(DateTime<Utc>, SessionEnd)>,
}

impl JobRow {
    /// The same for everybody, of a job that has written so many bytes.
    pub fn info(self, bytes: u64) -> JobInfo {
        let Self { id, label, terminal, stdin, asked_at, ended, .. } = self;
        let (ended_at, end) = ended.unzip();
        JobInfo { id, label, asked_at, terminal, stdin, bytes, ended_at, end }
    }
}

/// Puts a job that is asked for on record. One that is there stays as it is.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct AddJob(pub JobRow);

/// A guest has it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct MarkJobBegun {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which.
    pub id: SessionId,
}

/// Its end. The first one counts, and of one that is not there nothing.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct EndJob {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which.
    pub id: SessionId,
    /// When it was heard of. On record it is never before an end of before, as where the clock was set back.
    pub at: DateTime<Utc>,
    /// How it ended.
    pub end: SessionEnd,
}

/// Forgets jobs of a sandbox; their logs are gone.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RemoveJobs {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which.
    pub ids: Vec<SessionId>,
}

/// One job of a sandbox; `None` when there is no such row.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Option<JobRow>, DatabaseError>")]
pub struct GetJob {
    /// Whose.
    pub sandbox: SandboxId,
    /// Which.
    pub id: SessionId,
}

/// The jobs of a sandbox that can be read, oldest first.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<JobRow>, DatabaseError>")]
pub struct ListJobs(pub SandboxId);

/// What is written of one.
#[derive(Debug)]
pub(super) enum JobWrite {
    Add(JobRow),
    Begun(MarkJobBegun),
    End(EndJob),
    Remove(RemoveJobs),
}

impl JobWrite {
    /// What an error means for who asked.
    pub(super) fn refusal(&self, error: DatabaseError) -> DatabaseError {
        match self {
            Self::Add(row) if transitions::is_foreign_key_violation(&error) => {
                DatabaseError::UnknownSandbox { sandbox: row.sandbox }
            }
            _ => error,
        }
    }
}

impl Database {
    fn write_job(&mut self, job: JobWrite, ctx: &mut actix::Context<Self>) -> Answer<()> {
        self.wait_for(|reply| Pending::Job(Box::new(Asked::new(job, reply))), ctx)
    }
}

impl Handler<AddJob> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, AddJob(row): AddJob, ctx: &mut Self::Context) -> Self::Result {
        self.write_job(JobWrite::Add(row), ctx)
    }
}

impl Handler<MarkJobBegun> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, begun: MarkJobBegun, ctx: &mut Self::Context) -> Self::Result {
        self.write_job(JobWrite::Begun(begun), ctx)
    }
}

impl Handler<EndJob> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, end: EndJob, ctx: &mut Self::Context) -> Self::Result {
        self.write_job(JobWrite::End(end), ctx)
    }
}

impl Handler<RemoveJobs> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, jobs: RemoveJobs, ctx: &mut Self::Context) -> Self::Result {
        self.write_job(JobWrite::Remove(jobs), ctx)
    }
}

impl Handler<GetJob> for Database {
    type Result = Answer<Option<JobRow>>;

    fn handle(&mut self, GetJob { sandbox, id }: GetJob, _: &mut Self::Context) -> Self::Result {
        self.read(move |pool| async move { get(&pool, sandbox, id).await })
    }
}

impl Handler<ListJobs> for Database {
    type Result = Answer<Vec<JobRow>>;

    fn handle(&mut self, ListJobs(sandbox): ListJobs, _: &mut Self::Context) -> Self::Result {
        self.read(move |pool| async move { list(&pool, sandbox).await })
    }
}

/// As a part of a transaction.
pub(super) async fn write(connection: &mut SqliteConnection, job: &JobWrite) -> Result<(), DatabaseError> {
    match job {
        JobWrite::Add(row) => {
            let added = sqlx::query(
                "INSERT INTO jobs (sandbox_id, id, label, terminal, stdin, asked_at, is_begun)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (sandbox_id, id) DO NOTHING",
            );
            let added = added.bind(row.sandbox).bind(row.id.to_string()).bind(&row.label).bind(row.terminal);
            let added = added.bind(row.stdin).bind(time_text(row.asked_at)).bind(row.is_begun);
            added.execute(connection).await.map(drop).map_err(sql("recording a job"))
        }
        JobWrite::Begun(MarkJobBegun { sandbox, id }) => {
            let begun = sqlx::query("UPDATE jobs SET is_begun = 1 WHERE sandbox_id = ?1 AND id = ?2");
            let begun = begun.bind(sandbox).bind(id.to_string()).execute(connection).await;
            begun.map(drop).map_err(sql("recording the begin of a job"))
        }
        JobWrite::End(EndJob { sandbox, id, at, end }) => {
            let how = serde_json::to_string(end).map_err(|error| unreadable(*sandbox, "how", &error))?;
            let at = after_all(connection, *sandbox, *at).await?;
            let ended = sqlx::query(
                "UPDATE jobs SET ended_at = ?3, how = ?4 WHERE sandbox_id = ?1 AND id = ?2 AND ended_at IS NULL",
            );
            let ended = ended.bind(sandbox).bind(id.to_string()).bind(time_text(at)).bind(how);
            ended.execute(connection).await.map(drop).map_err(sql("recording the end of a job"))
        }
        JobWrite::Remove(RemoveJobs { sandbox, ids }) => {
            let ids = ids.iter().map(ToString::to_string).collect::<serde_json::Value>().to_string();
            let removed =
                sqlx::query("DELETE FROM jobs WHERE sandbox_id = ?1 AND id IN (SELECT value FROM json_each(?2))");
            let removed = removed.bind(sandbox).bind(ids).execute(connection).await;
            removed.map(drop).map_err(sql("forgetting jobs"))
        }
    }
}

/// A time for an end: after those of all that have ended, whatever the clock says. Of the oldest the logs go first.
async fn after_all(
    connection: &mut SqliteConnection,
    sandbox: SandboxId,
    at: DateTime<Utc>,
) -> Result<DateTime<Utc>, DatabaseError> {
    let latest = sqlx::query("SELECT max(ended_at) AS ended_at FROM jobs WHERE sandbox_id = ?1").bind(sandbox);
    let latest = latest.fetch_one(connection).await.map_err(sql("reading the latest end of a job"))?;
    // One that cannot be read keeps no end off the record.
    let latest = time(sandbox, &latest, "ended_at").unwrap_or_default();
    let next = latest.and_then(|latest| latest.checked_add_signed(TimeDelta::microseconds(1)));
    Ok(next.map_or(at, |next| at.max(next)))
}

async fn get(pool: &SqlitePool, sandbox: SandboxId, id: SessionId) -> Result<Option<JobRow>, DatabaseError> {
    let row = sqlx::query("SELECT * FROM jobs WHERE sandbox_id = ?1 AND id = ?2").bind(sandbox).bind(id.to_string());
    let row = row.fetch_optional(pool).await.map_err(sql("reading a job"))?;
    row.as_ref().map(decode).transpose()
}

/// A row that cannot be read is left out and told in the log: it must not hide all others.
async fn list(pool: &SqlitePool, sandbox: SandboxId) -> Result<Vec<JobRow>, DatabaseError> {
    let rows = sqlx::query("SELECT * FROM jobs WHERE sandbox_id = ?1 ORDER BY asked_at, id").bind(sandbox);
    let rows = rows.fetch_all(pool).await.map_err(sql("listing jobs"))?;
    let readable = rows.iter().filter_map(|row| match decode(row) {
        Ok(row) => Some(row),
        Err(error) => {
            tracing::error!(%error, "a job is left out of the list");
            None
        }
    });
    Ok(readable.collect())
}

fn decode(row: &SqliteRow) -> Result<JobRow, DatabaseError> {
    let sandbox: SandboxId = column(row, "sandbox_id")?;
    let id: String = column(row, "id")?;
    let flag = |name| Ok::<_, DatabaseError>(number::<u8>(sandbox, row, name)? != 0);
    Ok(JobRow {
        sandbox,
        id: id.parse().map_err(|error| unreadable(sandbox, "id of a job", &error))?,
        label: column(row, "label")?,
        terminal: flag("terminal")?,
        stdin: flag("stdin")?,
        asked_at: time(sandbox, row, "asked_at")?.unwrap_or_default(),
        is_begun: flag("is_begun")?,
        ended: time(sandbox, row, "ended_at")?.zip(optional_json(sandbox, row, "how")?),
    })
}
