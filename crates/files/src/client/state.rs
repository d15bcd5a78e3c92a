//! What is asked and not answered yet.

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use super::{CALLS_MAX, FilesError};
use crate::answer::Answer;
use crate::frame::{self, Frame, FrameReader};
use crate::request::Request;

/// See [`FilesClient`](super::FilesClient).
#[derive(Debug, Default)]
pub(super) struct State {
    outgoing: VecDeque<Vec<u8>>,
    next: u32,
    calls: BTreeMap<u32, Asked>,
    /// Who waits for room.
    waiting: Vec<Waker>,
    /// Who carries bytes.
    carrier: Option<Waker>,
    reader: FrameReader,
    /// No client is left.
    is_closed: bool,
    broken: Option<FilesError>,
}

/// A request that is not answered, or whose answer was not fetched.
#[derive(Debug)]
struct Asked {
    /// Whether it opens something, which is to be closed if nobody wants it.
    opens: bool,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Sent(Option<Waker>),
    Answered(Answer),
    /// Nobody waits for it.
    Abandoned,
}

impl State {
    /// Sends a request, if there is room for it; its number. Without room, or where nothing is sent any more, `None`.
    pub(super) fn send(&mut self, request: &Request) -> Result<Option<u32>, FilesError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        if self.calls.len() >= CALLS_MAX {
            return Ok(None);
        }
        self.push(request, Stage::Sent(None)).map(Some)
    }

    fn push(&mut self, request: &Request, stage: Stage) -> Result<u32, FilesError> {
        while self.calls.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let number = self.next;
        self.outgoing.push_back(frame::encode(number, request)?);
        self.next = number.wrapping_add(1);
        let opens = matches!(request, Request::Open { .. } | Request::OpenDirectory { .. } | Request::Replace { .. });
        self.calls.insert(number, Asked { opens, stage });
        self.wake_carrier();
        Ok(number)
    }

    /// Closes what nobody has any more. There are never more of these than things that are open.
    pub(super) fn abandon_open(&mut self, handle: u32) {
        if self.broken.is_none() {
            // So small a request always becomes a frame.
            let _ = self.push(&Request::Close { handle }, Stage::Abandoned);
        }
    }

    /// Wakes up when there may be room.
    pub(super) fn wait_for_room(&mut self, waker: &Waker) {
        if !self.waiting.iter().any(|known| known.will_wake(waker)) {
            self.waiting.push(waker.clone());
        }
    }

    pub(super) fn poll_answer(&mut self, number: u32, context: &mut Context<'_>) -> Poll<Result<Answer, FilesError>> {
        match self.calls.get_mut(&number).map(|asked| &mut asked.stage) {
            Some(Stage::Sent(waker)) => {
                if let Some(broken) = &self.broken {
                    return Poll::Ready(Err(broken.clone()));
                }
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            Some(Stage::Answered(_)) => {
                let asked = self.calls.remove(&number);
                let Some(Asked { stage: Stage::Answered(answer), .. }) = asked else { return Poll::Pending };
                self.wake_waiting();
                Poll::Ready(Ok(answer))
            }
            Some(Stage::Abandoned) | None => Poll::Ready(Err(FilesError::Nonsense("an answer was fetched twice"))),
        }
    }

    /// Nobody waits for an answer any more.
    pub(super) fn abandon(&mut self, number: u32) {
        match self.calls.remove(&number) {
            Some(Asked { opens, stage: Stage::Sent(_) }) if self.broken.is_none() => {
                self.calls.insert(number, Asked { opens, stage: Stage::Abandoned });
            }
            Some(Asked { opens, stage: Stage::Answered(answer) }) => self.drop_answer(opens, &answer),
            _ => {}
        }
        self.wake_waiting();
    }

    /// Closes what nobody will use.
    fn drop_answer(&mut self, opens: bool, answer: &Answer) {
        if let (true, Answer::Opened { handle }) = (opens, answer) {
            self.abandon_open(*handle);
        }
    }

    pub(super) fn received(&mut self, bytes: &[u8]) -> Result<(), FilesError> {
        if let Some(broken) = &self.broken {
            return Err(broken.clone());
        }
        self.reader.push(bytes);
        while let Some(frame) = self.reader.next_frame()? {
            self.answered(&frame)?;
        }
        Ok(())
    }

    fn answered(&mut self, frame: &Frame) -> Result<(), FilesError> {
        let answer: Answer = frame.message()?;
        match self.calls.get_mut(&frame.number) {
            Some(Asked { stage: stage @ Stage::Sent(_), .. }) => {
                let Stage::Sent(waker) = std::mem::replace(stage, Stage::Answered(answer)) else { return Ok(()) };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
            Some(Asked { opens, stage: Stage::Abandoned }) => {
                let opens = *opens;
                self.calls.remove(&frame.number);
                self.drop_answer(opens, &answer);
                self.wake_waiting();
            }
            Some(Asked { stage: Stage::Answered(_), .. }) | None => {
                return Err(FilesError::Nonsense("an answer to what was not asked, or the second one"));
            }
        }
        Ok(())
    }

    pub(super) fn poll_outgoing(&mut self, context: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        if let Some(bytes) = self.outgoing.pop_front() {
            return Poll::Ready(Some(bytes));
        }
        if self.is_closed || self.broken.is_some() {
            return Poll::Ready(None);
        }
        self.carrier = Some(context.waker().clone());
        Poll::Pending
    }

    /// No client is left.
    pub(super) fn close(&mut self) {
        self.is_closed = true;
        self.wake_carrier();
    }

    /// Nothing is answered any more.
    pub(super) fn fail(&mut self, error: FilesError) {
        if self.broken.is_some() {
            return;
        }
        self.broken = Some(error);
        self.outgoing.clear();
        for asked in self.calls.values_mut() {
            if let Stage::Sent(Some(waker)) = &asked.stage {
                waker.wake_by_ref();
            }
        }
        self.wake_waiting();
        self.wake_carrier();
    }

    fn wake_waiting(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }

    fn wake_carrier(&mut self) {
        if let Some(waker) = self.carrier.take() {
            waker.wake();
        }
    }
}
