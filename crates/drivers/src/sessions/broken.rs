//! What a guest may not say on its session port.

use sandpen_guest::protocol::session::SessionFrameError;

/// Why a link with a guest's sessions is given up. The guest is hostile: one such message is enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    /// No frame.
    #[error("it sent {0}")]
    Frame(#[from] SessionFrameError),
    /// A message out of its order.
    #[error("it told {what} where {when}")]
    Unexpected {
        /// The message.
        what: &'static str,
        /// Where things are.
        when: &'static str,
    },
    /// Of a session that there is not.
    #[error("it told {what} of a session {id:016x} that nobody asked for")]
    Unknown {
        /// The message.
        what: &'static str,
        /// Which.
        id: u64,
    },
    /// A number that goes back, or too far.
    #[error("it told {what} up to {told}, where {known} is known")]
    Offset {
        /// Of what.
        what: &'static str,
        /// What came.
        told: u64,
        /// What that does not go with.
        known: u64,
    },
    /// More than there can be.
    #[error("it has {0} sessions")]
    TooMany(u32),
    /// An end by a signal that there is not.
    #[error("a session ended by signal {0}, which is none")]
    Signal(u8),
}
