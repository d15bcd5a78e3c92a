//! Frames: how requests, answers and events lie in a stream of bytes.
//!
//! ```text
//!   0           4           8
//!   ┌───────────┬───────────┬────────────────────┐
//!   │ length LE │ number LE │ payload (postcard) │
//!   └───────────┴───────────┴────────────────────┘
//! ```
//!
//! `length` counts the payload, at most [`PAYLOAD_MAX`]. An answer has the number of its request; events count from 0 on.
//!
//! [`FrameReader`] has at most a frame and what came with its end:
//!
//! ```text
//!   header ──▶ payload ──▶ (a frame) ──▶ header …
//!     └── too long ──▶ broken: every later call gives the same error
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::DATA_MAX;

/// Bytes before the payload.
pub const HEADER_LEN: usize = 8;
/// Most bytes of a payload: data, or two paths, and what goes with them.
pub const PAYLOAD_MAX: usize = DATA_MAX + (16 << 10);

/// Why bytes are not a frame, or something does not become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Announced or encoded payload above the limit.
    #[error("a frame of {0} bytes; at most {PAYLOAD_MAX} are accepted")]
    TooLong(usize),
    /// A payload that is nothing of what is expected.
    #[error("a frame that nobody understands")]
    Malformed,
}

/// A whole frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its number.
    pub number: u32,
    /// Its payload, still encoded.
    pub payload: Vec<u8>,
}

impl Frame {
    /// What it says.
    ///
    /// # Errors
    /// [`FrameError::Malformed`], also where something follows.
    pub fn message<M: DeserializeOwned>(&self) -> Result<M, FrameError> {
        match postcard::take_from_bytes(&self.payload) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Malformed),
        }
    }
}

/// A message as it goes over the wire.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode<M: Serialize>(number: u32, message: &M) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; HEADER_LEN]).map_err(|_| FrameError::Malformed)?;
    let length = bytes.len() - HEADER_LEN;
    if length > PAYLOAD_MAX {
        return Err(FrameError::TooLong(length));
    }
    // At most `PAYLOAD_MAX`.
    #[expect(clippy::cast_possible_truncation, reason = "compared with the maximum above")]
    bytes[..4].copy_from_slice(&(length as u32).to_le_bytes());
    bytes[4..HEADER_LEN].copy_from_slice(&number.to_le_bytes());
    Ok(bytes)
}

/// The length of the payload, and the number, that a header announces.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn header(bytes: [u8; HEADER_LEN]) -> Result<(usize, u32), FrameError> {
    // The length is in the lower half.
    let both = u64::from_le_bytes(bytes);
    #[expect(clippy::cast_possible_truncation, reason = "a half each")]
    let (length, number) = (both as u32 as usize, (both >> 32) as u32);
    if length > PAYLOAD_MAX { Err(FrameError::TooLong(length)) } else { Ok((length, number)) }
}

/// Finds frames in a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct FrameReader {
    bytes: Vec<u8>,
    /// Before it all was given out.
    from: usize,
    broken: Option<FrameError>,
}

impl FrameReader {
    /// More of the stream. Ask for all frames before there is still more.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.broken.is_some() {
            return;
        }
        self.bytes.drain(..self.from);
        self.from = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// [`FrameError::TooLong`]; nothing that follows is understood.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(broken) = self.broken {
            return Err(broken);
        }
        let rest = &self.bytes[self.from..];
        let Some((first, rest)) = rest.split_first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let (length, number) = match header(*first) {
            Ok(announced) => announced,
            Err(error) => {
                self.bytes = Vec::new();
                self.from = 0;
                self.broken = Some(error);
                return Err(error);
            }
        };
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = Frame { number, payload: payload.to_vec() };
        self.from += HEADER_LEN + length;
        Ok(Some(frame))
    }

    /// Whether the stream may end here.
    pub fn is_between_frames(&self) -> bool {
        self.broken.is_none() && self.from == self.bytes.len()
    }
}

#[cfg(test)]
mod tests;
