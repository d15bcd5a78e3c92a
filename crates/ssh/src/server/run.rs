//! What runs in a channel: a session of the sandbox, or a connection to one of its ports.
//!
//! ```text
//!   asked for ──▶ begun ──▶ carried ─┬ ended ──▶ its end is told ──▶ done
//!                   │                └ the client is gone ──▶ with a terminal: hung up; else: told so (SIGHUP) and left
//!                   └ refused ──▶ said on standard error, 255
//! ```
//!
//! As with sshd, what has no terminal and does not mind SIGHUP may outlive its client: servers of editors do.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use sandpen_client::{CarryEnd, ClientError, Forward, ForwardEnd, SessionCarrier, SessionClient, SessionControl};
use sandpen_types::error_chain::error_chain;
use sandpen_types::session::{SessionEnd, SessionSpec};
use sandpen_types::signal::Signal;
use sandpen_types::state::ExitStatus;
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::channel::{ChannelId, ChannelReader, ChannelWriter, Exit, Said};
use super::{Home, Target};
use crate::sftp;

/// What ssh(1) itself exits with.
const FAILED: u32 = 255;
/// How long what hears that its client is gone may take to end.
const GO_LIMIT: Duration = Duration::from_secs(2);
/// SIGHUP.
const HANG_UP: i32 = 1;

/// A channel's ends.
pub(crate) struct Ends {
    pub(crate) channel: ChannelId,
    pub(crate) input: ChannelReader,
    pub(crate) output: ChannelWriter,
    pub(crate) errors: ChannelWriter,
    pub(crate) control: mpsc::Receiver<SessionControl>,
    pub(crate) said: mpsc::Sender<Said>,
    /// The client has closed it, or is gone.
    pub(crate) gone: CancellationToken,
}

impl Ends {
    /// The last words.
    pub(crate) async fn done(self, exit: Option<Exit>) {
        // A server that has ended needs none.
        if let Some(exit) = exit {
            let _ = self.said.send(Said::Exit(self.channel, exit)).await;
        }
        let _ = self.said.send(Said::Done(self.channel)).await;
    }

    /// Says on standard error what is wrong.
    pub(crate) async fn complain(&mut self, text: &str) {
        let gone = self.gone.clone();
        let line = format!("sandpen: {text}\r\n");
        // Whoever does not read it has the status.
        let _ = gone.run_until_cancelled(self.errors.write_all(line.as_bytes())).await;
    }
}

/// Runs a session in a channel, where its user is at home.
pub(super) async fn session(target: Target, mut spec: SessionSpec, home: Home, mut ends: Ends) {
    let gone = ends.gone.clone();
    let has_terminal = spec.terminal.is_some();
    let looked_up = home.get_or_try_init(|| async {
        let at = sftp::home(&target, spec.user.as_ref(), &gone).await;
        // What was not looked up to the end, the next channel looks up.
        if gone.is_cancelled() { Err(()) } else { Ok(at) }
    });
    let Ok(at) = looked_up.await else { return };
    spec.workdir = at.as_ref().map(|at| OsStr::from_bytes(at).into());
    let begun = match spec.check() {
        Ok(()) => {
            let Some(begun) = gone.run_until_cancelled(target.client.exec(&target.options, &target.key, spec)).await
            else {
                return;
            };
            begun.map_err(|error| error_chain(&error))
        }
        Err(error) => Err(error.to_string()),
    };
    let mut session = match begun {
        Ok(session) => session,
        Err(text) => {
            ends.complain(&text).await;
            return ends.done(Some(Exit::Status(FAILED))).await;
        }
    };
    let control = std::mem::replace(&mut ends.control, mpsc::channel(1).1);
    let carrier = SessionCarrier {
        session: &mut session,
        input: &mut ends.input,
        output: &mut ends.output,
        errors: &mut ends.errors,
        control,
    };
    let carried = gone.run_until_cancelled(carrier.run()).await;
    let exit = match carried {
        None | Some(Ok(CarryEnd::Broken(_))) => {
            if has_terminal {
                sandpen_client::leave(&mut session).await;
            } else if let Err(error) = let_go(&mut session).await {
                tracing::debug!(%error, "a session is left to its own end");
            }
            return;
        }
        Some(Ok(CarryEnd::Ended(end))) => {
            if let Err(error) = session.forget().await {
                tracing::debug!(%error, "a session is forgotten later");
            }
            if let Some(text) = unusual(&end) {
                ends.complain(&text).await;
            }
            exit(&end)
        }
        Some(Err(error)) => {
            ends.complain(&error_chain(&error)).await;
            Exit::Status(FAILED)
        }
    };
    ends.done(Some(exit)).await;
}

/// Its client is gone: it hears so, and may go on.
async fn let_go(session: &mut SessionClient) -> Result<(), ClientError> {
    session.end_input();
    session.signal(HANG_UP);
    match timeout(GO_LIMIT, session.run_out()).await {
        Ok(ended) => ended,
        Err(_) => session.detach().await,
    }
}

/// What of an end its status does not say.
fn unusual(end: &SessionEnd) -> Option<String> {
    match end {
        SessionEnd::Exited(ExitStatus::Code(_) | ExitStatus::Signal(_)) => None,
        SessionEnd::NotStarted { message, .. } => Some(message.clone()),
        end => Some(format!("the session ended: {end}")),
    }
}

fn exit(end: &SessionEnd) -> Exit {
    match end {
        SessionEnd::Exited(ExitStatus::Signal(number)) => {
            Exit::Signal(Signal::new(*number).map_or_else(|_| number.to_string(), |signal| signal.to_string()))
        }
        end => Exit::Status(end.shell_code().and_then(|code| u32::try_from(code).ok()).unwrap_or(FAILED)),
    }
}

/// Carries a connection in a channel.
pub(super) async fn connection(target: Target, forward: Forward, mut ends: Ends) {
    let gone = ends.gone.clone();
    let Some(begun) = gone.run_until_cancelled(forward.connect()).await else { return };
    let mut session = match begun {
        Ok(session) => session,
        Err(error) => {
            (target.note)(&format!("port {}: {}", forward.port, error_chain(&error)));
            return ends.done(None).await;
        }
    };
    // There is one output only.
    let _ = ends.errors.shutdown().await;
    let carried = gone.run_until_cancelled(forward.carry(&mut session, &mut ends.input, &mut ends.output)).await;
    match carried {
        None => {
            sandpen_client::leave(&mut session).await;
            return;
        }
        Some(Ok(ForwardEnd::Closed | ForwardEnd::Left)) => {}
        Some(Ok(ForwardEnd::Refused(reason))) => (target.note)(&reason),
        Some(Ok(ForwardEnd::Lost(end))) => {
            (target.note)(&format!("port {}: a connection was lost: {end}", forward.port));
        }
        Some(Err(error)) => (target.note)(&format!("port {}: {}", forward.port, error_chain(&error))),
    }
    ends.done(None).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_told_as_a_shell_has_them() {
        assert_eq!(exit(&SessionEnd::Exited(ExitStatus::Code(3))), Exit::Status(3));
        assert_eq!(exit(&SessionEnd::Exited(ExitStatus::Signal(9))), Exit::Signal("KILL".into()));
        let not_started = SessionEnd::NotStarted { code: 127, message: "no such".into() };
        assert_eq!((exit(&not_started), unusual(&not_started)), (Exit::Status(127), Some("no such".into())));
        assert_eq!((exit(&SessionEnd::Gone), unusual(&SessionEnd::Gone).is_some()), (Exit::Status(255), true));
    }
}
