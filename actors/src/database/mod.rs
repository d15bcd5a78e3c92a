//! The one writer of the SQLite file.

mod messages;

pub use messages::*;

/// A failure of the database.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// SQLite or sqlx refused.
    #[error("{action}")]
    Sql {
        /// What was being done.
        action: &'static str,
        /// The cause.
        #[source]
        source: sqlx::Error,
    },
}

/// The actor.
#[derive(Debug)]
pub struct Database;

impl actix::Actor for Database {
    type Context = actix::Context<Self>;
}
