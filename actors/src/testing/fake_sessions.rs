//! Sessions without a guest, for tests: processes of this host, kept to all that a driver promises of sessions.
//!
//! ```text
//!   open ──▶ process: its outputs ──▶ kept, at most a window ──▶ its client's events, again and again until Taken
//!                     its input  ◀── at most a window ◀── its client's requests
//!   the process's end, and its outputs' ──▶ Ended ──TakenEnd──▶ forgotten
//! ```

mod process;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::Signal;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SESSIONS_MAX, SessionEnd, SessionId, SessionInfo, SessionOffsets, SessionSpec};
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionEvent, SessionRequest};
use tokio::sync::mpsc;

use process::{Session, start};

/// Bytes of each stream that are kept.
pub const WINDOW: usize = 64 << 10;

/// The sessions of one fake guest; clones share them.
#[derive(Clone, Default)]
pub struct FakeSessions(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    all: BTreeMap<SessionId, Arc<Session>>,
    is_closed: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FakeSessions {
    /// The guest ends: no session begins any more, and all are killed.
    pub fn close(&self) {
        let mut sessions = lock(&self.0);
        sessions.is_closed = true;
        for session in sessions.all.values() {
            session.signal(Signal::SIGKILL as i32);
        }
    }

    /// The guest is lost: nobody will ever know how its sessions ended.
    pub fn lose(&self) {
        let mut sessions = lock(&self.0);
        sessions.is_closed = true;
        for session in sessions.all.values() {
            session.signal(Signal::SIGKILL as i32);
            lock(&session.state).end.get_or_insert(SessionEnd::Gone);
            session.changed.send_replace(());
        }
    }

    /// The guest has forgotten them.
    pub fn forget_all(&self) {
        lock(&self.0).all.clear();
    }

    fn find(&self, id: SessionId) -> Result<Arc<Session>, SessionError> {
        lock(&self.0).all.get(&id).cloned().ok_or(SessionError::NotFound(id))
    }

    fn begin(&self, id: SessionId, spec: SessionSpec) -> Result<SessionInfo, SessionError> {
        spec.check()?;
        if let Ok(session) = self.find(id) {
            return Ok(session.info());
        }
        let mut sessions = lock(&self.0);
        if sessions.is_closed {
            return Err(SessionError::NotRunning);
        }
        if sessions.all.len() >= SESSIONS_MAX {
            return Err(SessionError::TooMany { max: SESSIONS_MAX });
        }
        let session = start(id, spec);
        sessions.all.insert(id, session.clone());
        Ok(session.info())
    }
}

/// What the client was told.
struct Told {
    outputs: [u64; 2],
    ended: [bool; 2],
    window: Option<u64>,
    is_input_closed: bool,
}

impl Told {
    /// The next thing to tell; the last one with true.
    fn next(&mut self, session: &Session, client: u64) -> Option<(SessionEvent, bool)> {
        let state = lock(&session.state);
        if state.client != client {
            return Some((SessionEvent::Replaced, true));
        }
        for (index, stream) in [OutputStream::Stdout, OutputStream::Stderr].into_iter().enumerate() {
            let (kept, offset) = (&state.outputs[index], self.outputs[index]);
            let skip = usize::try_from(offset.saturating_sub(kept.from)).unwrap_or(usize::MAX);
            if skip < kept.bytes.len() {
                let bytes: Vec<u8> = kept.bytes.range(skip..).take(32 << 10).copied().collect();
                self.outputs[index] = offset + bytes.len() as u64;
                return Some((SessionEvent::Output { stream, offset, bytes: bytes.into() }, false));
            }
            if kept.is_ended && !std::mem::replace(&mut self.ended[index], true) {
                return Some((SessionEvent::StreamEnded { stream, total: offset }, false));
            }
        }
        if session.spec.stdin {
            if state.is_input_closed && !self.is_input_closed {
                self.is_input_closed = true;
                return Some((SessionEvent::InputClosed, false));
            }
            if !state.is_input_closed && self.window != Some(state.received) {
                self.window = Some(state.received);
                let limit = state.received + WINDOW as u64;
                return Some((SessionEvent::InputWindow { received: state.received, limit }, false));
            }
        }
        state.end.clone().map(|end| (SessionEvent::Ended(end), true))
    }
}

impl FakeSessions {
    async fn serve(
        self,
        session: Arc<Session>,
        mut told: Told,
        client: u64,
        events: mpsc::Sender<SessionEvent>,
        mut requests: mpsc::Receiver<SessionRequest>,
    ) {
        let mut changes = session.changed.subscribe();
        let mut is_told_all = false;
        loop {
            changes.borrow_and_update();
            let next = if is_told_all { None } else { told.next(&session, client) };
            tokio::select! {
                // What was asked for before its client went is done.
                biased;
                request = requests.recv() => {
                    let Some(request) = request else { break };
                    // Not to be told: it was not sent yet.
                    if let Some((SessionEvent::Output { stream, offset, .. }, _)) = next {
                        told.outputs[usize::from(stream == OutputStream::Stderr)] = offset;
                    } else if let Some((SessionEvent::StreamEnded { stream, .. }, _)) = next {
                        told.ended[usize::from(stream == OutputStream::Stderr)] = false;
                    } else if next.is_some() {
                        (told.window, told.is_input_closed) = (None, false);
                    }
                    if let Err(error) = self.serve_request(&session, request) {
                        let _ = events.send(SessionEvent::Refused(error)).await;
                        break;
                    }
                }
                permit = events.reserve(), if next.is_some() => {
                    let (Ok(permit), Some((event, is_last))) = (permit, next) else { break };
                    is_told_all = is_last;
                    let is_replaced = event == SessionEvent::Replaced;
                    permit.send(event);
                    if is_replaced {
                        return;
                    }
                }
                _ = changes.changed(), if next.is_none() => {}
                () = events.closed() => break,
            }
        }
        let mut state = lock(&session.state);
        if state.client == client {
            state.has_client = false;
        }
    }

    fn serve_request(&self, session: &Arc<Session>, request: SessionRequest) -> Result<(), SessionError> {
        match request {
            SessionRequest::Input { offset, bytes } => session.input(offset, &bytes)?,
            SessionRequest::EndInput { total } => {
                lock(&session.state).ends_at = Some(total);
                session.changed.send_replace(());
            }
            SessionRequest::Taken(taken) => session.take(taken)?,
            SessionRequest::TakenEnd => {
                if lock(&session.state).end.is_some() {
                    lock(&self.0).all.remove(&session.info.id);
                }
            }
            SessionRequest::Resize(_) => {}
            SessionRequest::Signal(signal) => session.signal(signal),
            SessionRequest::HangUp => session.hang_up(),
            SessionRequest::Detach => lock(&session.state).is_detached = true,
        }
        Ok(())
    }
}

impl GuestSessions for FakeSessions {
    fn open(&self, id: SessionId, spec: SessionSpec) -> BoxFuture<'static, Result<SessionInfo, SessionError>> {
        let this = self.clone();
        async move { this.begin(id, spec) }.boxed()
    }

    fn attach(
        &self,
        id: SessionId,
        from: Option<SessionOffsets>,
    ) -> BoxFuture<'static, Result<Attachment, SessionError>> {
        let this = self.clone();
        async move {
            let session = this.find(id)?;
            let kept = session.info().kept_from;
            let from = from.unwrap_or(kept);
            for (asked, kept, stream) in
                [(from.stdout, kept.stdout, OutputStream::Stdout), (from.stderr, kept.stderr, OutputStream::Stderr)]
            {
                if asked < kept {
                    return Err(SessionError::NotKept { stream, asked, kept });
                }
            }
            session.take(from)?;
            let client = {
                let mut state = lock(&session.state);
                state.client += 1;
                state.has_client = true;
                state.client
            };
            session.changed.send_replace(());
            let (events_sender, events) = mpsc::channel(4);
            let (requests, requests_receiver) = mpsc::channel(4);
            let info = session.info();
            let told =
                Told { outputs: [from.stdout, from.stderr], ended: [false; 2], window: None, is_input_closed: false };
            // Ends with the attachment, which sees it.
            drop(tokio::spawn(this.serve(session, told, client, events_sender, requests_receiver)));
            Ok(Attachment { info, events, requests })
        }
        .boxed()
    }

    fn list(&self) -> BoxFuture<'static, Result<Vec<SessionInfo>, SessionError>> {
        let mut all: Vec<_> = lock(&self.0).all.values().map(|session| session.info()).collect();
        all.sort_by_key(|info| info.asked_at);
        async move { Ok(all) }.boxed()
    }

    fn tell(&self, id: SessionId, request: SessionRequest) -> BoxFuture<'static, Result<(), SessionError>> {
        let this = self.clone();
        async move {
            let session = this.find(id)?;
            match request {
                SessionRequest::Signal(signal) => session.signal(signal),
                SessionRequest::HangUp => session.hang_up(),
                _ => {}
            }
            Ok(())
        }
        .boxed()
    }
}
