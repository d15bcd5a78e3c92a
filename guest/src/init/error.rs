//! Why PID 1 ends.

use nix::errno::Errno;

use crate::control::ControlError;
use crate::ports::PortError;

/// Why PID 1 cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There are no ports.
    #[error(transparent)]
    Ports(#[from] PortError),
    /// The control port.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// Another stream.
    #[error("carrying the workload's {stream}")]
    Stream {
        /// Which.
        stream: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Waiting for events.
    #[error("{action}")]
    Wait {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: Errno,
    },
}
