//! The host's side: requests become bytes, and bytes become answers, of which nothing is believed.
//!
//! ```text
//!   asked ──(at most CALLS_MAX)──▶ sent ──▶ answered
//!     │                              └── nobody waits any more: its answer is dropped, what it opened is closed
//!     └── no room: waits
//!   broken: every call, of before and of later, fails alike
//! ```
//!
//! No runtime is needed: whoever has a session carries bytes between it and a [`Carrier`]. Dropping that one, or all clients,
//! ends the other side.

mod call;
mod calls;
mod events;
mod open;
mod state;
mod streams;
#[cfg(test)]
mod tests;

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use crate::error::{FileError, FileErrorKind, Shown};
use crate::frame::FrameError;
use state::State;

pub use call::Call;
pub use calls::{ENTRIES_MAX, NAMES_MAX};
pub use events::EventReader;
pub use open::{OpenDirectory, OpenFile};
pub use streams::{FileReader, FileWriter};

/// Most requests without an answer.
pub const CALLS_MAX: usize = 32;

/// Why there is no answer, or not a good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilesError {
    /// The guest says no.
    #[error(transparent)]
    File(#[from] FileError),
    /// More in a directory than is kept.
    #[error(
        "{}: the directory has more than is kept at once: {ENTRIES_MAX} entries, or {} MiB of names; go through it page by page",
        Shown(.path), NAMES_MAX >> 20
    )]
    TooMuch {
        /// Which.
        path: Vec<u8>,
    },
    /// What came from the guest cannot be.
    #[error("the sandbox's guest does not keep to the protocol of files: {0}")]
    Nonsense(&'static str),
    /// What came from the guest is no frame.
    #[error("the sandbox's guest does not keep to the protocol of files")]
    Frame(#[from] FrameError),
    /// Nothing more comes.
    #[error("the sandbox's files cannot be reached any more: {0}")]
    Gone(String),
}

impl FilesError {
    /// What the guest says, where it does.
    pub fn kind(&self) -> Option<FileErrorKind> {
        match self {
            Self::File(error) => Some(error.kind),
            Self::TooMuch { .. } | Self::Nonsense(_) | Self::Frame(_) | Self::Gone(_) => None,
        }
    }
}

/// The files of a sandbox; clones have the same. A request is on its way when its future was made or polled first, and
/// requests are done in the order in which they went off.
#[derive(Debug, Clone)]
pub struct FilesClient {
    shared: Arc<Shared>,
    /// How many clients there are.
    _counted: Arc<Counted>,
}

/// What clients and carrier share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dropped with the last client.
#[derive(Debug)]
struct Counted(Arc<Shared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.state().close();
    }
}

/// Where a client's bytes come out, and the guest's go in.
#[derive(Debug)]
pub struct Carrier {
    shared: Arc<Shared>,
}

impl FilesClient {
    /// A client, and the way of its bytes.
    pub fn new() -> (Self, Carrier) {
        let shared = Arc::new(Shared::default());
        let client = Self { shared: shared.clone(), _counted: Arc::new(Counted(shared.clone())) };
        (client, Carrier { shared })
    }
}

impl Carrier {
    /// The next bytes for the guest: whole frames. `None` when no client is left. Safe to cancel.
    pub async fn outgoing(&self) -> Option<Vec<u8>> {
        poll_fn(|context| self.poll_outgoing(context)).await
    }

    /// The same, for whoever polls by hand.
    pub fn poll_outgoing(&self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        self.shared.state().poll_outgoing(context)
    }

    /// Bytes of the guest's.
    ///
    /// # Errors
    /// [`FilesError::Nonsense`] and [`FilesError::Frame`], which all callers hear as well: nothing more is to be carried.
    pub fn received(&self, bytes: &[u8]) -> Result<(), FilesError> {
        let mut state = self.shared.state();
        let received = state.received(bytes);
        if let Err(error) = &received {
            state.fail(error.clone());
        }
        received
    }

    /// Nothing more comes, and why, for people.
    pub fn ended(self, why: impl Into<String>) {
        self.shared.state().fail(FilesError::Gone(why.into()));
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        self.shared.state().fail(FilesError::Gone("the session has ended".to_owned()));
    }
}
