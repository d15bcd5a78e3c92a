//! An answer that may be long in coming, for whom it may be too late by then.
//!
//! ```text
//!   request ─▶ handler ─▶ LongAnswer, a task of its own ─┬ it is there ──────▶ answered
//!                                                        ├ nobody waits ────▶ dropped, with all that it holds
//!                                                        └ who knew it went ─▶ unanswered: asked again
//! ```
//!
//! Actix polls all futures of an actor at each of its wakes, and keeps each until it is done: a client that asks,
//! leaves and asks again would make every message dearer for ever.

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, Message};
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::oneshot;

/// See the module. Resolves to `None` when the answer will never come from here.
pub struct LongAnswer<T>(BoxFuture<'static, Option<T>>);

impl<T: Send + 'static> LongAnswer<T> {
    /// What a future will answer.
    pub fn of(answer: impl Future<Output = T> + Send + 'static) -> Self {
        Self(answer.map(Some).boxed())
    }

    /// What will come out of a channel, as `answer` makes it.
    pub fn when<S: Send + 'static>(told: oneshot::Receiver<S>, answer: impl FnOnce(S) -> T + Send + 'static) -> Self {
        Self(async move { told.await.ok().map(answer) }.boxed())
    }
}

impl<T> std::fmt::Debug for LongAnswer<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LongAnswer").finish_non_exhaustive()
    }
}

impl<A, M> MessageResponse<A, M> for LongAnswer<M::Result>
where
    A: Actor,
    M: Message,
    M::Result: Send,
{
    fn handle(self, _: &mut A::Context, reply: Option<OneshotSender<M::Result>>) {
        let Some(mut reply) = reply else { return };
        // Whoever asked observes it: it ends with an answer, or with the question.
        actix_rt::spawn(async move {
            tokio::select! {
                answer = self.0 => if let Some(answer) = answer {
                    let _ = reply.send(answer);
                },
                () = reply.closed() => {}
            }
        });
    }
}
