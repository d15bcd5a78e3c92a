//! The supervisor of all monitors.

mod messages;

pub use messages::*;

/// A failure of the supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The specification was refused.
    #[error(transparent)]
    Spec(#[from] crate::spec::SpecError),
}
