//! Reads a VMM log as it comes.

use bytes::Bytes;

use super::ClientError;
use super::connection::Reply;

/// A VMM log, piece by piece.
pub struct VmmLogReader {
    reply: Reply,
}

impl VmmLogReader {
    pub(super) fn new(reply: Reply) -> Self {
        Self { reply }
    }

    /// The next bytes; `None` when everything has come. Safe to cancel.
    ///
    /// # Errors
    /// [`ClientError::VmmLogCut`] where the daemon broke off before. Nobody goes on then: a start of the sandbox
    /// begins the log anew, so a position in it means nothing to the next daemon.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        self.reply.next().await.map_err(|error| ClientError::VmmLogCut(Box::new(error)))
    }
}
