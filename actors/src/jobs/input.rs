//! The standard input of a job: bytes that writers hand over, one after the other, and that go on as the job has room.
//!
//! ```text
//!   JobStdin::write ─▶ [handed over] ─▶ within the window: kept until the job has it ─▶ sent ─▶ received
//!                        └ the next one waits until all of it is within the window
//! ```
//!
//! What the job has not received yet is sent again at the next monitor's way; what is kept here goes with the keeper.

use bytes::Bytes;
use sandpen_types::session::SessionId;
use sandpen_types::session_input::{InputPiece, SessionInput};
use sandpen_vmm::sessions::SessionRequest;
use tokio::sync::{mpsc, oneshot};

use super::JobError;

/// Most bytes of input in one message.
const INPUT_BYTES: usize = 32 << 10;
/// Writers whose bytes wait, beside the one whose turn it is.
const WRITERS: usize = 1;

/// What is handed over, and who hears when it is on its way.
#[derive(Debug)]
struct Write {
    /// None: the end.
    bytes: Option<Bytes>,
    taken: oneshot::Sender<()>,
}

/// A job's standard input. Several may write: each one's pieces come whole.
#[derive(Debug, Clone)]
pub struct JobStdin {
    id: SessionId,
    writes: mpsc::Sender<Write>,
}

impl JobStdin {
    /// Passes bytes on; resolves when they are on their way, so that a job that does not read holds up its writer only.
    ///
    /// # Errors
    /// [`JobError::InputBroke`]: the job has ended, or its keeper failed.
    pub async fn write(&self, bytes: Bytes) -> Result<(), JobError> {
        self.hand_over(Some(bytes)).await
    }

    /// Ends the input; on a terminal, types its end-of-file character.
    ///
    /// # Errors
    /// As [`JobStdin::write`].
    pub async fn close(&self) -> Result<(), JobError> {
        self.hand_over(None).await
    }

    async fn hand_over(&self, bytes: Option<Bytes>) -> Result<(), JobError> {
        let (taken, is_taken) = oneshot::channel();
        let broke = || JobError::InputBroke(self.id);
        self.writes.send(Write { bytes, taken }).await.map_err(|_| broke())?;
        is_taken.await.map_err(|_| broke())
    }
}

/// The job's side of it.
#[derive(Debug)]
pub(super) struct JobInput {
    writes: mpsc::Receiver<Write>,
    /// What of the latest one is not within the window yet.
    waiting: Option<Write>,
    input: Option<SessionInput>,
}

impl JobInput {
    /// Both sides.
    pub(super) fn new(id: SessionId) -> (JobStdin, Self) {
        let (sender, writes) = mpsc::channel(WRITERS);
        (JobStdin { id, writes: sender }, Self { writes, waiting: None, input: None })
    }

    /// A way to the session is there, which has received so many bytes.
    pub(super) fn attached(&mut self, received: u64) {
        match &mut self.input {
            Some(input) => input.attached(received),
            None => self.input = Some(SessionInput::new(received)),
        }
    }

    /// The session has received, and takes more.
    pub(super) fn window(&mut self, received: u64, limit: u64) {
        if let Some(input) = &mut self.input {
            input.window(received, limit);
        }
        self.push();
    }

    /// Nobody reads it any more.
    pub(super) fn close(&mut self) {
        if let Some(input) = &mut self.input {
            input.close();
        }
        self.push();
    }

    /// Waits for the next writer, and takes what it hands over. Never resolves where there is none; loses nothing when it is
    /// dropped.
    pub(super) async fn written(&mut self) {
        if self.waiting.is_none() && self.input.is_some() {
            match self.writes.recv().await {
                Some(write) => self.waiting = Some(write),
                None => std::future::pending::<()>().await,
            }
            self.push();
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Moves what waits into the window, as much as it has room for.
    fn push(&mut self) {
        let Some(input) = &mut self.input else { return };
        let Some(Write { bytes, taken }) = self.waiting.take() else { return };
        let rest = match &bytes {
            Some(bytes) => bytes.slice(input.push(bytes)..),
            None => Bytes::new(),
        };
        if bytes.is_none() {
            input.end();
        }
        if rest.is_empty() {
            // Whoever wrote it may have gone.
            let _ = taken.send(());
        } else {
            self.waiting = Some(Write { bytes: Some(rest), taken });
        }
    }

    /// The next thing to tell the session; it counts as sent.
    pub(super) fn next(&mut self) -> Option<SessionRequest> {
        self.input.as_mut()?.next(INPUT_BYTES).map(|piece| match piece {
            InputPiece::Bytes { offset, bytes } => SessionRequest::Input { offset, bytes: bytes.into() },
            InputPiece::End { total } => SessionRequest::EndInput { total },
        })
    }
}
