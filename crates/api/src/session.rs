//! Sessions on the wire: how one is asked for, and what goes through the WebSocket of `GET …/sessions/{id}/attach`.
//!
//! Messages in text are a JSON object with its `type`: [`SessionNews`] from the daemon, of which a client passes over those that
//! it does not know, and [`SessionWish`] from the client.
//! Binary ones are a piece of a stream:
//!
//! ```text
//! offset  size  field
//!      0     1  stream: 0 stdin (from the client), 1 stdout, 2 stderr
//!      1     8  offset of the first byte in that stream, little endian
//!      9        bytes, 1 to 64 KiB
//! ```

use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionId, SessionInfo, SessionProgram, SessionSpec};
use sandpen_types::spec::{ByteString, TerminalSize, WorkloadUser};
use serde::{Deserialize, Serialize};

use crate::{ErrorCode, Word};

/// Bytes of a piece before those of its stream.
pub const PIECE_HEADER_BYTES: usize = 9;
/// Most bytes of a stream in one piece.
pub const PIECE_MAX_BYTES: usize = 64 << 10;
/// Most bytes of a message in text from a client.
pub const WISH_MAX_BYTES: usize = 4 << 10;
/// Most bytes of a message in text from a daemon.
pub const NEWS_MAX_BYTES: usize = 64 << 10;

/// Body of `POST …/sessions`. `Debug` shows the names of the environment only: its values may be secrets.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenSession {
    /// What the client calls it, at random: asked for again with the same, nothing runs twice.
    pub id: SessionId,
    /// What it runs: `{"command": […]}`, `"shell"` or `"processes"`.
    pub program: SessionProgram,
    /// Set besides the workload's environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<(ByteString, ByteString)>,
    /// `USER[:GROUP]`; the workload's where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<WorkloadUser>,
    /// Where it runs; where the workload does, without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<ByteString>,
    /// A terminal of this size instead of pipes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
    /// Whether its client feeds its standard input.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub stdin: bool,
    /// Whether it runs on without a client.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// How long it may run before it is killed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Duration>,
}

impl OpenSession {
    /// How `spec` is asked for under this id.
    pub fn new(id: SessionId, spec: SessionSpec) -> Self {
        let SessionSpec { program, env, user, workdir, terminal, stdin, detached, timeout } = spec;
        Self { id, program, env, user, workdir, terminal, stdin, detached, timeout }
    }
}

impl From<OpenSession> for (SessionId, SessionSpec) {
    fn from(open: OpenSession) -> Self {
        let OpenSession { id, program, env, user, workdir, terminal, stdin, detached, timeout } = open;
        (id, SessionSpec { program, env, user, workdir, terminal, stdin, detached, timeout })
    }
}

impl fmt::Debug for OpenSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (id, spec) = self.clone().into();
        f.debug_tuple("OpenSession").field(&id).field(&spec).finish()
    }
}

/// Body of `POST …/sessions/{id}/signal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionSignal {
    /// The signal's number, 1 to 64, for the session's process group.
    pub signal: i32,
}

/// What the daemon tells a session's client, in order with the pieces of its output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionNews {
    /// How it is; the first message.
    Info(SessionInfo),
    /// It has the input before `received` for good, and takes that before `limit`.
    InputWindow {
        /// An offset.
        received: u64,
        /// An offset.
        limit: u64,
    },
    /// Nobody reads its input any more.
    InputClosed {},
    /// All of an output came before, and no more will; the session may go on.
    StreamEnded {
        /// Which.
        stream: OutputStream,
        /// All of its bytes.
        total: u64,
    },
    /// Its end, after all of its output. The last message.
    Ended {
        /// How.
        end: SessionEnd,
    },
    /// Another client has it now. The last message.
    Replaced {},
    /// It cannot go on like this. The last message.
    Error {
        /// A stable word, for programs.
        code: Word<ErrorCode>,
        /// One line, for people.
        message: String,
    },
    /// Of a later version: to be passed over.
    #[serde(other)]
    Unknown,
}

/// What a client tells a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SessionWish {
    /// The client has all output before these offsets for good.
    Taken {
        /// Of standard output, or of all that a terminal shows.
        stdout: u64,
        /// Of standard error.
        stderr: u64,
    },
    /// Its input ends after so many bytes.
    EndInput {
        /// All of them.
        total: u64,
    },
    /// Its terminal has this size from now on.
    Resize(TerminalSize),
    /// A signal for its process group.
    Signal(SessionSignal),
    /// It is hung up.
    HangUp {},
    /// The client goes on purpose: the session runs on without one.
    Detach {},
    /// The client has the end: the session is forgotten.
    TakenEnd {},
}

/// A stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionStream {
    /// From the client.
    Stdin,
    /// From the session.
    Output(OutputStream),
}

/// Bytes of a stream of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionPiece {
    /// Which.
    pub stream: SessionStream,
    /// The offset of the first one.
    pub offset: u64,
    /// 1 byte to [`PIECE_MAX_BYTES`].
    pub bytes: Bytes,
}

/// A binary message that is no piece of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionPieceError {
    /// Too short or too long.
    #[error("a binary message of {0} bytes; {PIECE_HEADER_BYTES} and 1 to {PIECE_MAX_BYTES} more are expected")]
    Length(usize),
    /// A stream that there is not.
    #[error("a binary message for stream {0}; there are 0 (stdin), 1 (stdout) and 2 (stderr)")]
    Stream(u8),
    /// More than can be counted.
    #[error("a binary message at offset {0}, beyond the end of any stream")]
    Offset(u64),
}

impl SessionPiece {
    /// The messages that carry these bytes: as many as that takes.
    pub fn encode(stream: SessionStream, offset: u64, bytes: &[u8]) -> impl Iterator<Item = Bytes> {
        let number = match stream {
            SessionStream::Stdin => 0,
            SessionStream::Output(OutputStream::Stdout) => 1,
            SessionStream::Output(OutputStream::Stderr) => 2,
        };
        let mut offset = offset;
        bytes.chunks(PIECE_MAX_BYTES).map(move |chunk| {
            let mut message = BytesMut::with_capacity(PIECE_HEADER_BYTES + chunk.len());
            message.put_u8(number);
            message.put_u64_le(offset);
            message.put_slice(chunk);
            offset = offset.wrapping_add(chunk.len() as u64);
            message.freeze()
        })
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`SessionPieceError`].
    pub fn decode(mut message: Bytes) -> Result<Self, SessionPieceError> {
        let length = message.len();
        if !(PIECE_HEADER_BYTES + 1..=PIECE_HEADER_BYTES + PIECE_MAX_BYTES).contains(&length) {
            return Err(SessionPieceError::Length(length));
        }
        let stream = match message.get_u8() {
            0 => SessionStream::Stdin,
            1 => SessionStream::Output(OutputStream::Stdout),
            2 => SessionStream::Output(OutputStream::Stderr),
            other => return Err(SessionPieceError::Stream(other)),
        };
        let offset = message.get_u64_le();
        if offset.checked_add(message.len() as u64).is_none() {
            return Err(SessionPieceError::Offset(offset));
        }
        Ok(Self { stream, offset, bytes: message })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams() -> impl Strategy<Value = SessionStream> {
        let [stdout, stderr] = [OutputStream::Stdout, OutputStream::Stderr].map(SessionStream::Output);
        prop_oneof![Just(SessionStream::Stdin), Just(stdout), Just(stderr)]
    }

    proptest! {
        #[test]
        fn pieces_are_read_as_they_were_written(
            stream in streams(),
            offset in 0..u64::MAX / 2,
            bytes in (any::<u8>(), 0..3 * PIECE_MAX_BYTES).prop_map(|(byte, count)| vec![byte; count]),
        ) {
            let (mut next, mut read) = (offset, Vec::new());
            for message in SessionPiece::encode(stream, offset, &bytes) {
                let piece = SessionPiece::decode(message).unwrap();
                prop_assert_eq!((piece.stream, piece.offset), (stream, next));
                next += piece.bytes.len() as u64;
                read.extend_from_slice(&piece.bytes);
            }
            prop_assert_eq!(read, bytes);
        }

        #[test]
        fn any_message_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64), text in ".{0,80}") {
            let _ = SessionPiece::decode(bytes.into());
            let _ = serde_json::from_str::<SessionWish>(&text);
            let _ = serde_json::from_str::<SessionNews>(&text);
        }
    }

    #[test]
    fn what_is_no_piece_is_refused() {
        let of = |stream: u8, offset: u64, count: usize| {
            let bytes = [&[stream][..], &offset.to_le_bytes(), &vec![7; count]].concat();
            SessionPiece::decode(bytes.into())
        };
        assert!(of(0, 0, 1).is_ok() && of(2, 5, PIECE_MAX_BYTES).is_ok());
        assert_eq!(of(0, 0, 0), Err(SessionPieceError::Length(9)));
        assert_eq!(of(0, 0, PIECE_MAX_BYTES + 1), Err(SessionPieceError::Length(PIECE_MAX_BYTES + 10)));
        assert_eq!(of(3, 0, 1), Err(SessionPieceError::Stream(3)));
        assert_eq!(of(0, u64::MAX, 1), Err(SessionPieceError::Offset(u64::MAX)));
        assert_eq!(SessionPiece::decode(Bytes::new()), Err(SessionPieceError::Length(0)));
    }

    #[test]
    fn wishes_are_read_strictly() {
        let read = |text: &str| serde_json::from_str::<SessionWish>(text);
        assert_eq!(read(r#"{"type":"hang_up"}"#).unwrap(), SessionWish::HangUp {});
        for odd in [
            "",
            "null",
            "[]",
            "{}",
            r#""hang_up""#,
            r#"{"type":"hangup"}"#,
            r#"{"type":"hang_up","x":1}"#,
            r#"{"type":"hang_up","type":"hang_up"}"#,
            r#"{"type":"taken","stdout":1}"#,
            r#"{"type":"taken","stdout":1,"stderr":-1}"#,
            r#"{"type":"taken","stdout":1,"stderr":1,"stdin":1}"#,
            r#"{"type":"taken","stdout":1,"stderr":18446744073709551616}"#,
            r#"{"type":"end_input","total":1.5}"#,
            r#"{"type":"resize","rows":0,"cols":1}"#,
            r#"{"type":"resize","rows":1,"cols":1,"x":1}"#,
            r#"{"type":"signal","signal":"TERM"}"#,
            r#"{"type":"signal","signal":1,"x":1}"#,
            r#"{"type":"info"}"#,
        ] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn news_of_a_later_version_are_passed_over() {
        let read = |text: &str| serde_json::from_str::<SessionNews>(text);
        assert_eq!(read(r#"{"type":"of_later","x":[1],"end":"gone"}"#).unwrap(), SessionNews::Unknown);
        assert_eq!(read(r#"{"type":"input_closed","x":1}"#).unwrap(), SessionNews::InputClosed {});
        for odd in ["{}", "null", r#"{"type":7}"#, r#"{"type":"stream_ended"}"#] {
            assert!(read(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let spec = SessionSpec { env: vec![("TOKEN".into(), "s3cret".into())], ..SessionSpec::command(["sh"]) };
        let open = OpenSession::new(SessionId::new(7).unwrap(), spec.clone());
        let shown = format!("{open:?}");
        assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
        assert_eq!(<(SessionId, SessionSpec)>::from(open), (SessionId::new(7).unwrap(), spec));
    }
}
