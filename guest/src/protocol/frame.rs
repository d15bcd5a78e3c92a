//! Frames: how a message lies in a stream of bytes.
//!
//! ```text
//!   0        4         5      6           10        14
//!   ┌────────┬─────────┬──────┬───────────┬─────────┬─────────────────┐
//!   │ magic  │ version │ kind │ length LE │ CRC LE  │ payload         │
//!   └────────┴─────────┴──────┴───────────┴─────────┴─────────────────┘
//! ```
//!
//! `length` counts the payload (postcard); the CRC (32 bits, as in zlib) covers version, kind,
//! length and payload. Two bytes of the magic occur in no UTF-8 text, so no message for users can
//! contain it. This layout stays the same in every version, so that another version's frame is
//! recognised as such.
//!
//! [`FrameReader`] as a state machine; its memory is bounded by the message's largest frame:
//!
//! ```text
//!               bytes that are no frame          (Garbage::SkipFirst or Skip)
//!                  ┌─────────┐
//!                  ▼         │
//!   ────────▶ searching ─────┘
//!              ▲     │ whole frame
//!   only with  │     ▼                 no frame (Garbage::Refuse, or SkipFirst used up)
//!     Skip   in step ───────────────▶ broken: every later call gives the same error
//! ```

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::PROTOCOL_VERSION;
use super::frame_buffer::FrameBuffer;

/// First bytes of every frame.
const MAGIC: [u8; 4] = [0xF5, b'S', b'p', 0xFF];
/// Bytes before the payload.
pub const HEADER_LEN: usize = 14;

/// What can lie in a frame.
pub trait Message: Serialize + DeserializeOwned {
    /// Tells the kinds of messages apart on the wire.
    const KIND: u8;
    /// Most bytes of an encoded message.
    const MAX_PAYLOAD: usize;
}

/// Why bytes are not a frame, or a message does not become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream is not at the beginning of a frame.
    #[error("bytes that are no frame")]
    Garbage,
    /// More was skipped than can lie before a frame.
    #[error("no frame within {skipped} bytes")]
    NoFrame {
        /// How much was skipped.
        skipped: usize,
    },
    /// Announced or encoded payload above the limit.
    #[error("a frame of {len} bytes where at most {max} are allowed")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The checksum is wrong.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// The other side was built from another version.
    #[error(
        "the other side speaks version {theirs} of the control protocol, this side {PROTOCOL_VERSION}: end the sandbox and start it again"
    )]
    Version {
        /// Its version.
        theirs: u8,
    },
    /// A frame of the other direction or of another port.
    #[error("a frame of kind {kind} where kind {expected} belongs")]
    Kind {
        /// What came.
        kind: u8,
        /// What belongs here.
        expected: u8,
    },
    /// The payload is no message, or more than one.
    #[error("a frame whose payload is no message")]
    Payload,
}

/// The frame of `message`.
///
/// # Errors
/// [`FrameError::TooLong`] for a message above its limit.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let frame = postcard::to_extend(message, vec![0; HEADER_LEN]).map_err(|_| FrameError::Payload)?;
    let len = frame.len() - HEADER_LEN;
    let too_long = FrameError::TooLong { len, max: M::MAX_PAYLOAD };
    if len > M::MAX_PAYLOAD {
        return Err(too_long);
    }
    let len = u32::try_from(len).map_err(|_| too_long)?;
    let mut frame = frame;
    frame[..4].copy_from_slice(&MAGIC);
    frame[4] = PROTOCOL_VERSION;
    frame[5] = M::KIND;
    frame[6..10].copy_from_slice(&len.to_le_bytes());
    let crc = checksum(&frame);
    frame[10..14].copy_from_slice(&crc.to_le_bytes());
    Ok(frame)
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[4..10]);
    hasher.update(&frame[HEADER_LEN..]);
    hasher.finalize()
}

/// For tests that forge frames.
#[cfg(test)]
pub(super) fn tests_checksum(frame: &[u8]) -> u32 {
    checksum(frame)
}

/// What a [`FrameReader`] does with bytes that are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Garbage {
    /// Gives an error.
    Refuse,
    /// Skips up to this many bytes before the first frame, then refuses: for a reader that joins in
    /// the middle of a stream.
    SkipFirst(usize),
    /// Skips them always. For a trusted sender that may die in the middle of a frame only: what a
    /// hostile one sends could cost much CPU.
    Skip,
}

/// Takes bytes as they come and gives messages.
///
/// [`FrameReader::push`] takes at most what one largest frame needs; call [`FrameReader::next`]
/// until it gives `None` before pushing the rest.
#[derive(Debug)]
pub struct FrameReader<M> {
    buffer: FrameBuffer,
    garbage: Garbage,
    broken: Option<FrameError>,
    message: PhantomData<fn() -> M>,
}

impl<M: Message> FrameReader<M> {
    /// Most bytes that are held.
    pub const CAPACITY: usize = HEADER_LEN + M::MAX_PAYLOAD;

    /// An empty reader.
    pub fn new(garbage: Garbage) -> Self {
        Self { buffer: FrameBuffer::default(), garbage, broken: None, message: PhantomData }
    }

    /// Takes bytes from the front of `bytes` and says how many: all, unless
    /// [`FrameReader::CAPACITY`] is reached.
    #[must_use = "the rest of the bytes must be pushed later"]
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.buffer.push(bytes, Self::CAPACITY)
    }

    /// Bytes that are held now.
    pub fn buffered(&self) -> usize {
        self.buffer.rest().len()
    }

    /// The next message; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Any [`FrameError`]; the same one again for ever after.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and goes on would surprise")]
    pub fn next(&mut self) -> Result<Option<M>, FrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        loop {
            match parse::<M>(self.buffer.rest()) {
                Parsed::Message(message, len) => {
                    self.buffer.read(len);
                    if matches!(self.garbage, Garbage::SkipFirst(_)) {
                        self.garbage = Garbage::Refuse;
                    }
                    return Ok(Some(message));
                }
                Parsed::Incomplete => return Ok(None),
                Parsed::NoFrame(error) => self.skip(error)?,
                Parsed::Refused(error) => return Err(self.break_with(error)),
            }
        }
    }

    /// Goes to the next byte that may begin a frame.
    fn skip(&mut self, error: FrameError) -> Result<(), FrameError> {
        let limit = match self.garbage {
            Garbage::Refuse => return Err(self.break_with(error)),
            Garbage::SkipFirst(limit) => limit,
            Garbage::Skip => usize::MAX,
        };
        self.buffer.skip_to(MAGIC[0]);
        let skipped = self.buffer.skipped();
        if skipped > limit {
            return Err(self.break_with(FrameError::NoFrame { skipped }));
        }
        Ok(())
    }

    fn break_with(&mut self, error: FrameError) -> FrameError {
        self.broken = Some(error.clone());
        self.buffer.clear();
        error
    }
}

enum Parsed<M> {
    /// A message and how many bytes it took.
    Message(M, usize),
    /// May become a frame.
    Incomplete,
    /// Will never become a frame.
    NoFrame(FrameError),
    /// A whole frame, but not one for this reader: skipping does not help.
    Refused(FrameError),
}

fn parse<M: Message>(bytes: &[u8]) -> Parsed<M> {
    let magic_len = bytes.len().min(MAGIC.len());
    if bytes[..magic_len] != MAGIC[..magic_len] {
        return Parsed::NoFrame(FrameError::Garbage);
    }
    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
        return Parsed::Incomplete;
    };
    let [_, _, _, _, version, kind, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if len > M::MAX_PAYLOAD {
        return Parsed::NoFrame(FrameError::TooLong { len, max: M::MAX_PAYLOAD });
    }
    let Some(frame) = bytes.get(..HEADER_LEN + len) else {
        return Parsed::Incomplete;
    };
    if checksum(frame) != u32::from_le_bytes([c0, c1, c2, c3]) {
        return Parsed::NoFrame(FrameError::Checksum);
    }
    if version != PROTOCOL_VERSION {
        return Parsed::Refused(FrameError::Version { theirs: version });
    }
    if kind != M::KIND {
        return Parsed::Refused(FrameError::Kind { kind, expected: M::KIND });
    }
    match postcard::take_from_bytes(&frame[HEADER_LEN..]) {
        Ok((message, [])) => Parsed::Message(message, frame.len()),
        Ok(_) | Err(_) => Parsed::Refused(FrameError::Payload),
    }
}
