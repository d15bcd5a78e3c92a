//! Between the end of a microVM on record and the end of all that it had on the host.
//!
//! ```text
//!   end recorded ─▶ its monitor releases what is left ──────────────────────────▶ name free, or restarted
//!                     └ monitor or supervisor lost ─▶ found again and released ─┘
//! ```
//! Who asks to start or to remove such a sandbox has seen that it ended: the request waits that moment.

use std::time::Duration;

use actix::{ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, WrapFuture as _};
use futures::future::OptionFuture;
use sandpen_types::spec::SandboxKey;
use sandpen_vmm::driver::{Driver, DriverError, Launch};

use super::SupervisorError;
use super::actor::{Answer, Supervisor};
use super::child::Child;
use super::phase::Phase;

/// How long finding and releasing what is left of a microVM may take; what is left then, the next
/// reconciliation finds.
const RELEASE_LIMIT: Duration = Duration::from_secs(10);

impl Supervisor {
    /// [`Supervisor::on_ended`] for a child whose end is recorded, but perhaps not its release.
    pub(super) fn release_and_end(&mut self, key: &SandboxKey, ctx: &mut Context<Self>) {
        let Some(child) = self.children.get_mut(key) else { return };
        let Some(row) = child.row().cloned() else { return };
        child.enter(Phase::Releasing);
        let (launch, driver) = (self.launch_of(&row), self.driver_of(&row));
        let released = async move { release(&*driver?, launch).await };
        let released = tokio::time::timeout(RELEASE_LIMIT, released);
        let key = key.clone();
        ctx.spawn(released.into_actor(self).map(move |released, this, ctx| {
            match released {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(sandbox = %key, error = %error.chain(), "cleaning up after a microVM"),
                Err(_) => tracing::warn!(sandbox = %key, "cleaning up after a microVM takes too long"),
            }
            this.on_ended(&key, ctx);
        }));
    }

    /// The answer to a request for a sandbox of which something is left: the request again, once nothing is.
    pub(super) fn once_released<M, T>(&mut self, key: &SandboxKey, request: M, ctx: &Context<Self>) -> Answer<T>
    where
        M: Message<Result = Result<T, SupervisorError>> + Send + 'static,
        T: Send + 'static,
        Self: Handler<M>,
    {
        self.once_released_within(None, key, request, ctx)
    }

    /// The same; where it takes longer than a limit, the answer is that one's error.
    pub(super) fn once_released_within<M, T>(
        &mut self,
        limit: Option<(Duration, SupervisorError)>,
        key: &SandboxKey,
        request: M,
        ctx: &Context<Self>,
    ) -> Answer<T>
    where
        M: Message<Result = Result<T, SupervisorError>> + Send + 'static,
        T: Send + 'static,
        Self: Handler<M>,
    {
        // Whether it says so or is forgotten: it is looked at again.
        let released = OptionFuture::from(self.children.get_mut(key).map(Child::released));
        let itself = ctx.address();
        let again = async move {
            let _ = match limit {
                None => released.await,
                Some((limit, late)) => tokio::time::timeout(limit, released).await.map_err(|_| late)?,
            };
            itself.send(request).await?
        };
        Box::pin(again.into_actor(self))
    }
}

/// Releases what is left of a microVM that has ended.
async fn release(driver: &dyn Driver, launch: Launch) -> Result<(), DriverError> {
    match driver.adopt(launch).await {
        Ok(vmm) => vmm.process.release().await,
        Err(DriverError::Gone) => Ok(()),
        Err(error) => Err(error),
    }
}
