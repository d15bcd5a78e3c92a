//! A sandbox in the foreground: started or attached to, its output passed on, its input fed, stopped
//! or left on signals.
//!
//! ```text
//!   starting ──▶ output read from the generation's first byte ─┬▶ ended: its final state asked for
//!   attaching ─▶ output read from now on ──────────────────────┤
//!                 ↻ the daemon goes away: the next one,        └▶ detach keys: left, it goes on
//!                   on from the last position
//!   at any time, where it was started: 1st signal ─▶ stop with a grace, 2nd ─▶ kill, 3rd, or 2nd with
//!   nothing left to kill ─▶ the rest of the output is given up (its reader takes nothing)
//!   at any time, where it was attached to: a signal ─▶ left, it goes on
//! ```

mod feed;
mod follow;
mod job;

use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use sandpen_api::frame::Frame;
use sandpen_api::{CreateSandbox, ErrorCode, Sandbox};
use sandpen_types::log_start::LogStart;
use sandpen_types::spec::SandboxKey;
use tokio::sync::{mpsc, watch};

use super::resume::Resume;
use super::source::Source;
use super::{Client, ClientError, ClientOptions, StdinReceiver, TerminalInput};
use feed::{Left, feed};
use follow::follow;

pub use job::{JobForeground, JobForegroundEnd};

/// SIGHUP.
const HANG_UP: i32 = 1;
/// SIGKILL.
const KILL: i32 = 9;
/// How long a daemon may take to say what becomes of what is given up.
const LAST_LOOK: Duration = Duration::from_secs(2);

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
    /// The daemon ends and leaves the sandbox running; another one is waited for.
    DaemonEnds,
    /// The daemon went away and another one goes on.
    Reconnected,
}

/// How it ended.
#[derive(Debug)]
pub enum ForegroundEnd {
    /// It ended and all output was passed on.
    Ended(Sandbox),
    /// Signals said not to wait for it any longer; what it is now, where the daemon says that soon.
    GivenUp(Option<Sandbox>),
    /// It was left and goes on.
    Detached,
    /// Nobody takes its output any more; it goes on.
    Unread,
}

/// Makes a sandbox's input once the workload runs: not one byte is read before.
pub type OpenStdin = Box<dyn FnOnce() -> StdinReceiver>;
/// Takes the user's terminal once the workload runs.
pub type OpenTerminal = Box<dyn FnOnce() -> std::io::Result<TerminalInput>>;

/// How a sandbox comes to the foreground.
#[derive(Debug)]
pub enum Beginning<'a> {
    /// It is started.
    Start(&'a CreateSandbox),
    /// It is there already, as this says; output is passed on from now on.
    Attach(Box<Sandbox>),
}

/// What a sandbox gets.
pub enum Input {
    /// Nothing.
    None,
    /// Bytes.
    Pipe {
        /// Where from.
        open: OpenStdin,
        /// Whether their end closes the workload's standard input.
        close: bool,
    },
    /// What is typed on a terminal, and its sizes.
    Terminal(OpenTerminal),
}

/// What signals do.
#[derive(Debug, Clone, Copy)]
pub enum OnSignal {
    /// They stop the sandbox, then kill it.
    Stop {
        /// Between SIGTERM and the end of the machine.
        grace: Duration,
        /// Whether SIGHUP comes first, as from a terminal that goes away: interactive shells ignore
        /// SIGTERM.
        hang_up: bool,
    },
    /// The sandbox is left as it is.
    Detach,
}

/// A sandbox to run in the foreground.
pub struct Foreground<'a> {
    /// The daemon.
    pub client: &'a Client,
    /// How to find or start another one.
    pub options: &'a ClientOptions,
    /// Which sandbox.
    pub key: &'a SandboxKey,
    /// How it comes here.
    pub beginning: Beginning<'a>,
    /// Its input.
    pub input: Input,
    /// What to do on a signal.
    pub on_signal: OnSignal,
    /// One message per signal.
    pub signals: &'a mut mpsc::Receiver<()>,
    /// Where everything goes; a full channel holds up the reading, never the signals. One that is closed ends it: there is
    /// nobody who reads.
    pub notices: mpsc::Sender<Notice>,
}

impl Foreground<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// The start was refused, or the sandbox got lost from sight; it may run on then.
    pub async fn run(self) -> Result<ForegroundEnd, ClientError> {
        let Self { client, options, key, beginning, input, on_signal, signals, notices } = self;
        let (started, is_started) = watch::channel(false);
        let work = async {
            let (sandbox, from, is_attached) = match beginning {
                Beginning::Start(spec) => {
                    let sandbox = client.start_sandbox(spec).await?;
                    // Its answer can be of a later start already, by the restart policy.
                    let from = LogStart::Generation(sandbox.first_generation());
                    (sandbox, from, false)
                }
                Beginning::Attach(sandbox) => (*sandbox, LogStart::Tail(0), true),
            };
            started.send_replace(true);
            let input = if sandbox.is_ended() { Input::None } else { input };
            let (opened, is_opened) = watch::channel(false);
            let source = Source::workload(key);
            let ended = sandbox.is_ended().then_some(sandbox);
            tokio::select! {
                result = follow(client, options, &source, ended, from, opened, &notices) => result.map(ForegroundEnd::Ended),
                left = feed(client, &source, input, is_attached, is_opened, &notices) => left.map(|Left| ForegroundEnd::Detached),
            }
        };
        let mut work = std::pin::pin!(work);
        let mut stops = FuturesUnordered::new();
        let mut level = None;
        loop {
            tokio::select! {
                result = &mut work => return result,
                () = notices.closed() => return Ok(ForegroundEnd::Unread),
                Some(()) = signals.recv() => {
                    let OnSignal::Stop { grace, hang_up } = on_signal else { return Ok(ForegroundEnd::Detached) };
                    let next = match level {
                        None => StopLevel::Stop,
                        Some(StopLevel::Stop) => StopLevel::Kill,
                        Some(StopLevel::Kill) => return given_up(client, key).await,
                    };
                    level = Some(next);
                    let stopping = (next, grace, hang_up);
                    stops.push(stop((client, options), key, stopping, is_started.clone(), notices.clone()));
                }
                Some(stopped) = stops.next(), if !stops.is_empty() => match stopped {
                    Stopped::Told => {}
                    Stopped::NothingToKill => return given_up(client, key).await,
                }
            }
        }
    }
}

/// The end for a user who does not want to wait: nor for a daemon that does not answer.
async fn given_up(client: &Client, key: &SandboxKey) -> Result<ForegroundEnd, ClientError> {
    match tokio::time::timeout(LAST_LOOK, client.inspect(key)).await {
        Ok(sandbox) => sandbox.map(|sandbox| ForegroundEnd::GivenUp(Some(sandbox))),
        Err(_) => Ok(ForegroundEnd::GivenUp(None)),
    }
}

/// What came of a stop.
enum Stopped {
    /// It works, or notices say why not.
    Told,
    /// It had ended before the kill: what is waited for is the reader of the output.
    NothingToKill,
}

/// Stops the sandbox, also while it is still being started, and also at the next daemon.
async fn stop(
    (client, options): (&Client, &ClientOptions),
    key: &SandboxKey,
    (level, grace, hang_up): (StopLevel, Duration, bool),
    mut is_started: watch::Receiver<bool>,
    notices: mpsc::Sender<Notice>,
) -> Stopped {
    let ask = async |client: &Client| match level {
        StopLevel::Stop => {
            if hang_up {
                // What it could fail with, the stop fails with as well.
                let _ = client.kill(key, HANG_UP).await;
            }
            client.stop(key, grace).await
        }
        StopLevel::Kill => client.kill(key, KILL).await,
    };
    let send = async || {
        let (mut client, mut resume, mut is_repeated) = (client.clone(), Resume::new(options, Some(key)), false);
        loop {
            match ask(&client).await {
                Err(error) if error.is_away() => {
                    client = resume.after(error).await?;
                    is_repeated = true;
                }
                // The daemon before has done it, or it has ended by itself: its output says so.
                Err(error) if is_repeated && is_refused(&error) => return Ok(()),
                result => return result.map(drop),
            }
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
        Ok(()) => Stopped::Told,
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
    matches!(error.code(), Some(ErrorCode::NotFound | ErrorCode::NotLive))
}
