//! What a client has of a session, whatever becomes of the connections to it. Pure.

use std::collections::VecDeque;

use bytes::Buf as _;
use sandpen_api::session::{PIECE_MAX_BYTES, SessionPiece, SessionStream, SessionWish};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionInfo, SessionOffsets};
use sandpen_types::session_input::{InputPiece, SessionInput};
use sandpen_types::spec::TerminalSize;
use tokio_tungstenite::tungstenite::Message;

use super::SessionBytes;

/// All that has to outlive a connection.
#[derive(Default)]
pub(super) struct Hold {
    /// What was attached from first; `None` before the session has said what is kept.
    pub(super) taken: Option<SessionOffsets>,
    pub(super) told: SessionOffsets,
    /// Behind all that was given out.
    pub(super) given: SessionOffsets,
    /// Outputs whose end was given out.
    pub(super) ended: Vec<OutputStream>,
    pub(super) input: SessionInput,
    /// Not yet sent.
    pub(super) wishes: VecDeque<SessionWish>,
    pub(super) size: Option<TerminalSize>,
}

impl Hold {
    /// A socket is there, and this is how the session is.
    pub(super) fn attached(&mut self, info: &SessionInfo) {
        let taken = *self.taken.get_or_insert(info.kept_from);
        self.told = taken;
        self.given.stdout = self.given.stdout.max(taken.stdout);
        self.given.stderr = self.given.stderr.max(taken.stderr);
        self.input.attached(info.stdin);
        // The one before may have been lost on its way.
        self.wishes.retain(|wish| !matches!(wish, SessionWish::Resize(_)));
        self.wishes.extend(self.size.map(SessionWish::Resize));
    }

    pub(super) fn has_message(&self) -> bool {
        !self.wishes.is_empty() || self.taken.is_some_and(|taken| taken != self.told) || !self.input.is_sent()
    }

    /// The next message to the session.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        if let Some(wish) = self.wishes.pop_front() {
            return Some(text(&wish));
        }
        if let Some(taken) = self.taken.filter(|taken| *taken != self.told) {
            self.told = taken;
            return Some(text(&SessionWish::Taken { stdout: taken.stdout, stderr: taken.stderr }));
        }
        match self.input.next(PIECE_MAX_BYTES)? {
            InputPiece::Bytes { offset, bytes } => {
                SessionPiece::encode(SessionStream::Stdin, offset, &bytes).next().map(Message::Binary)
            }
            InputPiece::End { total } => Some(text(&SessionWish::EndInput { total })),
        }
    }

    /// What of a piece was not given out before; a gap is none of ours.
    pub(super) fn give(&mut self, piece: SessionPiece) -> Result<Option<SessionBytes>, String> {
        let SessionPiece { stream: SessionStream::Output(stream), offset, mut bytes } = piece else {
            return Err("it sends input".to_owned());
        };
        let given = self.given.of(stream);
        if offset > *given {
            return Err(format!("byte {given} of {stream} is missing: {offset} comes next"));
        }
        let known = usize::try_from(*given - offset).unwrap_or(usize::MAX).min(bytes.len());
        bytes.advance(known);
        let offset = *given;
        *given += bytes.len() as u64;
        Ok((!bytes.is_empty()).then_some(SessionBytes { stream, offset, bytes }))
    }

    /// An output has ended: whether that was not given out before.
    pub(super) fn end(&mut self, stream: OutputStream, total: u64) -> Result<bool, String> {
        let given = *self.given.of(stream);
        if total != given {
            return Err(format!("{stream} ends after {total} bytes, and {given} came"));
        }
        let is_new = !self.ended.contains(&stream);
        if is_new {
            self.ended.push(stream);
        }
        Ok(is_new)
    }
}

pub(super) fn text(wish: &SessionWish) -> Message {
    // Structs of numbers always serialise.
    Message::text(serde_json::to_string(wish).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use sandpen_types::session::{SessionId, SessionProgram, SessionSpec};

    use super::*;

    fn info(stdout: u64) -> SessionInfo {
        let spec = SessionSpec::new(SessionProgram::Shell);
        SessionInfo {
            id: SessionId::new(7).unwrap(),
            label: spec.label(),
            asked_at: chrono::DateTime::UNIX_EPOCH,
            terminal: false,
            detached: false,
            attached: true,
            stdin: 0,
            kept_from: SessionOffsets { stdout, stderr: 0 },
            end: None,
        }
    }

    fn piece(offset: u64, bytes: &'static [u8]) -> SessionPiece {
        let stream = SessionStream::Output(OutputStream::Stdout);
        SessionPiece { stream, offset, bytes: Bytes::from_static(bytes) }
    }

    #[test]
    fn what_comes_again_is_passed_over() {
        let mut hold = Hold::default();
        hold.attached(&info(5));
        let first = hold.give(piece(5, b"abc")).unwrap().unwrap();
        assert_eq!((first.offset, &first.bytes[..]), (5, &b"abc"[..]));
        let mut had = SessionOffsets::default();
        first.pass(&mut had);
        assert_eq!(had, SessionOffsets { stdout: 8, stderr: 0 });
        hold.taken = Some(SessionOffsets { stdout: 6, stderr: 0 });
        assert!(hold.has_message() && hold.next_message().is_some() && hold.next_message().is_none());
        hold.attached(&info(6));
        assert!(!hold.has_message(), "the session knows what was taken");
        assert_eq!(hold.give(piece(6, b"bc")).unwrap(), None);
        assert_eq!(&hold.give(piece(7, b"cd")).unwrap().unwrap().bytes[..], b"d");
        assert!(hold.give(piece(10, b"x")).is_err(), "a gap");
        let input = SessionPiece { stream: SessionStream::Stdin, ..piece(9, b"x") };
        assert!(hold.give(input).is_err());
    }

    #[test]
    fn the_end_of_a_stream_is_given_out_once_and_behind_all_of_it() {
        let mut hold = Hold::default();
        hold.attached(&info(0));
        assert!(hold.end(OutputStream::Stdout, 3).is_err(), "bytes are missing");
        hold.give(piece(0, b"abc")).unwrap();
        assert_eq!(hold.end(OutputStream::Stdout, 3), Ok(true));
        hold.attached(&info(0));
        assert_eq!(hold.give(piece(0, b"abc")).unwrap(), None);
        assert_eq!(hold.end(OutputStream::Stdout, 3), Ok(false), "it was");
        assert_eq!(hold.end(OutputStream::Stderr, 0), Ok(true));
    }

    #[test]
    fn the_latest_size_is_told_to_every_daemon() {
        let mut hold = Hold { size: TerminalSize::new(24, 80), ..Hold::default() };
        hold.wishes.extend([SessionWish::Resize(TerminalSize::new(1, 1).unwrap()), SessionWish::HangUp {}]);
        hold.attached(&info(0));
        let size = SessionWish::Resize(TerminalSize::new(24, 80).unwrap());
        assert_eq!(hold.wishes, [SessionWish::HangUp {}, size]);
    }
}
