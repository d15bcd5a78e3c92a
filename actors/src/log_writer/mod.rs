//! One sandbox's log on disk.

mod messages;

pub use messages::*;

/// A failure of a log.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error("{action} {path:?}")]
    File {
        /// What was being done.
        action: &'static str,
        /// On which file.
        path: std::path::PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
}

/// A reader of a log.
#[derive(Debug)]
pub struct LogFollower;

/// The actor.
#[derive(Debug)]
pub struct LogWriter;

impl actix::Actor for LogWriter {
    type Context = actix::Context<Self>;
}
