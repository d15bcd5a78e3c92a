//! One microVM's monitor.

mod messages;

pub use messages::*;

/// A failure of a monitor.
#[derive(Debug, thiserror::Error)]
pub enum MonitorError {
    /// The state does not allow it.
    #[error(transparent)]
    State(#[from] crate::state::NoSuchEdge),
}
