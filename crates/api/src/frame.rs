//! The binary frames of `GET …/output`: log bytes with their stream, time and position.
//!
//! ```text
//! offset  size  field
//!      0     1  kind: 1 stdout, 2 stderr, 3 gap, 4 end, 5 stdout dropped, 6 stderr dropped
//!      1     3  zero
//!      4     4  payload length in bytes, little endian, at most 1 MiB
//!      8     8  time in µs since 1970, little endian, signed (kinds 1 and 2, else 0)
//!     16     8  position of the first byte in the sandbox's whole log, little endian
//!     24        payload
//! ```
//! A gap's payload is the number of bytes that are no longer on file (u64, little endian), that of kinds 5
//! and 6 the number of bytes that were never written. The last
//! frame is always an end frame, whose payload is an [`End`] in JSON: a stream without one was cut.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use chrono::{DateTime, Utc};
use sandpen_types::output_stream::OutputStream;
use serde::{Deserialize, Serialize};

use crate::ErrorDetail;

/// `Content-Type` of a stream of frames.
pub const CONTENT_TYPE: &str = "application/vnd.sandpen.output";
/// Header of the answer: the position in the sandbox's whole log at which the stream begins.
pub const POSITION_HEADER: &str = "sandpen-position";
/// Bytes before the payload.
pub const HEADER_BYTES: usize = 24;
/// Most bytes of one payload.
pub const PAYLOAD_MAX_BYTES: usize = 1 << 20;

const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const GAP: u8 = 3;
const END: u8 = 4;
const DROPPED_STDOUT: u8 = 5;
const DROPPED_STDERR: u8 = 6;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Bytes that the workload wrote.
    Bytes {
        /// Where it wrote them.
        stream: OutputStream,
        /// When they came to file, to the microsecond.
        at: DateTime<Utc>,
        /// Position of the first one in the whole log.
        position: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Bytes that are no longer on file.
    Gap {
        /// Position of the first one.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// Bytes that were dropped while the log could not be written; they take no positions.
    Dropped {
        /// Where the workload wrote them.
        stream: OutputStream,
        /// Where they would have been.
        position: u64,
        /// How many.
        bytes: u64,
    },
    /// Nothing follows.
    End(End),
}

/// How a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Whether everything that was asked for has been sent. False: look at `error`.
    pub complete: bool,
    /// Why not everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorDetail>,
}

/// Bytes that are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A kind that this version does not know.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// A payload longer than allowed.
    #[error("a frame of {0} bytes; at most {PAYLOAD_MAX_BYTES} are allowed")]
    Length(u32),
    /// Bytes after the kind that should be zero.
    #[error("reserved bytes of a frame are not zero")]
    Reserved,
    /// A time outside of what can be represented.
    #[error("a frame's time of {0} µs cannot be represented")]
    Time(i64),
    /// The payload of a gap, of dropped bytes or of the end that cannot be read.
    #[error("the payload of a frame of kind {0} cannot be read")]
    Payload(u8),
}

impl Frame {
    /// Appends the frame to `out`. Bytes beyond [`PAYLOAD_MAX_BYTES`] go into further frames.
    pub fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::Bytes { stream, at, position, bytes } => {
                let kind = match stream {
                    OutputStream::Stdout => STDOUT,
                    OutputStream::Stderr => STDERR,
                };
                let mut position = *position;
                for part in bytes.chunks(PAYLOAD_MAX_BYTES) {
                    put(out, kind, at.timestamp_micros(), position, part);
                    position = position.wrapping_add(part.len() as u64);
                }
            }
            Self::Gap { position, bytes } => put(out, GAP, 0, *position, &bytes.to_le_bytes()),
            Self::Dropped { stream, position, bytes } => {
                let kind = match stream {
                    OutputStream::Stdout => DROPPED_STDOUT,
                    OutputStream::Stderr => DROPPED_STDERR,
                };
                put(out, kind, 0, *position, &bytes.to_le_bytes());
            }
            Self::End(end) => {
                // A struct of strings and a bool always serialises; without a payload the reader
                // reports a broken frame, which is what it would be.
                let mut payload = serde_json::to_vec(end).unwrap_or_default();
                if payload.len() > PAYLOAD_MAX_BYTES {
                    let end = End { complete: end.complete, error: None };
                    payload = serde_json::to_vec(&end).unwrap_or_default();
                }
                put(out, END, 0, 0, &payload);
            }
        }
    }

    /// Takes one whole frame from the front of `from`; `None` until there is one.
    ///
    /// # Errors
    /// A [`FrameError`]; nothing after it can be read.
    pub fn decode(from: &mut BytesMut) -> Result<Option<Self>, FrameError> {
        if from.len() < HEADER_BYTES {
            return Ok(None);
        }
        let mut header = &from[..HEADER_BYTES];
        let kind = header.get_u8();
        let reserved = header.get_uint_le(3);
        let length = header.get_u32_le();
        let micros = header.get_i64_le();
        let position = header.get_u64_le();
        if !(STDOUT..=DROPPED_STDERR).contains(&kind) {
            return Err(FrameError::Kind(kind));
        }
        if reserved != 0 {
            return Err(FrameError::Reserved);
        }
        let size = length as usize;
        if size > PAYLOAD_MAX_BYTES {
            return Err(FrameError::Length(length));
        }
        if from.len() < HEADER_BYTES + size {
            from.reserve(HEADER_BYTES + size - from.len());
            return Ok(None);
        }
        from.advance(HEADER_BYTES);
        let bytes = from.split_to(size).freeze();
        Ok(Some(match kind {
            GAP | DROPPED_STDOUT | DROPPED_STDERR => {
                let count = <[u8; 8]>::try_from(bytes.as_ref()).map_err(|_| FrameError::Payload(kind))?;
                let bytes = u64::from_le_bytes(count);
                match kind {
                    DROPPED_STDOUT => Self::Dropped { stream: OutputStream::Stdout, position, bytes },
                    DROPPED_STDERR => Self::Dropped { stream: OutputStream::Stderr, position, bytes },
                    _ => Self::Gap { position, bytes },
                }
            }
            END => Self::End(serde_json::from_slice(&bytes).map_err(|_| FrameError::Payload(kind))?),
            _ => Self::Bytes {
                stream: if kind == STDOUT { OutputStream::Stdout } else { OutputStream::Stderr },
                at: DateTime::from_timestamp_micros(micros).ok_or(FrameError::Time(micros))?,
                position,
                bytes,
            },
        }))
    }
}

fn put(out: &mut BytesMut, kind: u8, micros: i64, position: u64, payload: &[u8]) {
    out.reserve(HEADER_BYTES + payload.len());
    out.put_u8(kind);
    out.put_bytes(0, 3);
    // Callers keep payloads at or below 1 MiB.
    out.put_u32_le(u32::try_from(payload.len()).unwrap_or(u32::MAX));
    out.put_i64_le(micros);
    out.put_u64_le(position);
    out.put_slice(payload);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Frame> {
        let stream = prop_oneof![Just(OutputStream::Stdout), Just(OutputStream::Stderr)];
        let bytes = (
            stream.clone(),
            0..4_000_000_000_000_000i64,
            any::<u64>(),
            proptest::collection::vec(any::<u8>(), 1..2000),
        )
            .prop_map(|(stream, micros, position, bytes)| Frame::Bytes {
                stream,
                at: DateTime::from_timestamp_micros(micros).unwrap(),
                position,
                bytes: bytes.into(),
            });
        let gap = (any::<u64>(), any::<u64>()).prop_map(|(position, bytes)| Frame::Gap { position, bytes });
        let dropped = (stream, any::<u64>(), any::<u64>()).prop_map(|(stream, position, bytes)| Frame::Dropped {
            stream,
            position,
            bytes,
        });
        let end = (any::<bool>(), ".{0,20}").prop_map(|(complete, text)| {
            Frame::End(End {
                complete,
                error: (!complete).then(|| ErrorDetail::message(crate::ErrorCode::Internal, text)),
            })
        });
        prop_oneof![bytes, gap, dropped, end]
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut_of_the_stream(frames in proptest::collection::vec(frames(), 0..8), cut in 1usize..200) {
            let mut wire = BytesMut::new();
            for frame in &frames {
                frame.encode(&mut wire);
            }
            let mut buffer = BytesMut::new();
            let mut read = Vec::new();
            for part in wire.chunks(cut) {
                buffer.extend_from_slice(part);
                while let Some(frame) = Frame::decode(&mut buffer).unwrap() {
                    read.push(frame);
                }
            }
            prop_assert_eq!(read, frames);
            prop_assert!(buffer.is_empty());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut buffer = BytesMut::from(bytes.as_slice());
            while let Ok(Some(_)) = Frame::decode(&mut buffer) {}
        }
    }

    #[test]
    fn a_large_chunk_is_split_with_positions() {
        let bytes = Bytes::from(vec![7; PAYLOAD_MAX_BYTES + 5]);
        let frame = Frame::Bytes { stream: OutputStream::Stdout, at: DateTime::UNIX_EPOCH, position: 10, bytes };
        let mut wire = BytesMut::new();
        frame.encode(&mut wire);
        let Some(Frame::Bytes { bytes: first, .. }) = Frame::decode(&mut wire).unwrap() else { panic!() };
        assert_eq!(first.len(), PAYLOAD_MAX_BYTES);
        let Some(Frame::Bytes { position, bytes, .. }) = Frame::decode(&mut wire).unwrap() else { panic!() };
        assert_eq!((position, bytes.len()), (10 + PAYLOAD_MAX_BYTES as u64, 5));
    }
}
