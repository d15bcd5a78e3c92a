//! A sandbox in the foreground: started, its output passed on, its stdin fed, stopped on signals.
//!
//! ```text
//!   starting ─▶ output read from the generation's first byte ─▶ ended: its final state asked for
//!                 └ cut by the daemon's death ─▶ a new daemon, on from the last position ─┘
//!   at any time: 1st signal ─▶ stop with a grace, 2nd ─▶ kill, 3rd, or 2nd with nothing left to
//!   kill ─▶ the rest of the output is given up (its reader takes nothing)
//! ```

use std::convert::Infallible;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sandpen_actors::spec::{SandboxKey, SandboxSpec};
use tokio::sync::{mpsc, watch};

use super::{Client, ClientError, ClientOptions, OutputRequest, OutputStart, StdinReceiver};
use crate::api::Sandbox;
use crate::api::frame::Frame;

/// Daemons in a row that may die without one byte of progress.
const RECONNECTS: u32 = 3;
/// How long a broken stdin may be the sign of the workload's end, before it is news of its own.
const STDIN_PATIENCE: Duration = Duration::from_secs(2);
/// SIGKILL.
const KILL: i32 = 9;

/// How hard a signal ends the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopLevel {
    /// Gracefully.
    Stop,
    /// At once.
    Kill,
}

/// What happens on the way, in order.
#[derive(Debug)]
pub enum Notice {
    /// Output or a gap in it.
    Output(Frame),
    /// A signal came and this is being done.
    Stopping(StopLevel),
    /// Stopping failed, with the reason.
    StopFailed(ClientError),
    /// Standard input is no longer passed on, with the reason.
    StdinLost(ClientError),
    /// The daemon died and another one goes on.
    Reconnected,
}

/// How it ended.
#[derive(Debug)]
pub enum ForegroundEnd {
    /// It ended and all output was passed on.
    Ended(Sandbox),
    /// Signals said not to wait for it any longer; what it is now.
    GivenUp(Sandbox),
}

/// Makes a sandbox's input once the workload runs: not one byte is read before.
pub type OpenStdin = Box<dyn FnOnce() -> StdinReceiver>;

/// A sandbox to run in the foreground.
pub struct Foreground<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// How to find or start another one.
    pub options: &'a ClientOptions,
    /// What to run.
    pub spec: &'a SandboxSpec,
    /// Grace of the first signal.
    pub grace: Duration,
    /// Its input.
    pub stdin: Option<OpenStdin>,
    /// One message per signal.
    pub signals: &'a mut mpsc::Receiver<()>,
    /// Where everything goes; a full channel holds up the reading, never the signals.
    pub notices: mpsc::Sender<Notice>,
}

impl Foreground<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// The start was refused, or the sandbox got lost from sight; it may run on then.
    pub async fn run(self) -> Result<ForegroundEnd, ClientError> {
        let Self { client, options, spec, grace, stdin, signals, notices } = self;
        let key = &spec.key;
        let (started, is_started) = watch::channel(false);
        let work = async {
            let sandbox = client.start_sandbox(spec).await?;
            started.send_replace(true);
            let stdin = stdin.filter(|_| !sandbox.is_ended());
            tokio::select! {
                result = follow(client, options, key, sandbox, &notices) => result,
                never = feed(client, key, stdin, &notices) => match never {},
            }
        };
        let mut work = std::pin::pin!(work);
        let mut stops = FuturesUnordered::new();
        let mut level = None;
        loop {
            tokio::select! {
                result = &mut work => return result.map(ForegroundEnd::Ended),
                Some(()) = signals.recv() => {
                    let next = match level {
                        None => StopLevel::Stop,
                        Some(StopLevel::Stop) => StopLevel::Kill,
                        Some(StopLevel::Kill) => return client.inspect(key).await.map(ForegroundEnd::GivenUp),
                    };
                    level = Some(next);
                    stops.push(stop(client, key, next, grace, is_started.clone(), notices.clone()));
                }
                Some(stopped) = stops.next(), if !stops.is_empty() => match stopped {
                    Stopped::Told => {}
                    Stopped::NothingToKill => return client.inspect(key).await.map(ForegroundEnd::GivenUp),
                }
            }
        }
    }
}

/// What came of a stop.
enum Stopped {
    /// It works, or notices say why not.
    Told,
    /// It had ended before the kill: what is waited for is the reader of the output.
    NothingToKill,
}

/// Stops the sandbox, also while it is still being started.
async fn stop(
    client: &Client,
    key: &SandboxKey,
    level: StopLevel,
    grace: Duration,
    mut is_started: watch::Receiver<bool>,
    notices: mpsc::Sender<Notice>,
) -> Stopped {
    let send = || async {
        match level {
            StopLevel::Stop => client.stop(key, grace).await,
            StopLevel::Kill => client.kill(key, KILL).await,
        }
    };
    let stopping = async {
        match send().await {
            // The request to start is on its way: the supervisor does not know of it yet.
            Err(error) if is_refused(&error) && !*is_started.borrow() => {
                // An error means that the start failed, and with it all that could be stopped.
                match is_started.wait_for(|started| *started).await {
                    Ok(_) => send().await,
                    Err(_) => Err(error),
                }
            }
            result => result,
        }
    };
    let mut notice = std::pin::pin!(notices.send(Notice::Stopping(level)));
    let mut stopping = std::pin::pin!(stopping);
    let result = tokio::select! {
        result = &mut stopping => result,
        _ = &mut notice => stopping.await,
    };
    match result {
        Ok(_) => Stopped::Told,
        Err(error) if is_refused(&error) => match level {
            StopLevel::Stop => Stopped::Told,
            StopLevel::Kill => Stopped::NothingToKill,
        },
        Err(error) => {
            let _ = notices.send(Notice::StopFailed(error)).await;
            Stopped::Told
        }
    }
}

/// There is nothing to stop.
fn is_refused(error: &ClientError) -> bool {
    matches!(error.code(), Some("not_found" | "not_live"))
}

/// Passes stdin on. Does not end: the sandbox's end ends it.
async fn feed(
    client: &Client,
    key: &SandboxKey,
    stdin: Option<OpenStdin>,
    notices: &mpsc::Sender<Notice>,
) -> Infallible {
    if let Some(open) = stdin
        && let Err(error) = client.stdin(key, open()).await
    {
        // A workload may end before it has read all; that is its right and no news. Its end, which
        // ends this future, follows closely then.
        tokio::time::sleep(STDIN_PATIENCE).await;
        let _ = notices.send(Notice::StdinLost(error)).await;
    }
    std::future::pending().await
}

/// Reads the output to its end, over deaths of the daemon, and answers the final state.
async fn follow(
    client: &Client,
    options: &ClientOptions,
    key: &SandboxKey,
    started: Sandbox,
    notices: &mpsc::Sender<Notice>,
) -> Result<Sandbox, ClientError> {
    let mut position = None;
    let mut failures = 0;
    loop {
        let before = position;
        let ended = async { if started.is_ended() { Ok(started.clone()) } else { client.wait(key).await } };
        // Both at once: a daemon that stops its sandboxes and ends answers those who ask already.
        let result = tokio::try_join!(pump(client, key, &mut position, notices), ended);
        match result.map(|((), sandbox)| sandbox) {
            Err(error) if error.is_cut() => {
                failures = if position == before { failures + 1 } else { 1 };
                if failures > RECONNECTS {
                    return Err(error);
                }
                Client::connect(options).await?;
                let _ = notices.send(Notice::Reconnected).await;
            }
            result => return result,
        }
    }
}

async fn pump(
    client: &Client,
    key: &SandboxKey,
    position: &mut Option<u64>,
    notices: &mpsc::Sender<Notice>,
) -> Result<(), ClientError> {
    let from = position.map_or(OutputStart::Generation, OutputStart::Position);
    let mut output = client.output(key, OutputRequest { from, follow: true, stream: None }).await?;
    while let Some(frame) = output.next().await? {
        let after = match &frame {
            Frame::Bytes { position, bytes, .. } => Some(position.saturating_add(bytes.len() as u64)),
            Frame::Gap { position, bytes } => Some(position.saturating_add(*bytes)),
            Frame::End(_) => *position,
        };
        // Nobody listens any more: the caller is going away, and this future with it.
        let _ = notices.send(Notice::Output(frame)).await;
        // Not before: this future may be dropped while a slow reader holds up the frame, which has
        // to come again then.
        *position = after;
    }
    Ok(())
}
