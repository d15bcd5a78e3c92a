//! Where a life is: what it waits for beside commands, deadlines and the database.
//!
//! ```text
//!   Making ─▶ Attaching ─▶ Watching ─ VMM gone ─▶ Closing ─▶ Closed ─ all edges durable ─▶ Ending ─▶ Releasing
//!      └── nothing made or found ────────────────────▲                                        └─▶ Over ◀─┘
//! ```

use actix::MailboxError;
use futures::future::BoxFuture;
use sandpen_types::state::ExitStatus;
use sandpen_vmm::driver::{DriverError, Vmm, VmmEvent};
use tokio::sync::mpsc;

use super::outputs::Attached;

/// How a life comes to its end.
#[derive(Debug)]
pub(super) enum End {
    /// The VMM process is gone.
    Vmm(ExitStatus),
    /// There is no microVM: none was made, or none is left.
    NoVmm(DriverError),
}

/// What is left once the end is durable.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rest {
    /// The waiter and the runtime directory.
    Vmm,
    /// Nothing: there never was a microVM.
    Nothing,
    /// What nobody knows; the supervisor looks.
    Unknown,
}

pub(super) enum Phase {
    /// The microVM is made or looked for.
    Making(BoxFuture<'static, Result<Vmm, DriverError>>),
    /// Its outputs go to the log; what it tells waits.
    Attaching(BoxFuture<'static, Result<Attached, MailboxError>>),
    /// It is there.
    Watching(mpsc::Receiver<VmmEvent>),
    /// It is gone; the pipes' rest goes on file.
    Closing(BoxFuture<'static, Result<End, MailboxError>>),
    /// All is on file; the end is recorded when all before it is.
    Closed(End),
    /// The end is being recorded.
    Ending(Rest),
    /// What is left of it goes.
    Releasing(BoxFuture<'static, Result<(), DriverError>>),
    Over,
}

/// What a phase has waited for.
pub(super) enum Step {
    Made(Result<Vmm, DriverError>),
    Attached(Result<Attached, MailboxError>),
    Event(Option<VmmEvent>),
    LogClosed(Result<End, MailboxError>),
    Released(Result<(), DriverError>),
}

impl Phase {
    /// Waits; dropping that loses nothing.
    pub(super) async fn next(&mut self) -> Step {
        match self {
            Self::Making(made) => Step::Made(made.await),
            Self::Attaching(attached) => Step::Attached(attached.await),
            Self::Watching(events) => Step::Event(events.recv().await),
            Self::Closing(closed) => Step::LogClosed(closed.await),
            Self::Releasing(released) => Step::Released(released.await),
            Self::Closed(_) | Self::Ending(_) | Self::Over => std::future::pending().await,
        }
    }

    /// Whether there is nothing any more that could be ended.
    pub(super) fn is_after_the_end(&self) -> bool {
        !matches!(self, Self::Making(_) | Self::Attaching(_) | Self::Watching(_))
    }

    /// Whether the end is on its way to the database, or there.
    pub(super) fn is_ending(&self) -> bool {
        matches!(self, Self::Ending(_) | Self::Releasing(_) | Self::Over)
    }
}
