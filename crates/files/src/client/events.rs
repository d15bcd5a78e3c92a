//! Events of something that is watched, from the bytes of its stream.

use super::FilesError;
use crate::event::WatchEvent;
use crate::frame::FrameReader;

/// Finds events in a stream that comes in pieces.
#[derive(Debug, Default)]
pub struct EventReader {
    reader: FrameReader,
    next: u32,
}

impl EventReader {
    /// More of the stream. Ask for all events before there is still more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.reader.push(bytes);
    }

    /// The next event.
    ///
    /// # Errors
    /// [`FilesError::Frame`] and [`FilesError::Nonsense`]: nothing that follows can be understood.
    pub fn next_event(&mut self) -> Result<Option<WatchEvent>, FilesError> {
        let Some(frame) = self.reader.next_frame()? else { return Ok(None) };
        if frame.number != self.next {
            return Err(FilesError::Nonsense("events that do not follow each other"));
        }
        self.next = self.next.wrapping_add(1);
        Ok(Some(frame.message()?))
    }
}
