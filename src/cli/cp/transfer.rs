//! The way of a copy's bytes between the session and the thread at this end.
//!
//! ```text
//!   both at work ─┬─ the session ended ──▶ this end has all ──▶ it has ended, too
//!                 ├─ this end failed ──▶ session hung up ──▶ ended, or not waited for any longer
//!                 └─ a signal ──▶ both told ──▶ ended; a second one ──▶ not waited for
//! ```

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use sandpen::client::{SessionBytes, SessionClient, SessionStep};
use sandpen_tree::Report;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{HANG_UP_GRACE, SessionEnd, SessionOffsets};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::super::print::CopyBar;
use super::super::{print, signals};
use super::CopyCause;
use super::ends::{HostEnd, HostError, Pieces};

/// Most bytes of what the sandbox's part says of it.
const SAID_MAX: usize = 64 << 10;
/// How long is waited for the end of what was hung up, and for a daemon to hear that an end is had.
const END_LIMIT: Duration = HANG_UP_GRACE.saturating_mul(3);

/// How both ends ended.
pub struct Outcome {
    /// The sandbox's part.
    pub end: SessionEnd,
    /// What it says.
    pub said: String,
    /// This end's.
    pub host: Result<Report, HostError>,
    /// The user did not want to wait.
    pub is_interrupted: bool,
}

/// This end, as far as it is there.
struct Host {
    to_sandbox: Option<mpsc::Receiver<Bytes>>,
    from_sandbox: Option<mpsc::Sender<Bytes>>,
    /// To be sent, of the last piece.
    sending: Bytes,
    /// Came, and this end has no room for it yet.
    waiting: VecDeque<SessionBytes>,
    done: Option<oneshot::Receiver<Result<Report, HostError>>>,
    ends_alone: bool,
    result: Option<Result<Report, HostError>>,
}

impl Host {
    fn new(end: HostEnd) -> Self {
        let (to_sandbox, from_sandbox) = match end.pieces {
            Pieces::ToSandbox(pieces) => (Some(pieces), None),
            Pieces::FromSandbox(pieces) => (None, Some(pieces)),
        };
        let (sending, done) = (end.first.unwrap_or_default(), Some(end.done));
        let (ends_alone, waiting) = (end.ends_alone, VecDeque::new());
        Self { to_sandbox, from_sandbox, sending, waiting, done, ends_alone, result: None }
    }

    /// Nothing goes to it or comes from it any more: it ends.
    fn stop(&mut self) {
        self.to_sandbox = None;
        self.from_sandbox = None;
        self.sending = Bytes::new();
        self.waiting.clear();
        if !self.ends_alone && self.done.take().is_some() {
            self.result = Some(Ok(Report::default()));
        }
    }

    /// Its end, after the session was lost: it removes what is not whole.
    async fn give_up(mut self) {
        self.stop();
        if let Some(done) = self.done {
            // Whatever it says, the loss is the cause.
            let _ = timeout(END_LIMIT, done).await;
        }
    }

    fn has_failed(&self) -> bool {
        matches!(self.result, Some(Err(_)))
    }
}

/// Something that happened.
enum Event {
    Step(SessionStep),
    /// To be sent; `None` at the end.
    Piece(Option<Bytes>),
    /// This end has taken a piece; or wants no more.
    Taken(bool),
    Done(Result<Report, HostError>),
    Signal,
}

/// Carries the bytes until both ends have ended.
pub async fn transfer(session: &mut SessionClient, end: HostEnd, bar: &CopyBar) -> Result<Outcome, CopyCause> {
    let (mut signals, _hang_up) = signals::numbered()?;
    let mut host = Host::new(end);
    let (mut said, mut had) = (Vec::new(), SessionOffsets::default());
    let (mut signals_came, mut bytes, mut hung_up) = (0, 0_u64, false);
    let mut ended = None;
    while ended.is_none() || host.done.is_some() {
        let count = session.write(&host.sending);
        host.sending.advance(count);
        bytes += count as u64;
        bar.set(bytes);
        if ended.is_some() && host.waiting.is_empty() {
            // All that there is has been passed on.
            host.stop();
            if host.done.is_none() {
                break;
            }
        }
        let next = next_event(session, &mut host, &mut signals, ended.is_none());
        let event = match hung_up {
            false => next.await,
            // What does not end soon is left alone: it is hung up, whoever looks.
            true => match timeout(END_LIMIT, next).await {
                Ok(event) => event,
                Err(_) => break,
            },
        };
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                host.give_up().await;
                return Err(error);
            }
        };
        match event {
            Event::Step(SessionStep::Output(piece)) if piece.stream == OutputStream::Stderr => {
                piece.pass(&mut had);
                session.taken(had);
                said.extend(&piece.bytes[..piece.bytes.len().min(SAID_MAX - said.len())]);
            }
            Event::Step(SessionStep::Output(piece)) => {
                if host.from_sandbox.is_some() {
                    host.waiting.push_back(piece);
                } else {
                    piece.pass(&mut had);
                    session.taken(had);
                }
            }
            Event::Step(SessionStep::Input | SessionStep::DaemonEnds | SessionStep::StreamEnded(_)) => {}
            Event::Step(SessionStep::Reconnected) => bar.say("the daemon went away; the copy goes on with a new one"),
            Event::Step(SessionStep::Ended(end)) => ended = Some(end),
            Event::Piece(Some(piece)) => host.sending = piece,
            Event::Piece(None) => {
                host.to_sandbox = None;
                session.end_input();
            }
            Event::Taken(is_wanted) => {
                if let Some(piece) = host.waiting.pop_front() {
                    piece.pass(&mut had);
                    bytes += piece.bytes.len() as u64;
                }
                if !is_wanted {
                    host.from_sandbox = None;
                    host.waiting.drain(..).for_each(|piece| piece.pass(&mut had));
                }
                session.taken(had);
            }
            Event::Done(result) => {
                host.done = None;
                host.result = Some(result);
                if host.has_failed() && ended.is_none() {
                    hung_up = true;
                    session.hang_up();
                }
            }
            Event::Signal => {
                signals_came += 1;
                if signals_came > 1 {
                    break;
                }
                print::note("giving the copy up; once more to not wait for that");
                hung_up = true;
                session.hang_up();
                host.stop();
            }
        }
    }
    let is_interrupted = signals_came > 0;
    let end = match ended {
        Some(end) => {
            // A daemon that does not hear it keeps what it need not, for a while.
            let _ = timeout(END_LIMIT, session.forget()).await;
            end
        }
        None => SessionEnd::Gone,
    };
    let said = String::from_utf8_lossy(&said).trim_end().to_owned();
    let host = host.result.unwrap_or(Err(HostError::Lost));
    Ok(Outcome { end, said, host, is_interrupted })
}

async fn next_event(
    session: &mut SessionClient,
    host: &mut Host,
    signals: &mut mpsc::Receiver<i32>,
    is_open: bool,
) -> Result<Event, CopyCause> {
    let Host { to_sandbox, from_sandbox, sending, waiting, done, .. } = host;
    let give = async {
        // With something to give there is somebody to give it to.
        let (Some(to), Some(piece)) = (from_sandbox.as_ref(), waiting.front()) else {
            return std::future::pending().await;
        };
        to.send(piece.bytes.clone()).await.is_ok()
    };
    let take = async {
        match to_sandbox {
            Some(pieces) => pieces.recv().await,
            None => std::future::pending().await,
        }
    };
    let ending = async {
        match done {
            Some(done) => done.await.unwrap_or(Err(HostError::Lost)),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        step = session.next(), if is_open => Ok(Event::Step(step?)),
        is_wanted = give => Ok(Event::Taken(is_wanted)),
        piece = take, if sending.is_empty() => Ok(Event::Piece(piece)),
        result = ending => Ok(Event::Done(result)),
        Some(_) = signals.recv() => Ok(Event::Signal),
    }
}
