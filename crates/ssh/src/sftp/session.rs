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
use sandpen_client::{CarryEnd, ClientError, SessionCarrier};
use sandpen_files::FilesClient;
use sandpen_files::client::Carrier;
use sandpen_types::error_chain::error_chain;
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{SessionEnd, SessionProgram, SessionSpec};
use sandpen_types::spec::WorkloadUser;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::serve;
use crate::server::channel::Exit;
use crate::server::run::Ends;
use crate::server::{Home, Target};

/// Bytes for the guest.
struct Asked {
    carrier: Arc<Carrier>,
    rest: Bytes,
}

impl AsyncRead for Asked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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

/// How a client of files came to its end.
enum Way<T> {
    Done(T),
    /// The session is over before that, and why.
    Lost(String),
}

/// Whom a session of files runs as, and what it is called.
fn user_of(target: &Target, user: Option<&WorkloadUser>) -> (Option<WorkloadUser>, String) {
    // A tool without a user is root's, whoever the workload is.
    let user = user.or(target.user.as_ref()).cloned();
    let name = user.as_ref().map_or_else(|| "root".to_owned(), ToString::to_string);
    let name = name.split(':').next().unwrap_or_default().to_owned();
    (user, name)
}

/// Has the files of a sandbox while `with` uses them.
async fn with_files<T, F: Future<Output = T>>(
    target: &Target,
    user: Option<WorkloadUser>,
    gone: &CancellationToken,
    with: impl FnOnce(FilesClient) -> F,
) -> Result<Way<T>, ClientError> {
    let spec = SessionSpec { stdin: true, user, ..SessionSpec::new(SessionProgram::Tool(GuestTool::Files)) };
    let mut session = target.client.exec(&target.options, &target.key, spec).await?;
    let (files, carrier) = FilesClient::new();
    let carrier = Arc::new(carrier);
    let mut reason = Vec::new();
    let way = {
        let carried = SessionCarrier {
            session: &mut session,
            input: Asked { carrier: carrier.clone(), rest: Bytes::new() },
            output: Answered(carrier),
            errors: &mut reason,
            control: mpsc::channel(1).1,
        };
        tokio::select! {
            done = with(files) => Way::Done(done),
            () = gone.cancelled() => Way::Lost("the client is gone".to_owned()),
            carried = carried.run() => Way::Lost(match carried {
                Ok(CarryEnd::Ended(SessionEnd::NotStarted { message, .. })) => message,
                Ok(CarryEnd::Ended(end)) => format!("the files of the sandbox cannot be reached any more: {end}"),
                Ok(CarryEnd::Broken(error)) => error_chain(&error),
                Err(error) => error_chain(&error),
            }),
        }
    };
    // All is done: nothing of it is wanted any more.
    sandpen_client::leave(&mut session).await;
    Ok(match way {
        Way::Lost(why) => {
            Way::Lost([why.as_str(), String::from_utf8_lossy(&reason).trim()].join(" ").trim().to_owned())
        }
        Way::Done(done) => Way::Done(done),
    })
}

/// Where a user is at home, if that is there: of an older guest, which cannot say it, nobody is.
pub(crate) async fn home(target: &Target, user: Option<&WorkloadUser>, gone: &CancellationToken) -> Option<Vec<u8>> {
    let (user, name) = user_of(target, user);
    let looked_up = with_files(target, user, gone, async |files| look_up(&files, &name).await).await;
    match looked_up {
        Ok(Way::Done(home)) => home,
        Ok(Way::Lost(why)) => {
            tracing::debug!(why, "homes cannot be looked up");
            None
        }
        Err(error) => {
            tracing::debug!(%error, "homes cannot be looked up");
            None
        }
    }
}

async fn look_up(files: &FilesClient, name: &str) -> Option<Vec<u8>> {
    let home = super::home::of(files, name.as_bytes()).await.ok()??;
    let is_there = files.is_directory(&home).await.is_ok_and(|is_directory| is_directory);
    is_there.then_some(home)
}

/// Serves a channel.
pub(crate) async fn run(target: Target, user: Option<WorkloadUser>, home: Home, mut ends: Ends) {
    let gone = ends.gone.clone();
    let (user, name) = user_of(&target, user.as_ref());
    let (input, output) = (&mut ends.input, &mut ends.output);
    let served = with_files(&target, user, &gone, async |files| {
        let at = home.get_or_init(|| look_up(&files, &name)).await.clone();
        serve(files, at.unwrap_or_else(|| b"/".to_vec()), input, output).await
    });
    let complaint = match served.await {
        Ok(Way::Done(Ok(()))) => None,
        Ok(Way::Done(Err(error))) => Some(error.to_string()),
        Ok(Way::Lost(why)) => Some(why),
        Err(error) => Some(error_chain(&error)),
    };
    let status = Exit::Status(u32::from(complaint.is_some()));
    if gone.is_cancelled() {
        return;
    }
    if let Some(complaint) = complaint {
        ends.complain(&complaint).await;
    }
    // Both are done; whoever is gone needs no end.
    let _ = ends.output.shutdown().await;
    let _ = ends.errors.shutdown().await;
    ends.done(Some(status)).await;
}
