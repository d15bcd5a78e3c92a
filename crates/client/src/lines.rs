//! A JSON object a line, as a daemon streams them.

use std::marker::PhantomData;
use std::path::PathBuf;

use bytes::{Buf as _, BytesMut};
use serde::de::DeserializeOwned;

use super::connection::Reply;
use super::error::ClientError;

/// Longest line that is read: an event has a few hundred bytes, a list of images some thousands.
const LINE_MAX_BYTES: usize = 1 << 20;

/// The lines of one answer.
pub(crate) struct LineReader<T> {
    socket: PathBuf,
    reply: Reply,
    buffer: BytesMut,
    lines: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> LineReader<T> {
    /// Of an answer of the daemon at a socket.
    pub fn new(socket: PathBuf, reply: Reply) -> Self {
        Self { socket, reply, buffer: BytesMut::new(), lines: PhantomData }
    }

    /// The next line; `None` at the end of the answer. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::Json`] and [`ClientError::TooLarge`], and what became of the connection.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                return serde_json::from_slice(&line)
                    .map(Some)
                    .map_err(|source| ClientError::Json { socket: self.socket.clone(), source });
            }
            if self.buffer.len() > LINE_MAX_BYTES {
                return Err(ClientError::TooLarge { socket: self.socket.clone(), limit: LINE_MAX_BYTES });
            }
            match self.reply.next().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }
}
