//! A session of a sandbox, whatever becomes of the daemon: its output, each byte once, and its input.
//!
//! ```text
//!   attached ──▶ output ──▶ given out ──▶ written out by whoever has it, and told: taken
//!      ↻ the daemon goes away: attached at the next one, from what was taken; what was given out is passed over, and
//!        input that the session has not got is sent again
//!   ended: told once all output was ──▶ that told, and forgotten
//! ```

mod carry;
mod foreground;
mod hold;
mod leave;
mod requests;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{Sink as _, Stream as _};
use hyper_util::rt::TokioIo;
use sandpen_api::session::{SessionNews, SessionPiece, SessionSignal, SessionWish};
use sandpen_api::{ErrorCode, ErrorDetail, Word};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionId, SessionInfo, SessionOffsets};
use sandpen_types::session_input::SessionInput;
use sandpen_types::spec::{SandboxKey, TerminalSize};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

use super::resume::Resume;
use super::{Client, ClientError, ClientOptions};
use hold::Hold;

pub use carry::{CarryEnd, SessionCarrier, SessionControl};
pub use foreground::{OnSessionSignal, SessionForeground, SessionForegroundEnd, SessionNotice};

type Socket = WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>;

/// A number for a new session, from the system's random bytes.
pub fn random_session_id() -> SessionId {
    loop {
        // The standard library seeds its hash keys from them.
        if let Some(id) = SessionId::new(RandomState::new().hash_one(std::process::id())) {
            return id;
        }
    }
}

/// What comes of a session, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionStep {
    /// Bytes that it wrote.
    Output(SessionBytes),
    /// There is room for input, or nobody reads it any more.
    Input,
    /// All of this output came before, and no more will; the session may go on. Once for each.
    StreamEnded(OutputStream),
    /// The daemon ends and leaves the session running; another one is waited for.
    DaemonEnds,
    /// The daemon went away and another one goes on.
    Reconnected,
    /// Its end, after all of its output. The last step.
    Ended(SessionEnd),
}

/// Bytes that a session wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionBytes {
    /// Where; of a terminal everything is standard output.
    pub stream: OutputStream,
    /// The offset of the first one in its stream.
    pub offset: u64,
    /// The bytes.
    pub bytes: Bytes,
}

impl SessionBytes {
    /// Moves what is had of a session behind these.
    pub fn pass(&self, had: &mut SessionOffsets) {
        *had.of(self.stream) = self.offset.saturating_add(self.bytes.len() as u64);
    }
}

/// A client's hold of a session. What is asked of it is passed on while [`SessionClient::next`] is waited for. When it is
/// dropped without [`SessionClient::detach`], the session is hung up after a while, unless it is a detached one.
pub struct SessionClient {
    client: Client,
    key: SandboxKey,
    info: SessionInfo,
    resume: Resume,
    /// `None` between two daemons.
    socket: Option<Socket>,
    is_flushed: bool,
    /// Another daemon goes on, or is about to.
    has_moved: bool,
    steps: VecDeque<SessionStep>,
    is_over: bool,
    hold: Hold,
}

impl SessionClient {
    fn new(client: Client, options: &ClientOptions, key: &SandboxKey, info: SessionInfo, is_new: bool) -> Self {
        let hold = Hold {
            taken: is_new.then(SessionOffsets::default),
            input: SessionInput::new(info.stdin),
            ..Hold::default()
        };
        let resume = Resume::new(options, Some(key));
        Self {
            client,
            key: key.clone(),
            info,
            resume,
            socket: None,
            is_flushed: true,
            has_moved: false,
            steps: VecDeque::new(),
            is_over: false,
            hold,
        }
    }

    /// Which session this is.
    pub fn id(&self) -> SessionId {
        self.info.id
    }

    /// How it was when it was begun or asked for.
    pub fn info(&self) -> &SessionInfo {
        &self.info
    }

    /// Writes to its standard input as much as it has room for; how many bytes. Where nobody reads it any more, all, for
    /// nothing.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.hold.input.push(bytes)
    }

    /// Ends its standard input.
    pub fn end_input(&mut self) {
        self.hold.input.end();
    }

    /// Whether nobody reads its standard input any more.
    pub fn is_input_closed(&self) -> bool {
        self.hold.input.is_closed()
    }

    /// All output before these offsets is where it belongs: the session keeps it for nobody any more.
    pub fn taken(&mut self, taken: SessionOffsets) {
        let before = self.hold.taken.unwrap_or_default();
        let (stdout, stderr) = (taken.stdout.max(before.stdout), taken.stderr.max(before.stderr));
        self.hold.taken = Some(SessionOffsets { stdout, stderr });
    }

    /// Tells its terminal a size; the latest one also to a daemon that comes after this one.
    pub fn resize(&mut self, size: TerminalSize) {
        self.hold.size = Some(size);
        self.hold.wishes.retain(|wish| !matches!(wish, SessionWish::Resize(_)));
        self.hold.wishes.push_back(SessionWish::Resize(size));
    }

    /// Sends a signal, 1 to 64, to its process group.
    pub fn signal(&mut self, signal: i32) {
        self.hold.wishes.push_back(SessionWish::Signal(SessionSignal { signal }));
    }

    /// Hangs it up: SIGHUP, and SIGKILL where it does not end of that soon.
    pub fn hang_up(&mut self) {
        self.hold.wishes.push_back(SessionWish::HangUp {});
    }

    /// The next step; after the last one none comes. Where the daemon dies or is replaced, the next one is found, or
    /// started, and goes on. Safe to cancel.
    ///
    /// # Errors
    /// Codes [`SessionReplaced`](ErrorCode::SessionReplaced), [`SessionNotFound`](ErrorCode::SessionNotFound),
    /// [`SessionNotKept`](ErrorCode::SessionNotKept), and [`NotLive`](ErrorCode::NotLive) where the sandbox has ended
    /// without a daemon that saw how; [`ClientError::NoSuccessor`].
    pub async fn next(&mut self) -> Result<SessionStep, ClientError> {
        loop {
            if let Some(step) = self.steps.pop_front() {
                return Ok(step);
            }
            if self.is_over {
                return std::future::pending().await;
            }
            let Err(error) = self.move_on().await else { continue };
            self.socket = None;
            if matches!(error, ClientError::SessionCut { ends: true, .. })
                && !std::mem::replace(&mut self.has_moved, true)
            {
                self.steps.push_back(SessionStep::DaemonEnds);
                // Looked for when that was told.
                continue;
            }
            self.has_moved = true;
            self.client = self.resume.after(error).await?;
        }
    }

    /// Sends what there is to send, until a message came.
    async fn move_on(&mut self) -> Result<(), ClientError> {
        self.attach().await?;
        match poll_fn(|context| self.poll_message(context)).await {
            Some(Ok(message)) => self.hear(message),
            Some(Err(source)) => Err(cut(source)),
            None => Err(ClientError::SessionCut { ends: false, source: None }),
        }
    }

    async fn attach(&mut self) -> Result<(), ClientError> {
        if self.socket.is_none() {
            self.hold.input.detached();
            self.socket = Some(self.client.attach(&self.key, self.info.id, self.hold.taken).await?);
            self.is_flushed = true;
        }
        Ok(())
    }

    fn poll_message(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Message, tungstenite::Error>>> {
        let Some(mut socket) = self.socket.as_mut().map(Pin::new) else { return Poll::Ready(None) };
        // What is waited for as a writer wakes this up as well.
        while self.hold.has_message() {
            match socket.as_mut().poll_ready(context) {
                Poll::Pending => break,
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Ok(())) => {}
            }
            let Some(message) = self.hold.next_message() else { break };
            self.is_flushed = false;
            if let Err(error) = socket.as_mut().start_send(message) {
                return Poll::Ready(Some(Err(error)));
            }
        }
        if !self.is_flushed {
            match socket.as_mut().poll_flush(context) {
                Poll::Pending => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(Ok(())) => self.is_flushed = true,
            }
        }
        socket.poll_next(context)
    }

    fn hear(&mut self, message: Message) -> Result<(), ClientError> {
        match message {
            Message::Binary(bytes) => {
                let piece =
                    SessionPiece::decode(bytes).map_err(|error| ClientError::SessionBroken(error.to_string()))?;
                if let Some(bytes) = self.hold.give(piece).map_err(ClientError::SessionBroken)? {
                    self.resume.progressed();
                    self.steps.push_back(SessionStep::Output(bytes));
                }
                Ok(())
            }
            Message::Text(text) => self.hear_news(&text),
            Message::Close(reason) => {
                let ends = reason.is_some_and(|reason| reason.code == CloseCode::Restart);
                Err(ClientError::SessionCut { ends, source: None })
            }
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    fn hear_news(&mut self, text: &Utf8Bytes) -> Result<(), ClientError> {
        let news = serde_json::from_str(text).map_err(|error| ClientError::SessionBroken(error.to_string()))?;
        match news {
            SessionNews::Info(info) => {
                self.hold.attached(&info);
                if std::mem::take(&mut self.has_moved) {
                    self.steps.push_back(SessionStep::Reconnected);
                }
            }
            SessionNews::InputWindow { received, limit } => {
                self.hold.input.window(received, limit);
                self.steps.push_back(SessionStep::Input);
            }
            SessionNews::InputClosed {} => {
                self.hold.input.close();
                self.steps.push_back(SessionStep::Input);
            }
            SessionNews::StreamEnded { stream, total } => {
                if self.hold.end(stream, total).map_err(ClientError::SessionBroken)? {
                    self.steps.push_back(SessionStep::StreamEnded(stream));
                }
            }
            SessionNews::Unknown => {}
            SessionNews::Ended { end } => {
                self.resume.progressed();
                self.is_over = true;
                self.steps.push_back(SessionStep::Ended(end));
            }
            SessionNews::Replaced {} => {
                let message = format!("another client has session {} now", self.info.id);
                return Err(refused(ErrorCode::SessionReplaced.into(), message));
            }
            SessionNews::Error { code, message } => return Err(refused(code, message)),
        }
        Ok(())
    }
}

fn cut(source: tungstenite::Error) -> ClientError {
    ClientError::SessionCut { ends: false, source: Some(Box::new(source)) }
}

fn refused(code: Word<ErrorCode>, message: String) -> ClientError {
    let status = code.known().map_or(500, ErrorCode::http_status);
    ClientError::Api { status, error: ErrorDetail { code, message, chain: Vec::new() } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        let all: std::collections::BTreeSet<_> = (0..100).map(|_| random_session_id()).collect();
        assert_eq!(all.len(), 100);
    }
}
