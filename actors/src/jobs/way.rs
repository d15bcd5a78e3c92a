//! The way to a guest as a job has it: through the monitor of the moment, or none.

use std::sync::{Arc, Weak};

use sandpen_vmm::driver::GuestSession;
use sandpen_vmm::sessions::{GuestSessions, SessionError};

/// See the module.
#[derive(Clone, Default)]
pub(super) struct Way {
    /// The monitor's: what would keep it here would keep the link of a monitor that failed, beside that of its successor.
    pub(super) guest: Option<Weak<dyn GuestSession>>,
    /// The microVM is gone: what cannot be had of it now never will.
    pub(super) is_closing: bool,
}

impl Way {
    /// The guest's sessions, to be asked something at once; `None` between two monitors.
    pub(super) fn sessions(&self) -> Option<Result<Arc<dyn GuestSessions>, SessionError>> {
        let guest = self.guest.as_ref()?.upgrade()?;
        Some(guest.sessions())
    }

    /// The same for who does not wait.
    pub(super) fn sessions_now(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        self.sessions().unwrap_or_else(|| {
            let words = "its monitor is just being replaced; ask again".to_owned();
            Err(SessionError::Unreachable(words))
        })
    }
}
