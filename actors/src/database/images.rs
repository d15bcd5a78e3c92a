//! Images: what was in the store when somebody looked last. The store is what counts; this is an index of it, written
//! anew as a whole.

use actix::{Handler, Message};
use chrono::{DateTime, Utc};
use sandpen_types::image::{ImageDigest, ImageReference};
use serde_json::json;
use sqlx::{SqliteConnection, SqlitePool};

use super::DatabaseError;
use super::actor::{Answer, Database};
use super::batch::{Asked, Pending};
use super::sql::{column, sql, time_text, unreadable};

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageRow {
    /// The digest of its configuration.
    pub digest: ImageDigest,
    /// Its names.
    pub names: Vec<ImageReference>,
    /// What it takes of the disk, in bytes.
    pub bytes: u64,
    /// When it was made, if it says so.
    pub created: Option<DateTime<Utc>>,
    /// When it came into the store.
    pub loaded: DateTime<Utc>,
    /// When a microVM last began to run from it.
    pub last_used: Option<DateTime<Utc>>,
}

/// These images are in the store, and no others.
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), DatabaseError>")]
pub struct ReplaceImages(pub Vec<ImageRow>);

/// What was in the store when it was looked at last, by digest.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<ImageRow>, DatabaseError>")]
pub struct ListImages;

impl Handler<ReplaceImages> for Database {
    type Result = Answer<()>;

    fn handle(&mut self, ReplaceImages(rows): ReplaceImages, ctx: &mut Self::Context) -> Self::Result {
        self.wait_for(|reply| Pending::Images(Asked::new(rows, reply)), ctx)
    }
}

impl Handler<ListImages> for Database {
    type Result = Answer<Vec<ImageRow>>;

    fn handle(&mut self, _: ListImages, _: &mut Self::Context) -> Self::Result {
        self.read(|pool| async move { list(&pool).await })
    }
}

/// As a part of a transaction.
pub(super) async fn replace(connection: &mut SqliteConnection, rows: &[ImageRow]) -> Result<(), DatabaseError> {
    let row = |row: &ImageRow| {
        json!({
            "digest": row.digest,
            "names": row.names,
            "bytes": i64::try_from(row.bytes).unwrap_or(i64::MAX),
            "created": row.created.map(time_text),
            "loaded": time_text(row.loaded),
            "last_used": row.last_used.map(time_text),
        })
    };
    let json = serde_json::Value::Array(rows.iter().map(row).collect()).to_string();
    sqlx::query("DELETE FROM images").execute(&mut *connection).await.map_err(sql("forgetting images"))?;
    sqlx::query(
        "INSERT INTO images (digest, names, bytes, created, loaded, last_used)
         SELECT value ->> 'digest', value -> 'names', value ->> 'bytes', value ->> 'created', value ->> 'loaded',
                value ->> 'last_used'
         FROM json_each(?1)",
    )
    .bind(json)
    .execute(connection)
    .await
    .map(drop)
    .map_err(sql("recording images"))
}

async fn list(pool: &SqlitePool) -> Result<Vec<ImageRow>, DatabaseError> {
    let rows = sqlx::query("SELECT digest, names, bytes, created, loaded, last_used FROM images ORDER BY digest");
    let rows = rows.fetch_all(pool).await.map_err(sql("listing images"))?;
    let read = |row: &sqlx::sqlite::SqliteRow| {
        // Of no sandbox.
        let refused = |name, detail: &dyn ToString| unreadable(0, name, detail);
        let time = |name| super::sql::time(0, row, name);
        let (digest, names): (String, String) = (column(row, "digest")?, column(row, "names")?);
        Ok(ImageRow {
            digest: digest.parse().map_err(|error| refused("digest", &error))?,
            names: serde_json::from_str(&names).map_err(|error| refused("names", &error))?,
            bytes: super::sql::number(0, row, "bytes")?,
            created: time("created")?,
            loaded: time("loaded")?.ok_or_else(|| refused("loaded", &"no time"))?,
            last_used: time("last_used")?,
        })
    };
    rows.iter().map(read).collect()
}
