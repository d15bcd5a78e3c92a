//! The address of an actor that is started again whenever it panics.
//!
//! ```text
//!            host                Down: panicked
//!   parent ────────▶ first actor ─────────────▶ (pause, if that was too often) ─▶ next actor ─▶ …
//!      └─ publishes the newest address to every ActorRef
//! ```
//!
//! The parent keeps nothing of an actor but how to make one; what must outlive an actor is durable, or
//! left by its `Drop` for the next one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, ArbiterHandle, Context, Handler, MailboxError, Message};
use sandpen_types::backoff::Pauses;
use tokio::sync::{mpsc, watch};

use crate::runtime::hosting::{DownReason, host_on};
use crate::runtime::intensity::{RecentFailures, RestartIntensity};

/// To so many actors a message is given whose handling ends each of them: enough for a storm of other
/// faults, and an end for a message that is the fault itself.
const ATTEMPTS: usize = 10;
/// An actor that lived so long with a message was not ended by it: the count begins again. Some messages
/// wait for hours.
const SURVIVED: Duration = Duration::from_mins(1);
/// Pauses of an actor that failed too often, before it is started again.
const PAUSES: Pauses = Pauses::new(Duration::from_millis(50), Duration::from_secs(5));

/// The way to an actor, over all its restarts.
pub struct ActorRef<A: Actor> {
    current: watch::Receiver<Option<Addr<A>>>,
}

impl<A: Actor> Clone for ActorRef<A> {
    fn clone(&self) -> Self {
        Self { current: self.current.clone() }
    }
}

impl<A: Actor> std::fmt::Debug for ActorRef<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ActorRef").finish_non_exhaustive()
    }
}

/// An actor that nobody starts again.
impl<A: Actor> From<Addr<A>> for ActorRef<A> {
    fn from(address: Addr<A>) -> Self {
        Self { current: watch::channel(Some(address)).1 }
    }
}

impl<A: Actor<Context = Context<A>>> ActorRef<A> {
    /// The address of the moment; `None` between two actors, or when there will be no other.
    pub fn address(&self) -> Option<Addr<A>> {
        self.current.borrow().clone().filter(Addr::connected)
    }

    /// Sends and waits for the answer. When the actor ends before it answered, the message goes to the
    /// next one as well: use it for what may be done twice.
    ///
    /// # Errors
    /// [`MailboxError::Closed`] when the actor has ended for good, or every actor ended on this message.
    pub fn send<M>(&self, message: M) -> impl Future<Output = Result<M::Result, MailboxError>> + use<A, M>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Clone + Send + 'static,
        M::Result: Send,
    {
        let mut this = self.clone();
        async move {
            let mut attempts = 0;
            while attempts < ATTEMPTS {
                let Some(address) = this.next_address().await else { break };
                let sent = Instant::now();
                match address.send(message.clone()).await {
                    Err(MailboxError::Closed) => attempts = attempts_after(attempts, sent.elapsed()),
                    answered => return answered,
                }
            }
            Err(MailboxError::Closed)
        }
    }

    /// Sends once and waits for the answer.
    ///
    /// # Errors
    /// [`MailboxError::Closed`] when the actor ended before it answered: whether it did what was asked
    /// is unknown.
    pub fn send_once<M>(&self, message: M) -> impl Future<Output = Result<M::Result, MailboxError>> + use<A, M>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let mut this = self.clone();
        async move {
            match this.next_address().await {
                Some(address) => address.send(message).await,
                None => Err(MailboxError::Closed),
            }
        }
    }

    /// Tells the actor of the moment. Between two actors nobody hears it: for what the next one finds
    /// out by itself.
    pub fn tell<M>(&self, message: M)
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        if let Some(address) = self.address() {
            address.do_send(message);
        }
    }

    /// Waits for an actor that lives; `None` when none will come.
    async fn next_address(&mut self) -> Option<Addr<A>> {
        let next = self.current.wait_for(|address| address.as_ref().is_some_and(Addr::connected)).await;
        next.ok().and_then(|address| address.clone())
    }
}

/// How many actors in a row a message may have ended, when the last one had it for this long.
fn attempts_after(attempts: usize, had: Duration) -> usize {
    if had < SURVIVED { attempts + 1 } else { 1 }
}

/// Hosts an actor on `arbiter`, and another one whenever it panicked. `make` runs there; `on_restart`
/// runs here, before the next one is made. The parent is a task of the calling arbiter.
pub fn keep_running<A, M, R>(
    arbiter: ArbiterHandle,
    intensity: RestartIntensity,
    make: M,
    mut on_restart: R,
) -> ActorRef<A>
where
    A: Actor<Context = Context<A>>,
    M: Fn(ActorRef<A>) -> A + Send + Sync + 'static,
    R: FnMut() + 'static,
{
    let (publisher, current) = watch::channel(None);
    let actor = ActorRef { current };
    let (make, made) = (Arc::new(make), actor.clone());
    let (tell, mut downs) = mpsc::unbounded_channel();
    let host = move || {
        let (make, actor, tell) = (make.clone(), made.clone(), tell.clone());
        let told = move |reason| {
            let _ = tell.send(reason);
        };
        host_on(&arbiter, move || make(actor), told)
    };
    publisher.send_replace(Some(host()));
    let parent = async move {
        let mut failures = RecentFailures::default();
        let mut pauses = 0;
        while let Some(DownReason::Panicked) = downs.recv().await {
            publisher.send_replace(None);
            let actor = std::any::type_name::<A>();
            if failures.count(Instant::now(), intensity) {
                pauses = 0;
            } else {
                pauses += 1;
                let pause = PAUSES.after(pauses);
                tracing::error!(actor, ?pause, "an actor fails again and again");
                tokio::time::sleep(pause).await;
            }
            tracing::error!(actor, "an actor panicked and is started again");
            on_restart();
            publisher.send_replace(Some(host()));
        }
    };
    // Nothing in it can panic but `on_restart`; if it ends, so do all references.
    actix_rt::spawn(parent);
    actor
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use actix::{Arbiter, System};

    struct Counter(Arc<AtomicUsize>);
    impl Actor for Counter {
        type Context = Context<Self>;
    }

    #[derive(Clone, Message)]
    #[rtype(result = "usize")]
    struct PanicUntil(usize);
    impl Handler<PanicUntil> for Counter {
        type Result = usize;
        fn handle(&mut self, PanicUntil(last): PanicUntil, _: &mut Self::Context) -> usize {
            let seen = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            assert!(seen >= last, "not yet");
            seen
        }
    }

    fn counter(limit: usize) -> (ActorRef<Counter>, Arc<AtomicUsize>) {
        let seen = Arc::new(AtomicUsize::new(0));
        let counted = seen.clone();
        let intensity = RestartIntensity { limit, window: Duration::from_secs(30) };
        let made = move |_| Counter(counted.clone());
        (keep_running(Arbiter::current(), intensity, made, || {}), seen)
    }

    #[test]
    fn a_message_reaches_the_actor_that_can_take_it() {
        System::new().block_on(async {
            let (actor, seen) = counter(100);
            assert_eq!(actor.send(PanicUntil(4)).await.unwrap(), 4);
            assert_eq!(seen.load(Ordering::SeqCst), 4);
            assert!(actor.send_once(PanicUntil(100)).await.is_err());
            assert_eq!(seen.load(Ordering::SeqCst), 5);
        });
    }

    #[test]
    fn a_message_that_is_the_fault_itself_is_given_up_and_others_are_not() {
        System::new().block_on(async {
            let (actor, seen) = counter(100);
            assert!(matches!(actor.send(PanicUntil(usize::MAX)).await, Err(MailboxError::Closed)));
            assert_eq!(seen.load(Ordering::SeqCst), ATTEMPTS);
            assert_eq!(actor.send(PanicUntil(1)).await.unwrap(), ATTEMPTS + 1);
        });
    }

    #[test]
    fn a_message_that_waits_for_long_outlives_any_number_of_actors() {
        let quick = (0..ATTEMPTS).fold(0, |attempts, _| attempts_after(attempts, Duration::from_millis(1)));
        assert_eq!(quick, ATTEMPTS);
        let slow = (0..10 * ATTEMPTS).fold(0, |attempts, _| attempts_after(attempts, SURVIVED));
        assert!(slow < ATTEMPTS);
    }

    #[test]
    fn one_that_fails_too_often_pauses_and_comes_back() {
        System::new().block_on(async {
            let (actor, _) = counter(0);
            assert_eq!(actor.send(PanicUntil(3)).await.unwrap(), 3);
        });
    }
}
