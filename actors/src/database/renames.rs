//! Sandboxes that get another name.
//!
//! ```text
//!   RenameSandbox: the row has the new name and knows the old one ─▶ its files move ─▶ FinishRename: it forgets that
//! ```

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

/// Gives a sandbox that is not live another name.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct RenameSandbox {
    /// Which.
    pub sandbox: SandboxId,
    /// The name, which no other one may have.
    pub to: SandboxKey,
}

/// All that has a name of a sandbox has the new one.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct FinishRename(pub SandboxId);

/// Renames that were not finished.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<UnfinishedRename>, DatabaseError>")]
pub struct ListUnfinishedRenames;

/// A rename whose files may not all have moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnfinishedRename {
    /// Whose.
    pub sandbox: SandboxId,
    /// The old name.
    pub from: SandboxKey,
    /// The new one.
    pub to: SandboxKey,
}

/// What is written of one.
#[derive(Debug)]
pub(super) enum Rename {
    Begin(RenameSandbox),
    Finish(SandboxId),
}

impl Handler<RenameSandbox> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, rename: RenameSandbox, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Rename(Box::new(Asked::new(Rename::Begin(rename), reply))), ctx)
    }
}

impl Handler<FinishRename> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, FinishRename(sandbox): FinishRename, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Rename(Box::new(Asked::new(Rename::Finish(sandbox), reply))), ctx)
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
        Rename::Begin(RenameSandbox { sandbox, to }) => begin(connection, *sandbox, to).await,
        Rename::Finish(sandbox) => {
            let done = sqlx::query("UPDATE sandboxes SET renamed_from = NULL WHERE id = ?1").bind(sandbox);
            done.execute(connection).await.map(drop).map_err(sql("finishing to rename a sandbox"))
        }
    }
}

async fn begin(connection: &mut SqliteConnection, sandbox: SandboxId, to: &SandboxKey) -> Result<(), DatabaseError> {
    let row = sandboxes::by_id(connection, sandbox).await?.ok_or(DatabaseError::UnknownSandbox { sandbox })?;
    // The message may have been sent again.
    if row.spec.key == *to {
        return Ok(());
    }
    let spec = SandboxSpec { key: to.clone(), ..(*row.spec).clone() };
    let spec = serde_json::to_string(&spec).map_err(|error| unreadable(sandbox, "spec", &error))?;
    let renamed = sqlx::query(concat!(
        "UPDATE sandboxes SET config_file = ?2, name = ?3, spec = ?4, updated_at = ?5, renamed_from = ?6
         WHERE id = ?1 AND status NOT IN ",
        active!(),
        " AND NOT EXISTS (SELECT 1 FROM sandboxes WHERE config_file = ?2 AND name = ?3)"
    ))
    .bind(sandbox)
    .bind(to.config.as_str())
    .bind(to.name.as_str())
    .bind(spec)
    .bind(time_text(Utc::now()))
    .bind(row.spec.key.to_string())
    .execute(connection)
    .await
    .map_err(sql("renaming a sandbox"))?;
    match renamed.rows_affected() {
        0 if row.state.is_live() => Err(DatabaseError::StillLive),
        0 => Err(DatabaseError::NameTaken { key: to.clone() }),
        _ => Ok(()),
    }
}

async fn unfinished(pool: &SqlitePool) -> Result<Vec<UnfinishedRename>, DatabaseError> {
    let rows = sqlx::query("SELECT id, config_file, name, renamed_from FROM sandboxes WHERE renamed_from IS NOT NULL");
    let rows = rows.fetch_all(pool).await.map_err(sql("reading renames"))?;
    let mut renames = Vec::new();
    for row in &rows {
        let (config, name): (String, String) = (column(row, "config_file")?, column(row, "name")?);
        let from: String = column(row, "renamed_from")?;
        // A name that is none has no files.
        if let (Ok(from), Ok(to)) = (from.parse(), format!("{config}/{name}").parse()) {
            renames.push(UnfinishedRename { sandbox: column(row, "id")?, from, to });
        }
    }
    Ok(renames)
}
