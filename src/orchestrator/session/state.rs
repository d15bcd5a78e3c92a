//! What a client has of a session, whatever becomes of the ways to it. Pure.

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionInfo, SessionOffsets};
use sandpen_types::session_input::{InputPiece, SessionInput};
use sandpen_vmm::sessions::{SessionError, SessionEvent, SessionRequest};

use super::SessionOutput;

/// Most bytes of input in one message.
const INPUT_BYTES: usize = 32 << 10;

/// How it came to an end for this client.
#[derive(Debug, Clone)]
pub(super) enum Finish {
    Ended(SessionEnd),
    Replaced,
    Refused(SessionError),
}

pub(super) struct State {
    pub(super) input: SessionInput,
    /// What came and was not asked for yet: no more than the session's windows.
    pub(super) output: VecDeque<SessionOutput>,
    /// Behind all that came.
    pub(super) arrived: SessionOffsets,
    /// Behind all that was answered.
    pub(super) answered: SessionOffsets,
    /// Streams whose end was answered.
    ended: Vec<OutputStream>,
    /// What the application has for good.
    pub(super) taken: SessionOffsets,
    /// The same, as far as the session was told.
    pub(super) told: SessionOffsets,
    /// Other requests, and how many of them were passed on so far.
    pub(super) requests: VecDeque<SessionRequest>,
    pub(super) passed_on: u64,
    /// Whoever moves everything is about to send.
    pub(super) is_sending: bool,
    pub(super) finish: Option<Finish>,
}

impl State {
    pub(super) fn new(info: &SessionInfo, from: Option<SessionOffsets>) -> Self {
        let at = from.unwrap_or(info.kept_from);
        Self {
            input: SessionInput::new(info.stdin),
            output: VecDeque::new(),
            arrived: at,
            answered: at,
            ended: Vec::new(),
            taken: at,
            told: at,
            requests: VecDeque::new(),
            passed_on: 0,
            is_sending: false,
            finish: None,
        }
    }

    pub(super) fn has_request(&self) -> bool {
        self.finish.is_none() && (!self.requests.is_empty() || self.told != self.taken || !self.input.is_sent())
    }

    pub(super) fn next_request(&mut self) -> Option<SessionRequest> {
        if let Some(request) = self.requests.pop_front() {
            self.passed_on += 1;
            return Some(request);
        }
        if self.told != self.taken {
            self.told = self.taken;
            return Some(SessionRequest::Taken(self.taken));
        }
        self.input.next(INPUT_BYTES).map(|piece| match piece {
            InputPiece::Bytes { offset, bytes } => SessionRequest::Input { offset, bytes: bytes.into() },
            InputPiece::End { total } => SessionRequest::EndInput { total },
        })
    }

    pub(super) fn apply(&mut self, event: SessionEvent) {
        match event {
            SessionEvent::Output { stream, offset, mut bytes } => {
                let arrived = *self.arrived.of(stream);
                if offset > arrived {
                    let stream = stream.as_str();
                    self.finish = Some(Finish::Refused(SessionError::Ahead { stream, asked: offset, there: arrived }));
                    return;
                }
                let known = usize::try_from(arrived - offset).unwrap_or(usize::MAX).min(bytes.len());
                bytes.advance(known);
                if !bytes.is_empty() {
                    *self.arrived.of(stream) = arrived + bytes.len() as u64;
                    self.output.push_back(SessionOutput { stream, offset: arrived, bytes });
                }
            }
            SessionEvent::StreamEnded { stream, total } => {
                let arrived = *self.arrived.of(stream);
                if total != arrived {
                    let stream = stream.as_str();
                    self.finish = Some(Finish::Refused(SessionError::Ahead { stream, asked: total, there: arrived }));
                } else if !self.ended.contains(&stream) {
                    self.output.push_back(SessionOutput { stream, offset: total, bytes: Bytes::new() });
                }
            }
            SessionEvent::InputWindow { received, limit } => self.input.window(received, limit),
            SessionEvent::InputClosed => self.input.close(),
            SessionEvent::Ended(end) => self.finish = Some(Finish::Ended(end)),
            // Whoever leaves it has gone.
            SessionEvent::Replaced | SessionEvent::Left => self.finish = Some(Finish::Replaced),
            SessionEvent::Refused(error) => self.finish = Some(Finish::Refused(error)),
        }
    }

    /// The application is given this.
    pub(super) fn answer(&mut self, output: &SessionOutput) {
        *self.answered.of(output.stream) = output.offset + output.bytes.len() as u64;
        if output.bytes.is_empty() {
            self.ended.push(output.stream);
        }
    }

    /// The next way begins with what the application has.
    pub(super) fn attached(&mut self, info: &SessionInfo) {
        self.input.attached(info.stdin);
        self.output.clear();
        (self.arrived, self.told) = (self.answered, self.taken);
    }
}

#[cfg(test)]
mod tests {
    use sandpen_types::session::{SessionId, SessionSpec};

    use super::*;

    fn info() -> SessionInfo {
        SessionInfo {
            id: SessionId::new(7).unwrap(),
            label: SessionSpec::command(["sh"]).label(),
            asked_at: chrono::DateTime::UNIX_EPOCH,
            terminal: false,
            detached: false,
            attached: true,
            stdin: 0,
            kept_from: SessionOffsets::default(),
            end: None,
        }
    }

    /// A piece without bytes, once, whatever way it comes by.
    #[test]
    fn the_end_of_a_stream_is_answered_once_behind_all_of_it() {
        let stream = OutputStream::Stdout;
        let mut state = State::new(&info(), None);
        let output = |offset, text: &'static str| SessionOutput { stream, offset, bytes: text.into() };
        let event = |text: &'static str| SessionEvent::Output { stream, offset: 0, bytes: text.into() };
        state.apply(event("abc"));
        state.apply(SessionEvent::StreamEnded { stream, total: 3 });
        assert_eq!(state.output, [output(0, "abc"), output(3, "")]);
        // Its monitor failed before the application asked for any of it, and then for the last.
        state.attached(&info());
        for event in [event("abc"), SessionEvent::StreamEnded { stream, total: 3 }] {
            state.apply(event);
        }
        while let Some(output) = state.output.pop_front() {
            state.answer(&output);
        }
        state.attached(&info());
        for event in [event("abc"), SessionEvent::StreamEnded { stream, total: 3 }] {
            state.apply(event);
        }
        assert!(state.output.is_empty() && state.finish.is_none());
        state.apply(SessionEvent::StreamEnded { stream: OutputStream::Stderr, total: 1 });
        assert!(matches!(state.finish, Some(Finish::Refused(SessionError::Ahead { asked: 1, there: 0, .. }))));
    }
}
