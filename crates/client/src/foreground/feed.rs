//! The input of a sandbox, or of a job, in the foreground: bytes, or what comes from a terminal.
//!
//! ```text
//!   typed ──▶ one request at a time, opened at the first key
//!               ↻ broken by the daemon's death: opened again at its successor
//! ```

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use sandpen_api::ErrorCode;
use sandpen_types::spec::TerminalSize;
use tokio::sync::{mpsc, watch};

use super::super::resume::PAUSES;
use super::super::source::Source;
use super::super::{Client, ClientError, TerminalInput, stdin_channel};
use super::{Input, Notice};

/// How long a broken stdin may be the sign of the workload's end, before it is news of its own.
const STDIN_PATIENCE: Duration = Duration::from_secs(2);

/// The user has left it: it goes on.
#[derive(Debug)]
pub(super) struct Left;

/// Passes the input on, once nothing of the answer can be missed. Ends only when the user leaves the
/// sandbox, or when there is no terminal.
pub(super) async fn feed(
    client: &Client,
    source: &Source,
    input: Input,
    is_attached: bool,
    mut is_opened: watch::Receiver<bool>,
    notices: &mpsc::Sender<Notice>,
) -> Result<Left, ClientError> {
    // Without the output, which the other future is about to tell, there is nothing to do here.
    if is_opened.wait_for(|opened| *opened).await.is_err() {
        return std::future::pending().await;
    }
    match input {
        Input::None => std::future::pending().await,
        Input::Pipe { open, close } => {
            if let Err(error) = client.feed(source, open(), close).await {
                // A workload may end before it has read all; that is its right and no news. Its end,
                // which ends this future, follows closely then.
                tokio::time::sleep(STDIN_PATIENCE).await;
                let _ = notices.send(Notice::StdinLost(error)).await;
            }
            std::future::pending().await
        }
        Input::Terminal(open) => {
            let TerminalInput { typed, sizes, detach } = open().map_err(ClientError::Terminal)?;
            let left = async {
                match detach.await {
                    Ok(()) => Ok(Left),
                    // Nobody reads keys (any more).
                    Err(_) => std::future::pending().await,
                }
            };
            tokio::select! {
                left = left => left,
                never = type_keys(client, source, typed, notices) => match never {},
                never = tell_sizes(client, source, sizes, is_attached) => match never {},
            }
        }
    }
}

/// Passes on what is typed.
async fn type_keys(
    client: &Client,
    source: &Source,
    mut typed: mpsc::Receiver<Bytes>,
    notices: &mpsc::Sender<Notice>,
) -> Infallible {
    while let Some(first) = typed.recv().await {
        let (mut next, mut failures) = (Some(first), 0_u32);
        loop {
            let Err(error) = type_on(client, source, &mut next, &mut typed).await else { break };
            match error.code() {
                // The output, which goes on or is given up, says which daemon.
                _ if error.is_away() => {}
                // Between two starts, or at the end, which is about to be told.
                Some(ErrorCode::NotLive | ErrorCode::JobEnded | ErrorCode::GuestUnreachable) => break,
                _ => {
                    let _ = notices.send(Notice::StdinLost(error)).await;
                    return std::future::pending().await;
                }
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(PAUSES.after(failures)).await;
        }
    }
    std::future::pending().await
}

/// One request with all that is typed while it lasts. What is left of it stays in `next`.
async fn type_on(
    client: &Client,
    source: &Source,
    next: &mut Option<Bytes>,
    typed: &mut mpsc::Receiver<Bytes>,
) -> Result<(), ClientError> {
    let (sender, receiver) = stdin_channel();
    let mut request = std::pin::pin!(client.feed(source, receiver, false));
    let passing = async move {
        loop {
            if next.is_none() {
                *next = Some(typed.recv().await?);
            }
            // Its failure is the request's, which is about to say why.
            let permit = sender.reserve().await.ok()?;
            permit.send(Ok(next.take()?));
        }
    };
    tokio::select! {
        result = &mut request => result.map(drop),
        None::<Infallible> = passing => request.await.map(drop),
    }
}

/// Tells the terminal's size, and each new one. One that was just attached to is made to redraw: its
/// programs hear of a size only when it is another one.
async fn tell_sizes(
    client: &Client,
    source: &Source,
    mut sizes: watch::Receiver<Option<TerminalSize>>,
    is_attached: bool,
) -> Infallible {
    let mut nudge = is_attached;
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(size) = size {
            if nudge {
                nudge = false;
                let other = size.rows.checked_add(1).unwrap_or(std::num::NonZeroU16::MIN);
                let _ = client.resize_source(source, TerminalSize { rows: other, ..size }).await;
            }
            // Whatever else fails here is not worth a word, and not worth another try.
            let mut failures = 0_u32;
            while client.resize_source(source, size).await.is_err_and(|error| error.is_away()) {
                failures = failures.saturating_add(1);
                tokio::time::sleep(PAUSES.after(failures)).await;
            }
        }
        if sizes.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
