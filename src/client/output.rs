//! Reads a stream of output frames.

use bytes::BytesMut;

use super::ClientError;
use super::connection::Reply;
use crate::api::ErrorDetail;
use crate::api::frame::{End, Frame, POSITION_HEADER};

/// An output stream, frame by frame.
pub struct OutputReader {
    position: Option<u64>,
    reply: Reply,
    buffer: BytesMut,
    ended: bool,
}

impl OutputReader {
    pub(super) fn new(reply: Reply) -> Self {
        Self { position: reply.number(POSITION_HEADER), reply, buffer: BytesMut::new(), ended: false }
    }

    /// Position in the whole log of the first byte; `None` where the daemon does not say.
    pub fn position(&self) -> Option<u64> {
        self.position
    }

    /// The next bytes or gap; `None` when everything has come. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::OutputIncomplete`] and [`ClientError::OutputCut`] where not everything came.
    pub async fn next(&mut self) -> Result<Option<Frame>, ClientError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            match Frame::decode(&mut self.buffer)? {
                Some(Frame::End(End { complete: true, .. })) => self.ended = true,
                Some(Frame::End(End { complete: false, error })) => {
                    self.ended = true;
                    let unsaid = || ErrorDetail::message("internal", "the daemon does not say why");
                    return Err(ClientError::OutputIncomplete(error.unwrap_or_else(unsaid)));
                }
                Some(frame) => return Ok(Some(frame)),
                None => {
                    let Some(bytes) = self.reply.next().await? else {
                        self.ended = true;
                        return Err(ClientError::OutputCut);
                    };
                    self.buffer.extend_from_slice(&bytes);
                }
            }
        }
    }
}
