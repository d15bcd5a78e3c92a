//! What a driver promises of sessions: commands beside the workload, each with streams of its own.
//!
//! ```text
//!   GuestSessions::open ──▶ the guest runs it (or has run it: asked again with one id, nothing runs twice)
//!   GuestSessions::attach(id, from) ──▶ Attachment:  events  ◀── bytes from `from` on, windows, the end
//!                                                    requests ──▶ input, what was taken, signals
//! ```
//!
//! A session belongs to its microVM, not to a client nor to this process: both may go and others come. What a client has
//! for good it says ([`SessionRequest::Taken`]); until then the bytes are kept for the next one. One client has a session
//! at a time; the latest.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_types::spec::{SpecError, TerminalSize};
use tokio::sync::mpsc;

/// Why something about a session cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// It cannot be as it is asked for.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// There is none of that id: there never was, or its end was taken.
    #[error("there is no session {0} any more, or there never was")]
    NotFound(SessionId),
    /// As many as there can be.
    #[error(
        "the sandbox has {max} sessions, which is all there can be: `sandpen sessions` and `sandpen jobs` list them, `sandpen kill` ends one"
    )]
    TooMany {
        /// How many.
        max: usize,
    },
    /// Its workload does not run yet, or not any more.
    #[error("the sandbox's workload does not run: no session can begin")]
    NotRunning,
    /// It was started by a program that knew no sessions.
    #[error("the sandbox was started by an older sandpen, whose guests know no sessions: start it again")]
    Older,
    /// The driver's guests have none.
    #[error("guests of this driver have no sessions")]
    Unsupported,
    /// What a client has was given up by an earlier client.
    #[error("byte {asked} of the session's {stream} is not kept any more: what is, begins at {kept}")]
    NotKept {
        /// Of which stream.
        stream: OutputStream,
        /// What was asked for.
        asked: u64,
        /// What is there.
        kept: u64,
    },
    /// Bytes that nobody has written yet were asked for, or input that leaves some out.
    #[error("byte {asked} of the session's {stream} has not come yet: there are {there}")]
    Ahead {
        /// Of which stream, `stdin` included.
        stream: &'static str,
        /// What was asked for.
        asked: u64,
        /// What is there.
        there: u64,
    },
    /// The guest does not answer, or not as it should.
    #[error("the guest's sessions cannot be reached: {0}")]
    Unreachable(String),
}

/// What a session tells its client, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEvent {
    /// What it wrote; of each stream without a gap.
    Output {
        /// Where.
        stream: OutputStream,
        /// The offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// It has the input before `received` for good, and takes that before `limit`. The first one comes at once where it
    /// takes input at all.
    InputWindow {
        /// An offset.
        received: u64,
        /// An offset.
        limit: u64,
    },
    /// Nobody reads its input any more.
    InputClosed,
    /// All of a stream came before, and no more will: whoever wrote to it has closed it, which of a session's two may be long
    /// before the session's end. Told once to each client, and before any end but one without a word of the guest's.
    StreamEnded {
        /// Which.
        stream: OutputStream,
        /// All of its bytes.
        total: u64,
    },
    /// Its end; all of its output came before. The last event.
    Ended(SessionEnd),
    /// Another client has it now. The last event.
    Replaced,
    /// It runs on without this client, which wanted that ([`SessionRequest::Detach`]). The last event.
    Left,
    /// The client asked for what cannot be. The last event.
    Refused(SessionError),
}

/// What a client tells a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionRequest {
    /// Input from `offset` on. What the session has already is passed over; what is beyond its window waits, at most as much
    /// as the window once more.
    Input {
        /// The offset of the first byte.
        offset: u64,
        /// The bytes.
        bytes: Bytes,
    },
    /// Its input ends after so many bytes.
    EndInput {
        /// All of them.
        total: u64,
    },
    /// The client has all output before these offsets for good.
    Taken(SessionOffsets),
    /// The client has the end: the session is forgotten.
    TakenEnd,
    /// Its terminal has this size from now on.
    Resize(TerminalSize),
    /// A signal (1 to 64) for its process group.
    Signal(i32),
    /// It is hung up, and killed where it does not end of that.
    HangUp,
    /// The client goes on purpose: from now on the session runs without one, as one that was asked for as detached.
    Detach,
}

/// A client's hold of a session. Dropping it is the client's death: without another one in time the session is hung up,
/// unless it is detached.
pub struct Attachment {
    /// How it is.
    pub info: SessionInfo,
    /// What it tells. Ends without an `Ended` where the orchestrator ends or hands over: ask the next one.
    pub events: mpsc::Receiver<SessionEvent>,
    /// What it is told; waits where it does not take more.
    pub requests: mpsc::Sender<SessionRequest>,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment").field("info", &self.info).finish_non_exhaustive()
    }
}

/// The sessions of one guest. Methods may be called in any order and after its end; they answer an error then, but for
/// sessions whose end is still to be taken.
pub trait GuestSessions: Send + Sync {
    /// Begins a session; resolves when its program runs or could not be executed (look at [`SessionInfo::end`]). One that
    /// is there already is answered as it is.
    ///
    /// # Errors
    /// [`SessionError`].
    fn open(&self, id: SessionId, spec: SessionSpec) -> BoxFuture<'static, Result<SessionInfo, SessionError>>;

    /// Becomes the client of a session. `from` is what the client has of its output; `None`: send all that is kept.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::NotKept`], [`SessionError::Ahead`], and where the guest is gone.
    fn attach(
        &self,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> BoxFuture<'static, Result<Attachment, SessionError>>;

    /// All that there are, oldest first.
    ///
    /// # Errors
    /// [`SessionError::Unreachable`], [`SessionError::Older`].
    fn list(&self) -> BoxFuture<'static, Result<Vec<SessionInfo>, SessionError>>;

    /// Tells a session something without being its client: [`SessionRequest::Signal`], [`SessionRequest::Resize`] or
    /// [`SessionRequest::HangUp`]; other requests do nothing.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], and where the guest is gone.
    fn tell(&self, id: SessionId, request: SessionRequest) -> BoxFuture<'static, Result<(), SessionError>>;
}
