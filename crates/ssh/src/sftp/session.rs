//! The session that the files of a sandbox come by, and a client of them.
//!
//! ```text
//!   the SSH client ──▶ serve ──▶ FilesClient ──▶ Carrier ──▶ a session of the guest's tool
//!   the client ends ──▶ no FilesClient is left ──▶ the session's input ends ──▶ it ends
//! ```

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use sandpen_client::{CarryEnd, SessionCarrier};
use sandpen_files::FilesClient;
use sandpen_files::client::Carrier;
use sandpen_types::error_chain::error_chain;
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionProgram, SessionSpec};
use sandpen_types::spec::WorkloadUser;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;

use super::serve;
use crate::server::channel::Exit;
use crate::server::run::Ends;
use crate::server::Target;

/// What a channel without files ends with.
const FAILED: Exit = Exit::Status(1);

/// Bytes for the guest.
struct Asked {
    carrier: Arc<Carrier>,
    rest: Bytes,
}

impl AsyncRead for Asked {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.rest.is_empty() {
            match ready!(self.carrier.poll_outgoing(context)) {
                Some(bytes) => self.rest = bytes.into(),
                None => return Poll::Ready(Ok(())),
            }
        }
        let count = self.rest.len().min(buffer.remaining());
        buffer.put_slice(&self.rest[..count]);
        self.rest.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// Bytes of the guest's.
struct Answered(Arc<Carrier>);

impl AsyncWrite for Answered {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.received(bytes).map(|()| bytes.len()).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Serves a channel.
pub(crate) async fn run(target: Target, user: Option<WorkloadUser>, mut ends: Ends) {
    let gone = ends.gone.clone();
    // A tool without a user is root's, whoever the workload is.
    let user = user.or_else(|| target.user.clone());
    let spec = SessionSpec { stdin: true, user: user.clone(), ..SessionSpec::new(SessionProgram::Tool(GuestTool::Files)) };
    let Some(begun) = gone.run_until_cancelled(target.client.exec(&target.options, &target.key, spec)).await else { return };
    let mut session = match begun {
        Ok(session) => session,
        Err(error) => {
            ends.complain(&error_chain(&error)).await;
            return ends.done(Some(FAILED)).await;
        }
    };
    let (files, carrier) = FilesClient::new();
    let carrier = Arc::new(carrier);
    let workdir = target.workdir.as_ref().map_or_else(|| b"/".to_vec(), |dir| dir.as_bytes().to_vec());
    let user = user.map_or_else(|| "root".to_owned(), |user| user.to_string());
    let user = user.split(':').next().unwrap_or_default().to_owned();
    let mut reason = Vec::new();
    let (exit, complaint) = {
        let served = serve(files, workdir, user, &mut ends.input, &mut ends.output);
        let carried = SessionCarrier {
            session: &mut session,
            input: Asked { carrier: carrier.clone(), rest: Bytes::new() },
            output: Answered(carrier),
            errors: &mut reason,
            control: mpsc::channel(1).1,
        };
        let (mut served, mut carried) = (std::pin::pin!(served), std::pin::pin!(carried.run()));
        tokio::select! {
            () = gone.cancelled() => (None, None),
            served = &mut served => match served {
                Ok(()) => (Some(Exit::Status(0)), None),
                Err(error) => (Some(FAILED), Some(error.to_string())),
            },
            carried = &mut carried => (Some(FAILED), Some(match carried {
                Ok(CarryEnd::Ended(end)) => format!("the files of the sandbox cannot be reached any more: {end}"),
                Ok(CarryEnd::Broken(error)) => error_chain(&error),
                Err(error) => error_chain(&error),
            })),
        }
    };
    // Its client is gone, or all is done: nothing of it is wanted any more.
    if let Err(error) = session.hang_up_now().await {
        tracing::debug!(%error, "a session of files is left to its own end");
    }
    if let Some(complaint) = complaint {
        let said = String::from_utf8_lossy(&reason);
        ends.complain(&[complaint.as_str(), said.trim()].join(" ")).await;
    }
    if exit.is_some() {
        // Both are done.
        let _ = ends.output.shutdown().await;
        let _ = ends.errors.shutdown().await;
        ends.done(exit).await;
    }
}
