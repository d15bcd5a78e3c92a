//! What goes between SQLite's columns and types.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};
use sandpen_types::row::SandboxId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

use super::DatabaseError;

pub(super) fn sql(action: &'static str) -> impl Fn(sqlx::Error) -> DatabaseError {
    move |source| DatabaseError::Sql { action, source: Arc::new(source) }
}

/// RFC 3339 in UTC with microseconds: sorts as text, reads well in the `sqlite3` shell.
pub(super) fn time_text(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Micros, true)
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

pub(super) fn optional_number<T: TryFrom<i64>>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<Option<T>, DatabaseError> {
    let number: Option<i64> = column(row, name)?;
    number
        .map(|number| T::try_from(number).map_err(|_| unreadable(id, name, &format!("{number} is out of range"))))
        .transpose()
}

pub(super) fn json<T: serde::de::DeserializeOwned>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<T, DatabaseError> {
    let text: String = column(row, name)?;
    serde_json::from_str(&text).map_err(|error| unreadable(id, name, &error))
}

pub(super) fn optional_json<T: serde::de::DeserializeOwned>(
    id: SandboxId,
    row: &SqliteRow,
    name: &'static str,
) -> Result<Option<T>, DatabaseError> {
    let text: Option<String> = column(row, name)?;
    text.map(|text| serde_json::from_str(&text).map_err(|error| unreadable(id, name, &error))).transpose()
}

pub(super) fn time(id: SandboxId, row: &SqliteRow, name: &'static str) -> Result<Option<DateTime<Utc>>, DatabaseError> {
    let text: Option<String> = column(row, name)?;
    let parse = |text: String| DateTime::parse_from_rfc3339(&text).map(|at| at.to_utc());
    text.map(|text| parse(text).map_err(|error| unreadable(id, name, &error))).transpose()
}
