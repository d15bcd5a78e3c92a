//! One request on its way.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use super::{FilesClient, FilesError, Shared};
use crate::answer::Answer;
use crate::request::Request;

/// An answer that is to come; what the guest refuses is an error. Dropped before, the request may be done even so, and what
/// it opens is closed again.
#[derive(Debug)]
#[must_use = "an answer has to be waited for"]
pub struct Call {
    shared: Arc<Shared>,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// There was no room.
    Unsent(Request),
    Sent(u32),
    /// Nothing more comes of it.
    Over(Option<FilesError>),
}

impl FilesClient {
    /// Asks for something, bare: it is on its way at once where there is room.
    pub fn call(&self, request: Request) -> Call {
        let sent = self.shared.state().send(&request);
        let stage = match sent {
            Ok(Some(number)) => Stage::Sent(number),
            Ok(None) => Stage::Unsent(request),
            Err(error) => Stage::Over(Some(error)),
        };
        Call { shared: self.shared.clone(), stage }
    }
}

impl Call {
    /// Whether the guest gets it whatever becomes of this.
    pub(super) fn is_sent(&self) -> bool {
        matches!(self.stage, Stage::Sent(_))
    }
}

impl Future for Call {
    type Output = Result<Answer, FilesError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let call = &mut *self;
        let mut state = call.shared.state();
        if let Stage::Unsent(request) = &call.stage {
            call.stage = match state.send(request) {
                Ok(Some(number)) => Stage::Sent(number),
                Ok(None) => {
                    state.wait_for_room(context.waker());
                    return Poll::Pending;
                }
                Err(error) => Stage::Over(Some(error)),
            };
        }
        let answer = match &mut call.stage {
            Stage::Sent(number) => std::task::ready!(state.poll_answer(*number, context)),
            Stage::Over(error) => Err(error.take().unwrap_or(FilesError::Nonsense("an answer was fetched twice"))),
            Stage::Unsent(_) => return Poll::Pending,
        };
        if answer.is_err()
            && let Stage::Sent(number) = call.stage
        {
            state.abandon(number);
        }
        call.stage = Stage::Over(None);
        Poll::Ready(match answer {
            Ok(Answer::Error(error)) => Err(error.into()),
            answer => answer,
        })
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Stage::Sent(number) = self.stage {
            self.shared.state().abandon(number);
        }
    }
}
