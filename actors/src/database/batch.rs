//! What is written together: one transaction for everything that waits, one commit, one answer for each.
//!
//! ```text
//!   one kind waits ───▶ one statement ─┬ written ───────────────────────────────────▶ all answered
//!                                      └ a row's fault ─┐
//!   several kinds wait ────────────────▶ transaction ───┴▶ step by step; where a row is at
//!                                            │             fault, row by row ─ commit ─▶ all answered
//!                                            └ the host's fault ─ rolled back ─▶ all refused, at once
//! ```
//!
//! Row by row is for what a row can cause. A locked, full or read-only file refuses each row for the same
//! reason, and each one would wait for the lock again.

use std::sync::Arc;

use sandpen_types::error_chain::error_chain;
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::transition::Transition;
use sqlx::{SqliteConnection, SqlitePool};
use tokio::sync::oneshot;

use super::jobs::{self, JobWrite};
use super::renames::{self, Rename};
use super::{
    BeginStart, DatabaseError, ImageRow, RecordEvent, RecordHealth, events, flush, health, images, sandboxes,
    transitions,
};

/// Where an answer goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, DatabaseError>>;

/// Something to write, and what came of it.
#[derive(Debug)]
pub(super) struct Asked<M, T> {
    what: M,
    reply: Reply<T>,
    done: Option<Result<T, DatabaseError>>,
}

impl<M, T> Asked<M, T> {
    pub(super) fn new(what: M, reply: Reply<T>) -> Self {
        Self { what, reply, done: None }
    }

    fn answer(self, refusal: Option<&Refusal>) {
        let answer = match refusal {
            Some(refusal) => Err(refusal.into()),
            None => self.done.unwrap_or(Err(DatabaseError::Ended)),
        };
        // A sender that went away does not take its update with it.
        let _ = self.reply.send(answer);
    }
}

/// Something that waits to be written, in its place in the queue.
#[derive(Debug)]
pub(super) enum Pending {
    Update(Box<Asked<Transition, ()>>),
    Event(Box<Asked<RecordEvent, ()>>),
    Begin(Box<Asked<BeginStart, SandboxRow>>),
    Remove(Asked<SandboxId, ()>),
    Rename(Box<Asked<Rename, ()>>),
    Images(Asked<Vec<ImageRow>, ()>),
    Job(Box<Asked<JobWrite, ()>>),
    Flush(Reply<()>),
}

impl Pending {
    /// Answers what is not tried any more, for the reason that refused what was before it. A flush only asks
    /// that nothing is on its way.
    pub(super) fn refuse(self, refusal: &Refusal) {
        match self {
            Self::Update(asked) => asked.answer(Some(refusal)),
            Self::Event(asked) => asked.answer(Some(refusal)),
            Self::Begin(asked) => asked.answer(Some(refusal)),
            Self::Remove(asked) => asked.answer(Some(refusal)),
            Self::Rename(asked) => asked.answer(Some(refusal)),
            Self::Images(asked) => asked.answer(Some(refusal)),
            Self::Job(asked) => asked.answer(Some(refusal)),
            Self::Flush(reply) => drop(reply.send(Ok(()))),
        }
    }
}

/// Why the host writes nothing now.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    action: &'static str,
    source: Arc<sqlx::Error>,
}

impl From<&Refusal> for DatabaseError {
    fn from(Refusal { action, source }: &Refusal) -> Self {
        Self::Sql { action, source: source.clone() }
    }
}

/// Tells what one row has caused from what the host has.
fn of_one_row(error: DatabaseError) -> Result<DatabaseError, Refusal> {
    match error {
        DatabaseError::Sql { action, source } if !is_of_one_row(&source) => Err(Refusal { action, source }),
        error => Ok(error),
    }
}

fn is_of_one_row(error: &sqlx::Error) -> bool {
    match error {
        // SQLITE_TOOBIG, CONSTRAINT, MISMATCH; the low byte of extended ones.
        sqlx::Error::Database(cause) => cause
            .code()
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| (18..=20).contains(&(code & 0xff))),
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => false,
        _ => true,
    }
}

/// Neighbours of one kind.
#[derive(Debug)]
enum Step {
    Updates(Vec<Asked<Transition, ()>>),
    Events(Vec<Asked<RecordEvent, ()>>),
    Begin(Box<Asked<BeginStart, SandboxRow>>),
    Remove(Asked<SandboxId, ()>),
    Rename(Box<Asked<Rename, ()>>),
    Images(Asked<Vec<ImageRow>, ()>),
    Job(Box<Asked<JobWrite, ()>>),
    /// Nobody waits for it.
    Health(Vec<RecordHealth>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Batch {
    steps: Vec<Step>,
    flushes: Vec<Reply<()>>,
}

impl Batch {
    /// Takes one more, after all that was taken before.
    pub(super) fn push(&mut self, pending: Pending) {
        match (self.steps.last_mut(), pending) {
            (Some(Step::Updates(all)), Pending::Update(asked)) => all.push(*asked),
            (Some(Step::Events(all)), Pending::Event(asked)) => all.push(*asked),
            (_, Pending::Update(asked)) => self.steps.push(Step::Updates(vec![*asked])),
            (_, Pending::Event(asked)) => self.steps.push(Step::Events(vec![*asked])),
            (_, Pending::Begin(asked)) => self.steps.push(Step::Begin(asked)),
            (_, Pending::Remove(asked)) => self.steps.push(Step::Remove(asked)),
            (_, Pending::Rename(asked)) => self.steps.push(Step::Rename(asked)),
            (_, Pending::Images(asked)) => self.steps.push(Step::Images(asked)),
            (_, Pending::Job(asked)) => self.steps.push(Step::Job(asked)),
            (_, Pending::Flush(reply)) => self.flushes.push(reply),
        }
    }

    /// Takes along what health checks said since the last batch.
    pub(super) fn push_health(&mut self, health: Vec<RecordHealth>) {
        if !health.is_empty() {
            self.steps.push(Step::Health(health));
        }
    }

    /// Writes all of it and answers everybody. Whether rows were removed, or what stood in them.
    ///
    /// # Errors
    /// The host's refusal, which everybody has got already.
    pub(super) async fn write(mut self, pool: &SqlitePool) -> Result<bool, Refusal> {
        let written = match self.steps.is_empty() {
            true => Ok(()),
            false => write(pool, &mut self.steps).await,
        };
        let refusal = written.as_ref().err();
        let erases = self.steps.iter().any(Step::erases);
        for step in self.steps {
            match step {
                Step::Updates(all) => all.into_iter().for_each(|asked| asked.answer(refusal)),
                Step::Events(all) => all.into_iter().for_each(|asked| asked.answer(refusal)),
                Step::Begin(asked) => asked.answer(refusal),
                Step::Remove(asked) => asked.answer(refusal),
                Step::Rename(asked) => asked.answer(refusal),
                Step::Images(asked) => asked.answer(refusal),
                Step::Job(asked) => asked.answer(refusal),
                Step::Health(_) => {}
            }
        }
        for reply in self.flushes {
            let _ = reply.send(flush::wait_for_writer(pool).await);
        }
        written.map(|()| erases)
    }
}

// Not sqlx's `Transaction`: where SQLite has rolled back by itself (a full disk), sqlx takes the error of its own
// ROLLBACK for a transaction that goes on, and would begin none on this connection ever again.
async fn write(pool: &SqlitePool, steps: &mut [Step]) -> Result<(), Refusal> {
    let mut connection = pool
        .acquire()
        .await
        .map_err(|source| Refusal { action: "waiting for the connection that writes", source: Arc::new(source) })?;
    if let [step] = steps
        && step.write_whole(&mut connection).await?
    {
        return Ok(());
    }
    execute(&mut connection, "BEGIN IMMEDIATE", "beginning to write").await?;
    let mut written = Ok(());
    for step in steps {
        written = step.write(&mut connection).await;
        if written.is_err() {
            break;
        }
    }
    if written.is_ok() {
        written = execute(&mut connection, "COMMIT", "committing what was written").await;
    }
    if written.is_err() {
        // Some errors have done so already; then there is nothing to roll back, which SQLite calls an error.
        let _ = execute(&mut connection, "ROLLBACK", "taking back what was written").await;
    }
    written
}

async fn execute(
    connection: &mut SqliteConnection,
    statement: &'static str,
    action: &'static str,
) -> Result<(), Refusal> {
    let done = sqlx::query(statement).execute(connection).await;
    done.map(drop).map_err(|source| Refusal { action, source: Arc::new(source) })
}

impl Step {
    /// Whether it has removed a row, or what stood in it.
    fn erases(&self) -> bool {
        match self {
            Self::Begin(asked) => matches!(&asked.done, Some(Ok(row)) if row.generation > 1),
            Self::Remove(asked) => matches!(asked.done, Some(Ok(()))),
            Self::Job(asked) => matches!((&asked.what, &asked.done), (JobWrite::Remove(_), Some(Ok(())))),
            _ => false,
        }
    }

    /// All in one statement, a transaction by itself; `false` if this is not such a step or one of its rows is at
    /// fault, and nothing was written.
    async fn write_whole(&mut self, connection: &mut SqliteConnection) -> Result<bool, Refusal> {
        match self {
            Self::Updates(all) => {
                let written = transitions::record(connection, all.iter().map(|asked| &asked.what)).await;
                whole(all, written)
            }
            Self::Events(all) => {
                let written = events::record(connection, all.iter().map(|asked| &asked.what)).await;
                whole(all, written)
            }
            _ => Ok(false),
        }
    }

    /// As a part of a transaction.
    async fn write(&mut self, connection: &mut SqliteConnection) -> Result<(), Refusal> {
        if self.write_whole(connection).await? {
            return Ok(());
        }
        match self {
            Self::Updates(all) => {
                for asked in all {
                    let written = transitions::record(connection, [&asked.what]).await;
                    asked.done = Some(alone(written.map_err(|error| unknown_sandbox(error, asked.what.sandbox)))?);
                }
            }
            Self::Events(all) => {
                for asked in all {
                    asked.done = Some(alone(events::record(connection, [&asked.what]).await)?);
                }
            }
            Self::Begin(asked) => {
                // Two rows, both or neither, whatever else is in the transaction.
                execute(connection, "SAVEPOINT start", "beginning to write a start").await?;
                let begun = alone(sandboxes::begin_start(connection, &asked.what).await)?;
                if begun.is_err() {
                    execute(connection, "ROLLBACK TO start", "taking back a start").await?;
                }
                execute(connection, "RELEASE start", "writing a start").await?;
                asked.done = Some(begun);
            }
            Self::Remove(asked) => asked.done = Some(alone(sandboxes::remove(connection, asked.what).await)?),
            Self::Rename(asked) => asked.done = Some(alone(renames::write(connection, &asked.what).await)?),
            Self::Job(asked) => {
                let written = alone(jobs::write(connection, &asked.what).await)?;
                asked.done = Some(written.map_err(|error| asked.what.refusal(error)));
            }
            Self::Images(asked) => {
                // All that was there goes, and all that is there comes, or neither.
                execute(connection, "SAVEPOINT images", "beginning to write images").await?;
                let replaced = alone(images::replace(connection, &asked.what).await)?;
                if replaced.is_err() {
                    execute(connection, "ROLLBACK TO images", "taking back images").await?;
                }
                execute(connection, "RELEASE images", "writing images").await?;
                asked.done = Some(replaced);
            }
            Self::Health(all) => {
                if let Err(error) = alone(health::record(connection, all).await)? {
                    tracing::warn!(error = error_chain(&error), "health could not be recorded");
                }
            }
        }
        Ok(())
    }
}

fn unknown_sandbox(error: DatabaseError, sandbox: SandboxId) -> DatabaseError {
    match transitions::is_foreign_key_violation(&error) {
        true => DatabaseError::UnknownSandbox { sandbox },
        false => error,
    }
}

/// Notes what one statement for all has done: everything or nothing.
fn whole<M>(all: &mut [Asked<M, ()>], written: Result<(), DatabaseError>) -> Result<bool, Refusal> {
    if let Err(error) = written {
        of_one_row(error)?;
        return Ok(false);
    }
    for asked in all {
        asked.done = Some(Ok(()));
    }
    Ok(true)
}

fn alone<T>(written: Result<T, DatabaseError>) -> Result<Result<T, DatabaseError>, Refusal> {
    match written {
        Err(error) => of_one_row(error).map(Err),
        written => Ok(written),
    }
}
