//! Sandboxes that get another name.
//!
//! ```text
//!   PlanRename: the row knows what it will be called ─▶ its files get the new name too
//!     ─▶ RenameSandbox: the row has the new name, and knows the old one ─▶ its files lose the old one
//!     ─▶ ForgetRename
//! ```
//!
//! A name that a row will have or has had is nobody else's until that is forgotten.

use actix::{Handler, Message};
use chrono::Utc;
use sandpen_types::row::SandboxId;
use sandpen_types::spec::{SandboxKey, SandboxSpec};
use sqlx::{SqliteConnection, SqlitePool};

use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::sandboxes::active;
use super::sql::{column, sql, time_text, unreadable};
use super::{DatabaseError, sandboxes};

/// Writes down what a sandbox that is not live will be called; the name must be nobody's.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct PlanRename {
    /// Which.
    pub sandbox: SandboxId,
    /// The name.
    pub to: SandboxKey,
}

/// Gives a sandbox the name that was planned.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RenameSandbox {
    /// Which.
    pub sandbox: SandboxId,
    /// The name.
    pub to: SandboxKey,
}

/// Nothing of a sandbox has another name than its own any more.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct ForgetRename(pub SandboxId);

/// Sandboxes whose files may have another name too.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<UnfinishedRename>, DatabaseError>")]
pub struct ListUnfinishedRenames;

/// A sandbox whose files may have another name too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRename {
    /// Which.
    pub sandbox: SandboxId,
    /// Its name.
    pub key: SandboxKey,
    /// The other one, which nobody has.
    pub other: SandboxKey,
    /// Whether that is what it was to be called, under which there may be others' files; else it is the old name, under
    /// which all files are its own.
    pub is_planned: bool,
}

/// What is written of one.
#[derive(Debug)]
pub(super) enum Rename {
    Plan(PlanRename),
    Do(RenameSandbox),
    Forget(SandboxId),
}

impl Database {
    fn write_rename(&mut self, rename: Rename, ctx: &mut actix::Context<Self>) -> Answer<()> {
        self.wait_for(|reply| Pending::Rename(Box::new(Asked::new(rename, reply))), ctx)
    }
}

impl Handler<PlanRename> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, plan: PlanRename, ctx: &mut Self::Context) -> Self::Result {
        self.write_rename(Rename::Plan(plan), ctx)
    }
}

impl Handler<RenameSandbox> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, rename: RenameSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.write_rename(Rename::Do(rename), ctx)
    }
}

impl Handler<ForgetRename> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, ForgetRename(sandbox): ForgetRename, ctx: &mut Self::Context) -> Self::Result {
        self.write_rename(Rename::Forget(sandbox), ctx)
    }
}

impl Handler<ListUnfinishedRenames> for Database {
    type Result = Answer<Vec<UnfinishedRename>>;

    fn handle(&mut self, _: ListUnfinishedRenames, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { unfinished(&pool).await })
    }
}

pub(super) async fn write(connection: &mut SqliteConnection, rename: &Rename) -> Result<(), DatabaseError> {
    match rename {
        Rename::Plan(PlanRename { sandbox, to }) => plan(connection, *sandbox, to).await,
        Rename::Do(RenameSandbox { sandbox, to }) => rename_now(connection, *sandbox, to).await,
        Rename::Forget(sandbox) => {
            let forgotten = sqlx::query("UPDATE sandboxes SET renaming_to = NULL, renamed_from = NULL WHERE id = ?1");
            let forgotten = forgotten.bind(sandbox).execute(connection).await;
            forgotten.map(drop).map_err(sql("finishing to rename a sandbox"))
        }
    }
}

/// The sandbox of this name, which nobody else will have or has had.
///
/// # Errors
/// [`DatabaseError::NameReserved`].
pub(super) async fn owner(
    connection: &mut SqliteConnection,
    key: &SandboxKey,
) -> Result<Option<SandboxId>, DatabaseError> {
    let found: Vec<(SandboxId, bool)> = sqlx::query_as(
        "SELECT id, config_file = ?1 AND name = ?2 FROM sandboxes
         WHERE (config_file = ?1 AND name = ?2) OR renaming_to = ?3 OR renamed_from = ?3",
    )
    .bind(key.config.as_str())
    .bind(key.name.as_str())
    .bind(key.to_string())
    .fetch_all(connection)
    .await
    .map_err(sql("looking for a name"))?;
    match found.iter().all(|(_, has_it)| *has_it) {
        true => Ok(found.first().map(|(sandbox, _)| *sandbox)),
        false => Err(DatabaseError::NameReserved { key: key.clone() }),
    }
}

async fn plan(connection: &mut SqliteConnection, sandbox: SandboxId, to: &SandboxKey) -> Result<(), DatabaseError> {
    // The message may have been sent again.
    let known = sqlx::query("SELECT 1 FROM sandboxes WHERE id = ?1 AND renaming_to = ?2");
    let known = known.bind(sandbox).bind(to.to_string()).fetch_optional(&mut *connection).await;
    if known.map_err(sql("planning to rename a sandbox"))?.is_some() {
        return Ok(());
    }
    if owner(connection, to).await?.is_some() {
        return Err(DatabaseError::NameTaken { key: to.clone() });
    }
    let planned = sqlx::query(concat!(
        "UPDATE sandboxes SET renaming_to = ?2
         WHERE id = ?1 AND renamed_from IS NULL AND renaming_to IS NULL AND status NOT IN ",
        active!()
    ));
    let planned = planned.bind(sandbox).bind(to.to_string()).execute(connection).await;
    match planned.map_err(sql("planning to rename a sandbox"))?.rows_affected() {
        0 => Err(DatabaseError::StillLive),
        _ => Ok(()),
    }
}

async fn rename_now(
    connection: &mut SqliteConnection,
    sandbox: SandboxId,
    to: &SandboxKey,
) -> Result<(), DatabaseError> {
    let row = sandboxes::by_id(connection, sandbox).await?.ok_or(DatabaseError::UnknownSandbox { sandbox })?;
    // The message may have been sent again.
    if row.spec.key == *to {
        return Ok(());
    }
    let spec = SandboxSpec { key: to.clone(), ..(*row.spec).clone() };
    let spec = serde_json::to_string(&spec).map_err(|error| unreadable(sandbox, "spec", &error))?;
    let renamed = sqlx::query(concat!(
        "UPDATE sandboxes
         SET config_file = ?2, name = ?3, spec = ?4, updated_at = ?5, renamed_from = ?6, renaming_to = NULL
         WHERE id = ?1 AND renaming_to = ?7 AND status NOT IN ",
        active!(),
    ))
    .bind(sandbox)
    .bind(to.config.as_str())
    .bind(to.name.as_str())
    .bind(spec)
    .bind(time_text(Utc::now()))
    .bind(row.spec.key.to_string())
    .bind(to.to_string())
    .execute(connection)
    .await
    .map_err(sql("renaming a sandbox"))?;
    match renamed.rows_affected() {
        0 => Err(DatabaseError::StillLive),
        _ => Ok(()),
    }
}

async fn unfinished(pool: &SqlitePool) -> Result<Vec<UnfinishedRename>, DatabaseError> {
    let rows = sqlx::query(
        "SELECT id, config_file || '/' || name AS own, coalesce(renaming_to, renamed_from) AS other,
                renaming_to IS NOT NULL AS is_planned
         FROM sandboxes
         WHERE renaming_to IS NOT NULL OR renamed_from IS NOT NULL",
    );
    let rows = rows.fetch_all(pool).await.map_err(sql("reading renames"))?;
    let mut renames = Vec::new();
    for row in &rows {
        let (own, other): (String, String) = (column(row, "own")?, column(row, "other")?);
        // A name that is none has no files.
        if let (Ok(key), Ok(other)) = (own.parse(), other.parse()) {
            let (sandbox, is_planned) = (column(row, "id")?, column(row, "is_planned")?);
            renames.push(UnfinishedRename { sandbox, key, other, is_planned });
        }
    }
    Ok(renames)
}
