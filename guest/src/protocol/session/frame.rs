//! Frames of the session port: how messages and streams' bytes lie in one stream of bytes.
//!
//! ```text
//!   0       4         5      6        7   8          16          24         32          36       40
//!   ┌───────┬─────────┬──────┬────────┬───┬──────────┬───────────┬──────────┬───────────┬────────┬─────────┐
//!   │ magic │ version │ kind │ stream │ 0 │ epoch LE │ session   │ offset   │ length LE │ CRC LE │ payload │
//!   │       │         │      │        │   │          │ LE        │ LE       │           │        │         │
//!   └───────┴─────────┴──────┴────────┴───┴──────────┴───────────┴──────────┴───────────┴────────┴─────────┘
//! ```
//!
//! `kind`: 1 a message (postcard), 2 bytes of `stream` from `offset` on; by the host, 3 and 4 likewise by the guest.
//! `length` counts the payload. The CRC (32 bits, as in zlib) covers bytes 4 to 36 and not the payload: streams' bytes are
//! not worth a guest's time, and a message that is none is found out when it is read.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::messages::{SessionCommand, SessionReport};
use super::{GUEST_PAYLOAD_MAX, HOST_PAYLOAD_MAX};
use crate::protocol::PROTOCOL_VERSION;

/// First bytes of every frame; two of them occur in no UTF-8 text.
pub(super) const MAGIC: [u8; 4] = [0xF5, b'S', b's', 0xFF];
/// Bytes before the payload.
pub const SESSION_HEADER_LEN: usize = 40;
/// What the CRC covers.
const CHECKED: std::ops::Range<usize> = 4..36;

/// A stream of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
pub enum SessionStream {
    /// Host → guest: its standard input.
    Stdin,
    /// Guest → host: its standard output, or all that its terminal shows.
    Stdout,
    /// Guest → host: its standard error.
    Stderr,
    /// Host → guest: its encoded [`SessionStart`](super::SessionStart).
    Spec,
}

impl SessionStream {
    const ALL: [Self; 4] = [Self::Stdin, Self::Stdout, Self::Stderr, Self::Spec];

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| *stream as u8 == byte)
    }
}

/// What one side sends: its messages, streams and limits.
pub trait Direction {
    /// Its messages.
    type Message: Serialize + DeserializeOwned;
    /// Kind of a message's frame; that of bytes is one more.
    const KIND: u8;
    /// Most bytes of a payload.
    const PAYLOAD_MAX: usize;
    /// Whether bytes of the stream go this way.
    fn carries(stream: SessionStream) -> bool;
}

/// Host → guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostFrame;

impl Direction for HostFrame {
    type Message = SessionCommand;
    const KIND: u8 = 1;
    const PAYLOAD_MAX: usize = HOST_PAYLOAD_MAX;

    fn carries(stream: SessionStream) -> bool {
        matches!(stream, SessionStream::Stdin | SessionStream::Spec)
    }
}

/// Guest → host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestFrame;

impl Direction for GuestFrame {
    type Message = SessionReport;
    const KIND: u8 = 3;
    const PAYLOAD_MAX: usize = GUEST_PAYLOAD_MAX;

    fn carries(stream: SessionStream) -> bool {
        matches!(stream, SessionStream::Stdout | SessionStream::Stderr)
    }
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFrame<M> {
    /// The number of the host's `Resume`.
    pub epoch: u64,
    /// Which session; 0 in messages that are about none.
    pub session: u64,
    /// What it says.
    pub content: Content<M>,
}

/// See [`SessionFrame`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content<M> {
    /// A message.
    Message(M),
    /// Bytes of a stream.
    Bytes {
        /// Which.
        stream: SessionStream,
        /// The offset of the first one from the session's begin.
        offset: u64,
        /// The bytes, at least one.
        bytes: Vec<u8>,
    },
}

/// Why bytes are not a frame, or something does not become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionFrameError {
    /// The stream is not at the beginning of a frame.
    #[error("bytes that are no frame")]
    Garbage,
    /// More was passed over than can lie before the first frame.
    #[error("no frame within {skipped} bytes")]
    NoFrame {
        /// How much was.
        skipped: usize,
    },
    /// Announced or encoded payload above the limit, or no bytes of a stream at all.
    #[error("a frame of {len} bytes where 1 to {max} are allowed")]
    Length {
        /// Its payload's length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The checksum of the header is wrong.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// The other side was built from another version.
    #[error("the other side speaks version {theirs} of the session protocol, this side {PROTOCOL_VERSION}")]
    Version {
        /// Its version.
        theirs: u8,
    },
    /// A frame of the other direction, or of no direction.
    #[error("a frame of kind {kind} and stream {stream} where it does not belong")]
    Kind {
        /// What came.
        kind: u8,
        /// Its stream.
        stream: u8,
    },
    /// The payload is no message, or more than one.
    #[error("a frame whose payload is no message")]
    Payload,
}

/// The frame of a message.
///
/// # Errors
/// [`SessionFrameError::Length`] for one above its limit.
pub fn encode_message<D: Direction>(
    epoch: u64,
    session: u64,
    message: &D::Message,
) -> Result<Vec<u8>, SessionFrameError> {
    let frame = postcard::to_extend(message, vec![0; SESSION_HEADER_LEN]).map_err(|_| SessionFrameError::Payload)?;
    finish::<D>(frame, D::KIND, 0, [epoch, session, 0])
}

/// The frame of a stream's bytes from `offset` on.
///
/// # Errors
/// [`SessionFrameError::Length`] for none, or more than fit.
pub fn encode_bytes<D: Direction>(
    epoch: u64,
    session: u64,
    stream: SessionStream,
    offset: u64,
    bytes: &[&[u8]],
) -> Result<Vec<u8>, SessionFrameError> {
    let len = bytes.iter().map(|part| part.len()).sum::<usize>();
    if len == 0 {
        return Err(SessionFrameError::Length { len, max: D::PAYLOAD_MAX });
    }
    let mut frame = Vec::with_capacity(SESSION_HEADER_LEN + len);
    frame.resize(SESSION_HEADER_LEN, 0);
    for part in bytes {
        frame.extend_from_slice(part);
    }
    finish::<D>(frame, D::KIND + 1, stream as u8, [epoch, session, offset])
}

fn finish<D: Direction>(
    mut frame: Vec<u8>,
    kind: u8,
    stream: u8,
    numbers: [u64; 3],
) -> Result<Vec<u8>, SessionFrameError> {
    let len = frame.len() - SESSION_HEADER_LEN;
    let too_long = SessionFrameError::Length { len, max: D::PAYLOAD_MAX };
    if len > D::PAYLOAD_MAX {
        return Err(too_long);
    }
    let len = u32::try_from(len).map_err(|_| too_long)?;
    frame[..4].copy_from_slice(&MAGIC);
    frame[4..8].copy_from_slice(&[PROTOCOL_VERSION, kind, stream, 0]);
    for (place, number) in (8..).step_by(8).zip(numbers) {
        frame[place..place + 8].copy_from_slice(&number.to_le_bytes());
    }
    frame[32..36].copy_from_slice(&len.to_le_bytes());
    let crc = crc32fast::hash(&frame[CHECKED]);
    frame[36..40].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

pub(super) fn number(bytes: &[u8], place: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(place..)?.first_chunk()?))
}

/// A frame and how many bytes it took; `None` when more bytes are needed.
#[expect(clippy::type_complexity, reason = "named nowhere else")]
pub(super) fn parse<D: Direction>(
    bytes: &[u8],
) -> Result<Option<(SessionFrame<D::Message>, usize)>, SessionFrameError> {
    let magic_len = bytes.len().min(MAGIC.len());
    if bytes[..magic_len] != MAGIC[..magic_len] {
        return Err(SessionFrameError::Garbage);
    }
    let Some(header) = bytes.first_chunk::<SESSION_HEADER_LEN>() else { return Ok(None) };
    let word =
        |place: usize| header.get(place..).and_then(|rest| rest.first_chunk()).map(|word| u32::from_le_bytes(*word));
    let (Some(len), Some(crc)) = (word(32), word(36)) else { return Ok(None) };
    if crc32fast::hash(&header[CHECKED]) != crc {
        return Err(SessionFrameError::Checksum);
    }
    let [version, kind, stream, zero] = [header[4], header[5], header[6], header[7]];
    if version != PROTOCOL_VERSION {
        return Err(SessionFrameError::Version { theirs: version });
    }
    let misplaced = SessionFrameError::Kind { kind, stream };
    let carried = match SessionStream::from_byte(stream) {
        _ if zero != 0 => return Err(misplaced),
        _ if kind == D::KIND && stream == 0 => None,
        Some(stream) if kind == D::KIND + 1 && D::carries(stream) => Some(stream),
        _ => return Err(misplaced),
    };
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    if len > D::PAYLOAD_MAX || len == 0 {
        return Err(SessionFrameError::Length { len, max: D::PAYLOAD_MAX });
    }
    let Some(payload) = bytes.get(SESSION_HEADER_LEN..SESSION_HEADER_LEN + len) else { return Ok(None) };
    let (Some(epoch), Some(session), Some(offset)) = (number(header, 8), number(header, 16), number(header, 24)) else {
        return Ok(None);
    };
    let content = match carried {
        Some(stream) => Content::Bytes { stream, offset, bytes: payload.to_vec() },
        None => match postcard::take_from_bytes(payload) {
            Ok((message, [])) => Content::Message(message),
            Ok(_) | Err(_) => return Err(SessionFrameError::Payload),
        },
    };
    Ok(Some((SessionFrame { epoch, session, content }, SESSION_HEADER_LEN + len)))
}
