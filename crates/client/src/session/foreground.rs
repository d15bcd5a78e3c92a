//! A session in the foreground: its output passed on, its input fed, signals passed on or taken as the wish to leave it.
//!
//! ```text
//!   attached ─▶ output waits for whoever writes it, no more than the session's windows; what is written is taken
//!      │ ─▶ ended, and all output is with the writer
//!      ├ detach keys, or a signal where it was attached to ─▶ left: the caller says so once all is written
//!      └ a signal where it was begun ─▶ passed on ─▶ 2nd: hung up ─▶ 3rd: given up
//! ```

use std::collections::VecDeque;

use bytes::{Buf as _, Bytes};
use futures::StreamExt as _;
use sandpen_types::session::{SessionEnd, SessionOffsets};
use sandpen_types::spec::TerminalSize;
use tokio::sync::{mpsc, oneshot, watch};

use super::super::foreground::Input;
use super::super::{ClientError, StdinReceiver, TerminalInput};
use super::{SessionBytes, SessionClient, SessionStep};

/// SIGHUP.
const HANG_UP: i32 = 1;

/// What happens on the way, in order.
#[derive(Debug)]
pub enum SessionNotice {
    /// Output.
    Output(SessionBytes),
    /// This signal was passed on.
    Signal(i32),
    /// It is hung up.
    HangingUp,
    /// Standard input is no longer passed on, with the reason.
    InputLost(std::io::Error),
    /// The daemon ends and leaves the session running; another one is waited for.
    DaemonEnds,
    /// The daemon went away and another one goes on.
    Reconnected,
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionForegroundEnd {
    /// It ended, and all of its output was passed on.
    Ended(SessionEnd),
    /// The user left it: say so with [`SessionClient::detach`] when all is written.
    Left,
    /// Signals said not to wait for it any longer.
    GivenUp,
    /// Nobody takes its output any more.
    Unread,
}

/// What signals do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSessionSignal {
    /// They go to the session, then hang it up.
    Forward,
    /// The session is left as it is.
    Leave,
}

/// A session to have in the foreground.
pub struct SessionForeground<'a> {
    /// Which.
    pub session: &'a mut SessionClient,
    /// Its input.
    pub input: Input,
    /// What to do on a signal.
    pub on_signal: OnSessionSignal,
    /// The number of each signal that comes.
    pub signals: &'a mut mpsc::Receiver<i32>,
    /// Where everything goes; one that is closed ends it: there is nobody who reads.
    pub notices: mpsc::Sender<SessionNotice>,
    /// How much of the output is where it belongs.
    pub written: watch::Receiver<SessionOffsets>,
}

/// Where input comes from, as far as there is (more of) it.
#[derive(Default)]
struct Sources {
    bytes: Option<StdinReceiver>,
    /// Their end ends the session's input.
    close: bool,
    typed: Option<mpsc::Receiver<Bytes>>,
    sizes: Option<watch::Receiver<Option<TerminalSize>>>,
    detach: Option<oneshot::Receiver<()>>,
    /// Came, and the session has no room for it yet.
    pending: Bytes,
}

/// What a source gives.
enum Fed {
    Bytes(Bytes),
    Lost(std::io::Error),
    End,
    Size(TerminalSize),
    Left,
    Nothing,
}

impl Sources {
    fn open(input: Input) -> Result<Self, ClientError> {
        match input {
            Input::None => Ok(Self::default()),
            Input::Pipe { open, close } => Ok(Self { bytes: Some(open()), close, ..Self::default() }),
            Input::Terminal(open) => {
                let TerminalInput { typed, sizes, detach } = open().map_err(ClientError::Terminal)?;
                let (typed, sizes, detach) = (Some(typed), Some(sizes), Some(detach));
                Ok(Self { typed, sizes, detach, ..Self::default() })
            }
        }
    }

    /// The next thing; waits for ever where there is none. Safe to cancel.
    async fn next(&mut self) -> Fed {
        let Self { bytes, close, typed, sizes, detach, pending } = self;
        let has_room = pending.is_empty();
        tokio::select! {
            Some(chunk) = async { Some(bytes.as_mut()?.next().await) }, if has_room && bytes.is_some() => {
                if !matches!(chunk, Some(Ok(_))) {
                    *bytes = None;
                }
                match chunk {
                    Some(Ok(bytes)) => Fed::Bytes(bytes),
                    Some(Err(error)) => Fed::Lost(error),
                    None if *close => Fed::End,
                    None => Fed::Nothing,
                }
            }
            Some(keys) = async { Some(typed.as_mut()?.recv().await) }, if has_room && typed.is_some() => {
                if keys.is_none() {
                    *typed = None;
                }
                keys.map_or(Fed::Nothing, Fed::Bytes)
            }
            Some(changed) = async { Some(sizes.as_mut()?.changed().await) }, if sizes.is_some() => {
                if changed.is_err() {
                    *sizes = None;
                }
                self.size().map_or(Fed::Nothing, Fed::Size)
            }
            Some(left) = async { Some(detach.as_mut()?.await) }, if detach.is_some() => {
                *detach = None;
                // Nobody reads keys (any more).
                left.map_or(Fed::Nothing, |()| Fed::Left)
            }
            else => std::future::pending().await,
        }
    }

    /// The size of the terminal now.
    fn size(&mut self) -> Option<TerminalSize> {
        *self.sizes.as_mut()?.borrow_and_update()
    }
}

impl SessionForeground<'_> {
    /// Has it in the foreground until it ends or is left.
    ///
    /// # Errors
    /// It got lost from sight; it may run on then.
    pub async fn run(self) -> Result<SessionForegroundEnd, ClientError> {
        let Self { session, input, on_signal, signals, notices, mut written } = self;
        let mut sources = Sources::open(input)?;
        if let Some(size) = sources.size() {
            session.resize(size);
        }
        let (mut waiting, mut end, mut signals_came) = (VecDeque::new(), None, 0_u32);
        loop {
            let count = session.write(&sources.pending);
            sources.pending.advance(count);
            if let (Some(end), true) = (&end, waiting.is_empty()) {
                return Ok(SessionForegroundEnd::Ended(SessionEnd::clone(end)));
            }
            tokio::select! {
                step = session.next(), if end.is_none() => match step? {
                    SessionStep::Output(bytes) => waiting.push_back(SessionNotice::Output(bytes)),
                    SessionStep::Input | SessionStep::StreamEnded(_) => {}
                    SessionStep::DaemonEnds => waiting.push_back(SessionNotice::DaemonEnds),
                    SessionStep::Reconnected => waiting.push_back(SessionNotice::Reconnected),
                    SessionStep::Ended(how) => end = Some(how),
                },
                permit = notices.reserve(), if !waiting.is_empty() => {
                    let (Ok(permit), Some(notice)) = (permit, waiting.pop_front()) else {
                        return Ok(SessionForegroundEnd::Unread);
                    };
                    permit.send(notice);
                }
                () = notices.closed() => return Ok(SessionForegroundEnd::Unread),
                Ok(()) = written.changed() => session.taken(*written.borrow_and_update()),
                fed = sources.next() => match fed {
                    Fed::Bytes(bytes) => sources.pending = bytes,
                    Fed::Lost(error) => waiting.push_back(SessionNotice::InputLost(error)),
                    Fed::End => session.end_input(),
                    Fed::Size(size) => session.resize(size),
                    Fed::Left => return Ok(SessionForegroundEnd::Left),
                    Fed::Nothing => {}
                },
                Some(signal) = signals.recv() => {
                    if on_signal == OnSessionSignal::Leave {
                        return Ok(SessionForegroundEnd::Left);
                    }
                    signals_came += 1;
                    match signals_came {
                        1 if signal != HANG_UP => {
                            session.signal(signal);
                            waiting.push_back(SessionNotice::Signal(signal));
                        }
                        1 | 2 => {
                            signals_came = 2;
                            session.hang_up();
                            waiting.push_back(SessionNotice::HangingUp);
                        }
                        _ => return Ok(SessionForegroundEnd::GivenUp),
                    }
                }
            }
        }
    }
}
