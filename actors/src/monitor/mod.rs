//! One microVM's monitor: the only writer of its sandbox's state.
//!
//! The actor ([`Monitor`]) takes commands; [`life`] is the microVM's story as one event loop that runs inside the
//! actor, so that a panic in it ends the monitor and is noticed:
//!
//! ```text
//!   launch or adopt ─▶ attach output ─▶ ┌ VMM event ┐
//!                                       │ command   │ one after the other ─▶ VMM gone
//!                                       └ deadline  ┘                          │
//!            Down ◀─ runtime directory removed ◀─ final status ◀─ log closed ◀─┘
//! ```
//!
//! Every state change goes through [`sandpen_types::state::next`], is durable in the database, and only then
//! told as [`StateChanged`]. With a disk that is full it may take long until it is durable: changes wait for
//! that in their order ([`edges`]), what ends the microVM does not ([`ending`]).

mod actor;
mod checks;
mod deadlines;
mod edges;
mod ending;
mod health;
mod life;
mod making;
mod messages;
mod outputs;
mod phase;
mod quiet;
mod recording;
mod run;
mod suspension;
mod used_guest;

pub use actor::{Monitor, MonitorConfig, StartMode};
pub use messages::*;

/// Why a monitor could not do what was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum MonitorError {
    /// The microVM has already ended.
    #[error("the microVM has already ended")]
    Ended,
    /// The driver could not pass it on.
    #[error("{0}")]
    Driver(String),
}
