//! Takes frames out of a stream of bytes.
//!
//! [`SessionFrameReader`] as a state machine; it holds at most one largest frame:
//!
//! ```text
//!                 bytes that are no frame of this epoch (at most the limit)
//!                  ┌─────────┐
//!                  ▼         │
//!   ──join──▶ searching ─────┘
//!                  │ whole frame of this epoch
//!                  ▼             no frame
//!   ──new──▶   in step ───────────────────▶ broken: every later call gives the same error
//!   ──lenient──▶ passes over what is no frame, for ever
//! ```

use super::super::frame_buffer::FrameBuffer;
use super::SESSION_HEADER_LEN;
use super::frame::{Direction, MAGIC, SessionFrame, SessionFrameError, number, parse};

/// What a reader does with bytes that are no frame of its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Passes over so many of them before the first frame of `epoch`.
    Until { epoch: u64, left: usize },
    /// Passes over all of them.
    Always,
    /// Gives an error.
    InStep,
}

/// Takes bytes as they come and gives the frames of a direction.
///
/// [`SessionFrameReader::push`] takes at most what one largest frame needs; call [`SessionFrameReader::next`] until it
/// gives `None` before pushing the rest.
#[derive(Debug)]
pub struct SessionFrameReader<D> {
    buffer: FrameBuffer,
    search: Search,
    broken: Option<SessionFrameError>,
    direction: std::marker::PhantomData<fn() -> D>,
}

impl<D: Direction> SessionFrameReader<D> {
    /// Most bytes that are held.
    pub const CAPACITY: usize = SESSION_HEADER_LEN + D::PAYLOAD_MAX;

    /// A reader that begins where a frame begins.
    pub fn new() -> Self {
        Self::with(Search::InStep)
    }

    /// A reader that joins anywhere and passes over up to `limit` bytes before the first frame of `epoch`.
    pub fn join(epoch: u64, limit: usize) -> Self {
        Self::with(Search::Until { epoch, left: limit })
    }

    /// A reader of what is believed: bytes that are no frame are passed over.
    pub fn lenient() -> Self {
        Self::with(Search::Always)
    }

    fn with(search: Search) -> Self {
        Self { buffer: FrameBuffer::default(), search, broken: None, direction: std::marker::PhantomData }
    }

    /// Takes bytes from the front of `bytes` and says how many: all, unless [`SessionFrameReader::CAPACITY`] is reached.
    #[must_use = "the rest of the bytes must be pushed later"]
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        self.buffer.push(bytes, Self::CAPACITY)
    }

    /// Bytes that are held now.
    pub fn buffered(&self) -> usize {
        self.buffer.rest().len()
    }

    /// The next frame; `None` when more bytes are needed.
    ///
    /// # Errors
    /// Any [`SessionFrameError`]; the same one again for ever after.
    #[expect(clippy::should_implement_trait, reason = "an iterator that ends and goes on would surprise")]
    pub fn next(&mut self) -> Result<Option<SessionFrame<D::Message>>, SessionFrameError> {
        if let Some(error) = &self.broken {
            return Err(error.clone());
        }
        loop {
            let bytes = self.buffer.rest();
            match (parse::<D>(bytes), self.search) {
                (Ok(Some((frame, len))), Search::InStep | Search::Always) => {
                    self.buffer.read(len);
                    return Ok(Some(frame));
                }
                (Ok(Some((frame, len))), Search::Until { epoch, .. }) if frame.epoch == epoch => {
                    self.buffer.read(len);
                    self.search = Search::InStep;
                    return Ok(Some(frame));
                }
                (Ok(None), Search::InStep | Search::Always) => return Ok(None),
                // What may become a frame of another epoch is no reason to wait: one of ours may be inside.
                (Ok(None), Search::Until { epoch, .. }) if may_be_of(bytes, epoch) => return Ok(None),
                (Err(error), Search::InStep) => return Err(self.break_with(error)),
                (Err(_), Search::Always) => drop(self.buffer.skip_to(MAGIC[0])),
                (_, Search::Until { epoch, left }) => self.skip_within(epoch, left)?,
            }
        }
    }

    /// Goes to the next byte that may begin a frame.
    fn skip_within(&mut self, epoch: u64, left: usize) -> Result<(), SessionFrameError> {
        let Some(left) = left.checked_sub(self.buffer.skip_to(MAGIC[0])) else {
            let skipped = self.buffer.skipped();
            return Err(self.break_with(SessionFrameError::NoFrame { skipped }));
        };
        self.search = Search::Until { epoch, left };
        Ok(())
    }

    fn break_with(&mut self, error: SessionFrameError) -> SessionFrameError {
        self.broken = Some(error.clone());
        self.buffer.clear();
        error
    }
}

impl<D: Direction> Default for SessionFrameReader<D> {
    fn default() -> Self {
        Self::new()
    }
}

/// Whether so few bytes may still become a frame of this epoch.
fn may_be_of(bytes: &[u8], epoch: u64) -> bool {
    number(bytes, 8).is_none_or(|theirs| theirs == epoch)
}
