//! What all requests share: the handle, and how far the daemon's end has come.
//!
//! ```text
//!   accepting ──shutdown asked──▶ refusing new work ──sandboxes done──▶ ending: streams and waits end
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::reject::Rejection;
use crate::api::{ErrorDetail, Version};
use crate::orchestrator::Handle;

/// A request to end the daemon.
#[derive(Debug)]
pub struct ShutdownOrder {
    /// Grace for the sandboxes; `None` leaves them running.
    pub grace: Option<Duration>,
    /// Told when the state directory is free.
    pub done: oneshot::Sender<Result<(), ErrorDetail>>,
}

/// The state behind every route.
pub struct Shared {
    /// The orchestrator.
    pub handle: Handle,
    /// The answer of `GET /v1/version`.
    pub version: Version,
    /// Cancelled when open streams and long polls have to end.
    pub ending: CancellationToken,
    refusing: AtomicBool,
    orders: mpsc::Sender<ShutdownOrder>,
}

impl Shared {
    /// The state, and where orders to end the daemon come out.
    pub fn new(handle: Handle, version: Version) -> (Self, mpsc::Receiver<ShutdownOrder>) {
        let (orders, receiver) = mpsc::channel(1);
        let ending = CancellationToken::new();
        (Self { handle, version, ending, refusing: AtomicBool::new(false), orders }, receiver)
    }

    /// Refuses once the end has begun.
    pub fn accepting(&self) -> Result<(), Rejection> {
        if self.refusing.load(Ordering::Acquire) { Err(Rejection::shutting_down()) } else { Ok(()) }
    }

    /// From now on [`Shared::accepting`] refuses.
    pub fn refuse_new_work(&self) {
        self.refusing.store(true, Ordering::Release);
    }

    /// Orders the end and waits until the state directory is free.
    pub async fn shut_down(&self, grace: Option<Duration>) -> Result<(), Rejection> {
        let (done, reply) = oneshot::channel();
        self.orders.try_send(ShutdownOrder { grace, done }).map_err(|_| Rejection::shutting_down())?;
        match reply.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(detail)) => Err(Rejection::from_detail(detail)),
            Err(_) => Err(Rejection::shutting_down()),
        }
    }
}
