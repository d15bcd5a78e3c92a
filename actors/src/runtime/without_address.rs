//! The end of an actor that nobody can reach any more, although it still has futures of its own.

use std::pin::Pin;
use std::task::{self, Poll};

use actix::fut::ActorFuture;
use actix::{Actor, ActorContext as _, Context};

/// Stops the actor that spawns it when the actor's last address is gone. Actix polls every future of an actor when that
/// happens, but keeps the actor while it has futures, and this one always is one. What nobody can reach must not go on beside
/// the one that takes over from it.
#[derive(Debug)]
pub struct StopWithoutAddress;

impl<A: Actor<Context = Context<A>>> ActorFuture<A> for StopWithoutAddress {
    type Output = ();

    fn poll(self: Pin<&mut Self>, _: &mut A, ctx: &mut Context<A>, _: &mut task::Context<'_>) -> Poll<()> {
        if ctx.connected() {
            return Poll::Pending;
        }
        ctx.stop();
        Poll::Ready(())
    }
}
