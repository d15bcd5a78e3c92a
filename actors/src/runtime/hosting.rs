//! Runs actors so that their end, a panic included, is always told to somebody.
//!
//! `actix::Supervisor` restarts an actor after `ctx.stop()` only, never after a panic, so contexts
//! are built by hand here: the actor's future runs under `catch_unwind` in a task of its own, and a
//! guard tells its end whatever happened. The future is dropped under a second `catch_unwind`,
//! since `stopped()` and `Drop` may panic too while the first panic unwinds.

use std::panic::{AssertUnwindSafe, catch_unwind};

use actix::dev::channel;
use actix::{Actor, Addr, ArbiterHandle, Context};
use futures::FutureExt as _;

/// Mailbox slots of a hosted actor. Not a bound on memory (actix lets some messages past it): flows
/// that matter carry replies, and their senders wait for them.
const MAILBOX_CAPACITY: usize = 64;

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownReason {
    /// Its work was done, or its arbiter ended.
    Finished,
    /// It panicked.
    Panicked,
}

/// Tells the end exactly once, also when the task that hosts the actor is dropped.
struct Obituary<F: FnOnce(DownReason)> {
    on_down: Option<F>,
    reason: DownReason,
}

impl<F: FnOnce(DownReason)> Drop for Obituary<F> {
    fn drop(&mut self) {
        if let Some(on_down) = self.on_down.take() {
            let reason = self.reason;
            // A panic here may meet another one that is unwinding, which would abort the process.
            if catch_unwind(AssertUnwindSafe(|| on_down(reason))).is_err() {
                tracing::error!("telling the end of an actor panicked");
            }
        }
    }
}

/// Starts an actor on `arbiter`. `make` runs there; `on_down` is called once when the actor has
/// ended and everything it owned is dropped, or at once when the arbiter is gone.
///
/// Messages sent to the returned address before the actor runs are kept.
pub fn host_on<A, M, F>(arbiter: &ArbiterHandle, make: M, on_down: F) -> Addr<A>
where
    A: Actor<Context = Context<A>>,
    M: FnOnce() -> A + Send + 'static,
    F: FnOnce(DownReason) + Send + 'static,
{
    let (sender, receiver) = channel::channel(MAILBOX_CAPACITY);
    let mut obituary = Obituary { on_down: Some(on_down), reason: DownReason::Finished };
    let life = move || async move {
        let made = catch_unwind(AssertUnwindSafe(|| {
            let context = Context::with_receiver(receiver);
            // Boxed outside the poll: a panic in a handler must not drop the actor while unwinding.
            Box::pin(context.into_future(make()))
        }));
        let panicked = match made {
            Ok(mut actor) => {
                let ran = AssertUnwindSafe(actor.as_mut()).catch_unwind().await;
                let dropped = catch_unwind(AssertUnwindSafe(move || drop(actor)));
                ran.is_err() || dropped.is_err()
            }
            Err(_) => true,
        };
        if panicked {
            obituary.reason = DownReason::Panicked;
        }
        drop(obituary);
    };
    // The task is local to the arbiter: actors need not be `Send`, their messages are.
    let spawned = arbiter.spawn_fn(move || drop(actix_rt::spawn(life())));
    if !spawned {
        tracing::warn!(actor = std::any::type_name::<A>(), "the arbiter has ended; the actor was not started");
    }
    Addr::new(sender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix::{Arbiter, Handler, Message};
    use std::sync::mpsc;
    use std::time::Duration;

    #[derive(Clone, Copy, PartialEq)]
    enum Where {
        Factory,
        Handler,
        Future,
        StoppedToo,
        Nowhere,
    }

    struct Bomb(Where);
    impl Actor for Bomb {
        type Context = Context<Self>;
        fn stopped(&mut self, _: &mut Self::Context) {
            assert!(self.0 != Where::StoppedToo, "second panic");
        }
    }
    #[derive(Message)]
    #[rtype(result = "u8")]
    struct Go;
    impl Handler<Go> for Bomb {
        type Result = u8;
        fn handle(&mut self, _: Go, ctx: &mut Self::Context) -> u8 {
            use actix::{ActorContext as _, AsyncContext as _, WrapFuture as _};
            match self.0 {
                Where::Handler | Where::StoppedToo => panic!("bomb"),
                Where::Future => {
                    ctx.spawn(async { panic!("bomb in a future") }.into_actor(self));
                }
                _ => ctx.stop(),
            }
            7
        }
    }

    #[test]
    fn every_end_is_told_once_and_neighbours_live() {
        let system = actix::System::new();
        system.block_on(async {
            let arbiter = Arbiter::new();
            let (tell, told) = mpsc::channel();
            let neighbour_tell = tell.clone();
            let neighbour = host_on(
                &arbiter.handle(),
                || Bomb(Where::Nowhere),
                move |reason| neighbour_tell.send(("neighbour", reason)).unwrap(),
            );
            for place in [Where::Factory, Where::Handler, Where::Future, Where::StoppedToo] {
                let tell = tell.clone();
                let addr = host_on(
                    &arbiter.handle(),
                    move || {
                        assert!(place != Where::Factory, "bomb in the factory");
                        Bomb(place)
                    },
                    move |reason| tell.send(("bomb", reason)).unwrap(),
                );
                let _ = addr.send(Go).await;
                assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(("bomb", DownReason::Panicked)));
            }
            assert_eq!(neighbour.send(Go).await.unwrap(), 7);
            assert_eq!(told.recv_timeout(Duration::from_secs(10)), Ok(("neighbour", DownReason::Finished)));
            arbiter.stop();
            let _ = arbiter.join();
        });
    }
}
