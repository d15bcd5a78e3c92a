//! Connections to a sandbox's ports without a network: each is a session that its guest connects.
//!
//! ```text
//!   accepted ──▶ a session of `Connect` ──▶ carried both ways, each way to its own end ──▶ closed
//!                   │                          ├ this side is gone ──▶ the session is hung up
//!                   └ refused                  └ nobody listens there, or the microVM is lost ──▶ reset
//! ```

use std::io;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionEnd, SessionProgram, SessionSpec};
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::ExitStatus;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::session::{CarryEnd, SessionCarrier, SessionClient};
use super::{Client, ClientError, ClientOptions};

/// Most bytes of what a guest says of a connection that failed.
const REASON_MAX: usize = 1 << 10;

/// How long a session may take to end of being hung up: killed after 2 s, and then its last words.
const LEAVE_LIMIT: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug)]
pub enum ForwardEnd {
    /// Both sides said all that they had.
    Closed,
    /// Whoever connected here went.
    Left,
    /// The guest says why there was no connection, or why it broke.
    Refused(String),
    /// It got lost with its microVM.
    Lost(SessionEnd),
}

/// A way to one port.
#[derive(Debug, Clone)]
pub struct Forward {
    /// The daemon.
    pub client: Client,
    /// The next one.
    pub options: ClientOptions,
    /// Whose port.
    pub key: SandboxKey,
    /// Which, at a loopback address of the sandbox.
    pub port: NonZeroU16,
}

impl Forward {
    /// Begins a connection. Whether somebody listens shows when it is carried.
    ///
    /// # Errors
    /// As [`Client::exec`].
    pub async fn connect(&self) -> Result<SessionClient, ClientError> {
        let program = SessionProgram::Tool(GuestTool::Connect { port: self.port });
        let spec = SessionSpec { stdin: true, ..SessionSpec::new(program) };
        self.client.exec(&self.options, &self.key, spec).await
    }

    /// Carries a connection both ways until both have ended; its output is shut down when that has ended.
    ///
    /// # Errors
    /// The session got lost from sight.
    pub async fn carry(
        &self,
        session: &mut SessionClient,
        input: impl AsyncRead + Unpin,
        output: impl AsyncWrite + Unpin,
    ) -> Result<ForwardEnd, ClientError> {
        let mut reason = Reason::default();
        let (_, control) = mpsc::channel(1);
        let carrier = SessionCarrier { session: &mut *session, input, output, errors: &mut reason, control };
        let end = match carrier.run().await? {
            CarryEnd::Ended(SessionEnd::Exited(ExitStatus::Code(0))) => ForwardEnd::Closed,
            CarryEnd::Ended(SessionEnd::Exited(_)) if !reason.0.is_empty() => ForwardEnd::Refused(reason.text()),
            CarryEnd::Ended(SessionEnd::NotStarted { message, .. }) => ForwardEnd::Refused(message),
            CarryEnd::Ended(end) => ForwardEnd::Lost(end),
            CarryEnd::Broken(_) => {
                leave(session).await;
                return Ok(ForwardEnd::Left);
            }
        };
        session.forget().await?;
        Ok(end)
    }
}

/// Ends a session that nobody wants any more. What cannot be ended now ends for want of a client.
pub async fn leave(session: &mut SessionClient) {
    session.hang_up();
    match timeout(LEAVE_LIMIT, session.run_out()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, id = %session.id(), "a session is left to its own end"),
        Err(_) => tracing::debug!(id = %session.id(), "a session is left to its own end"),
    }
}

/// What a guest says, as far as anybody reads that.
#[derive(Default)]
struct Reason(Vec<u8>);

impl Reason {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).trim_end().to_owned()
    }
}

impl AsyncWrite for Reason {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let room = REASON_MAX.saturating_sub(self.0.len());
        self.0.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
