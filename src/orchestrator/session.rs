//! A client of a session in this process: what the application writes to a command beside the workload, and reads of it.
//!
//! ```text
//!   attached ─┬─ output ──▶ answered by `next` ──▶ taken for good when the next one is asked for
//!             ├─ input ◀── at most a window, kept until the session has it
//!             ├─ Ended, Replaced, Refused ──▶ finished
//!             └─ the monitor failed ──▶ attached again at its successor: what was not taken comes again and is passed over
//! ```
//!
//! Nothing runs behind the application's back: whoever waits for something of a session moves everything of it meanwhile.

mod state;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sandpen_actors::runtime::actor_ref::ActorRef;
use sandpen_actors::supervisor::{AttachSession, Supervisor};
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{SessionEnd, SessionId, SessionInfo, SessionOffsets};
use sandpen_types::spec::{SandboxKey, TerminalSize};
use sandpen_vmm::sessions::{Attachment, SessionEvent, SessionRequest};
use tokio::sync::{Notify, mpsc};

use super::error::SandpenError;
use state::{Finish, State};

/// So many monitors in a row may fail without a word of the session.
const ATTACHMENTS_MAX: u32 = 10;

/// Bytes that a session wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionOutput {
    /// Where; of a terminal everything is standard output.
    pub stream: OutputStream,
    /// The offset of the first one in its stream.
    pub offset: u64,
    /// The bytes; none where the stream has ended, as a read has it: no more come of it, though the session may go on.
    pub bytes: Bytes,
}

/// One's hold of a session, from [`Handle::exec`](super::Handle::exec) or
/// [`Handle::attach_session`](super::Handle::attach_session). Its methods may be used on any tokio runtime (actix is one).
/// Dropping it is its client's death: unless it is detached, the session is hung up when no other client comes in time
/// ([`CLIENT_LIMIT`](sandpen_types::session::CLIENT_LIMIT)).
#[derive(Debug)]
pub struct Session {
    way: Arc<Way>,
}

/// The standard input of a session; clones write to the same. Independent of who reads its output.
#[derive(Debug, Clone)]
pub struct SessionStdin {
    way: Arc<Way>,
}

/// What all of one client's hold share.
struct Way {
    supervisor: ActorRef<Supervisor>,
    key: SandboxKey,
    info: SessionInfo,
    state: Mutex<State>,
    /// Told at every change of the state.
    changed: Notify,
    /// There is something to send: told to whoever moves everything and does not know.
    wake: Notify,
    /// Had by whoever moves everything at the moment.
    attached: tokio::sync::Mutex<Attached>,
}

impl std::fmt::Debug for Way {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Way").field("key", &self.key).field("info", &self.info).finish_non_exhaustive()
    }
}

struct Attached {
    events: mpsc::Receiver<SessionEvent>,
    requests: mpsc::Sender<SessionRequest>,
    /// It takes no more requests; what it still tells is heard.
    is_deaf: bool,
    /// Since the last event.
    failures: u32,
}

impl Way {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves everything until `ready` answers. Safe to cancel.
    async fn until<T>(&self, mut ready: impl FnMut(&mut State) -> Option<T>) -> Result<T, SandpenError> {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(value) = ready(&mut self.state()) {
                return Ok(value);
            }
            let mut attached = if let Ok(attached) = self.attached.try_lock() {
                attached
            } else {
                // Who moves everything may only listen at the moment.
                let is_to_tell = {
                    let state = self.state();
                    state.has_request() && !state.is_sending
                };
                if is_to_tell {
                    self.wake.notify_one();
                }
                tokio::select! {
                    () = changed => continue,
                    attached = self.attached.lock() => attached,
                }
            };
            // Whoever had it until now may have changed what is waited for; from now on nobody else does.
            if let Some(value) = ready(&mut self.state()) {
                return Ok(value);
            }
            self.step(&mut attached).await?;
            drop(attached);
            self.changed.notify_waiters();
        }
    }

    async fn step(&self, attached: &mut Attached) -> Result<(), SandpenError> {
        let is_to_send = {
            let mut state = self.state();
            state.is_sending = !attached.is_deaf && state.has_request();
            state.is_sending
        };
        let is_lost = tokio::select! {
            permit = attached.requests.reserve(), if is_to_send => {
                attached.is_deaf = permit.is_err();
                if let Ok(permit) = permit
                    && let Some(request) = self.state().next_request()
                {
                    permit.send(request);
                }
                false
            }
            event = attached.events.recv() => {
                let is_over = event.is_none();
                if let Some(event) = event {
                    attached.failures = 0;
                    self.state().apply(event);
                }
                is_over && self.state().finish.is_none()
            }
            () = self.wake.notified() => false,
        };
        if is_lost { self.attach_again(attached).await } else { Ok(()) }
    }

    async fn attach_again(&self, attached: &mut Attached) -> Result<(), SandpenError> {
        if attached.failures >= ATTACHMENTS_MAX {
            return Err(SandpenError::Gone);
        }
        let from = Some(self.state().taken);
        let attach = AttachSession { key: self.key.clone(), id: self.info.id, from };
        let Attachment { info, events, requests } = self.supervisor.send(attach).await??;
        let failures = attached.failures + 1;
        *attached = Attached { events, requests, is_deaf: false, failures };
        self.state().attached(&info);
        Ok(())
    }

    /// Passes a request on, after those before it.
    async fn ask(&self, request: SessionRequest) -> Result<(), SandpenError> {
        let number = {
            let mut state = self.state();
            if let Some(refused) = state.finish.as_ref().and_then(|finish| self.refusal(finish)) {
                return Err(refused);
            }
            state.requests.push_back(request);
            state.passed_on + state.requests.len() as u64
        };
        self.until(|state| (state.passed_on >= number || state.finish.is_some()).then_some(())).await
    }

    /// What a finish is, where it is no end.
    fn refusal(&self, finish: &Finish) -> Option<SandpenError> {
        match finish {
            Finish::Ended(_) => None,
            Finish::Replaced => Some(SandpenError::SessionReplaced(self.info.id)),
            Finish::Refused(error) => Some(error.clone().into()),
        }
    }

    fn ended(&self, finish: &Finish) -> Result<SessionEnd, SandpenError> {
        match (finish, self.refusal(finish)) {
            (_, Some(refused)) => Err(refused),
            (Finish::Ended(end), None) => Ok(end.clone()),
            (_, None) => Ok(SessionEnd::Gone),
        }
    }

    /// Says what was taken, if that needs no wait and nobody else is about to say it.
    fn tell_taken(&self) {
        let Ok(attached) = self.attached.try_lock() else { return };
        let mut state = self.state();
        if state.told != state.taken
            && let Ok(permit) = attached.requests.try_reserve()
        {
            state.told = state.taken;
            permit.send(SessionRequest::Taken(state.taken));
        }
    }
}

impl Session {
    pub(super) fn new(
        supervisor: ActorRef<Supervisor>,
        key: &SandboxKey,
        attachment: Attachment,
        from: Option<SessionOffsets>,
    ) -> Self {
        let Attachment { info, events, requests } = attachment;
        let attached = tokio::sync::Mutex::new(Attached { events, requests, is_deaf: false, failures: 0 });
        let (state, changed, wake) = (Mutex::new(State::new(&info, from)), Notify::new(), Notify::new());
        Self { way: Arc::new(Way { supervisor, key: key.clone(), info, state, changed, wake, attached }) }
    }

    /// Which session this is.
    pub fn id(&self) -> SessionId {
        self.way.info.id
    }

    /// How it was when it was attached to.
    pub fn info(&self) -> &SessionInfo {
        &self.way.info
    }

    /// Behind what [`Session::next`] has answered: for an [`attach_session`](super::Handle::attach_session) that goes on
    /// from here, also in another process once this one is gone.
    pub fn offsets(&self) -> SessionOffsets {
        self.way.state().answered
    }

    /// The way to its standard input.
    pub fn stdin(&self) -> SessionStdin {
        SessionStdin { way: self.way.clone() }
    }

    /// The next bytes that it wrote; `None` when it has ended and all was answered. Asking for the next ones says that
    /// those before are taken for good: they are kept nowhere from then on. Safe to cancel.
    ///
    /// # Errors
    /// [`SandpenError::SessionReplaced`], [`SandpenError::Session`], and that its sandbox has ended without a word of it.
    pub async fn next(&mut self) -> Result<Option<SessionOutput>, SandpenError> {
        {
            let mut state = self.way.state();
            state.taken = state.answered;
        }
        self.way.tell_taken();
        let next = self
            .way
            .until(|state| match state.output.pop_front() {
                Some(output) => {
                    state.answer(&output);
                    Some(Ok(output))
                }
                None => state.finish.clone().map(Err),
            })
            .await?;
        match next {
            Ok(output) => Ok(Some(output)),
            Err(finish) => {
                self.way.ended(&finish)?;
                if let Ok(attached) = self.way.attached.try_lock() {
                    // Whoever has no room for it has ended.
                    let _ = attached.requests.try_send(SessionRequest::TakenEnd);
                }
                Ok(None)
            }
        }
    }

    /// Its end. What it writes until then is taken and dropped. Safe to cancel.
    ///
    /// # Errors
    /// As [`Session::next`].
    pub async fn wait(&mut self) -> Result<SessionEnd, SandpenError> {
        while self.next().await?.is_some() {}
        let finish = self.way.state().finish.clone();
        finish.map_or(Ok(SessionEnd::Gone), |finish| self.way.ended(&finish))
    }

    /// Tells its terminal a size.
    ///
    /// # Errors
    /// As [`Session::next`].
    pub async fn resize(&self, size: TerminalSize) -> Result<(), SandpenError> {
        self.way.ask(SessionRequest::Resize(size)).await
    }

    /// Sends a signal, 1 to 64, to its process group.
    ///
    /// # Errors
    /// As [`Session::next`].
    pub async fn signal(&self, signal: i32) -> Result<(), SandpenError> {
        self.way.ask(SessionRequest::Signal(signal)).await
    }

    /// Hangs it up: SIGHUP, and SIGKILL where it does not end of that soon.
    ///
    /// # Errors
    /// As [`Session::next`].
    pub async fn hang_up(&self) -> Result<(), SandpenError> {
        self.way.ask(SessionRequest::HangUp).await
    }

    /// Leaves it on purpose: it runs on without a client, for another `attach_session`.
    ///
    /// # Errors
    /// As [`Session::next`].
    pub async fn detach(self) -> Result<(), SandpenError> {
        self.way.ask(SessionRequest::Detach).await
    }
}

impl SessionStdin {
    /// Writes to it; resolves when all was passed on as far as the session has room for it. What the session has not got
    /// yet is kept, and comes to it whatever becomes of the sandbox's monitor. Bytes for a session that reads no more are
    /// dropped. Cancelled, it has written a part.
    ///
    /// # Errors
    /// As [`Session::next`]; no error where the session has ended.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), SandpenError> {
        let mut written = 0;
        self.pass_on(|state| {
            written += state.input.push(&bytes[written..]);
            written == bytes.len() && state.input.is_sent()
        })
        .await
    }

    /// Ends it; resolves when that was passed on.
    ///
    /// # Errors
    /// As [`SessionStdin::write`].
    pub async fn close(&self) -> Result<(), SandpenError> {
        self.way.state().input.end();
        self.pass_on(|state| state.input.is_all_sent()).await
    }

    async fn pass_on(&self, mut is_done: impl FnMut(&mut State) -> bool) -> Result<(), SandpenError> {
        let done = self.way.until(|state| match &state.finish {
            Some(finish) => Some(self.way.refusal(finish)),
            None => is_done(state).then_some(None),
        });
        done.await?.map_or(Ok(()), Err)
    }
}
