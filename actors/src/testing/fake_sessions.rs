//! Sessions without a guest, for tests: processes of this host, kept to all that a driver promises of sessions.
//!
//! ```text
//!   open ──▶ process: its outputs ──▶ kept, at most a window ──▶ its client's events, again and again until Taken
//!                     its input  ◀── at most a window ◀── its client's requests
//!   the process's end, and its outputs' ──▶ Ended ──TakenEnd──▶ forgotten
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::{
    HANG_UP_GRACE, SESSIONS_MAX, SessionEnd, SessionId, SessionInfo, SessionOffsets, SessionProgram, SessionSpec,
};
use sandpen_types::spec::ByteString;
use sandpen_types::state::ExitStatus;
use sandpen_vmm::sessions::{Attachment, GuestSessions, SessionError, SessionEvent, SessionRequest};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio::sync::{mpsc, watch};

/// Bytes of each stream that are kept.
pub const WINDOW: usize = 64 << 10;
/// What [`SessionProgram::Processes`] says.
const PROCESSES: &str = concat!(
    r#"{"pid":1,"ppid":0,"user":"root","cpu_ms":1500,"memory":4096,"state":"S","age_ms":61000,"command":"/init"}"#,
    "\n",
    r#"{"pid":7,"ppid":1,"user":"we\u001b[2Jb","cpu_ms":0,"memory":1048576,"state":"R","age_ms":0,"command":"sh -c \u0007"}"#,
    "\n"
);

/// The sessions of one fake guest; clones share them.
#[derive(Clone, Default)]
pub struct FakeSessions(Arc<Mutex<Sessions>>);

#[derive(Default)]
struct Sessions {
    all: BTreeMap<SessionId, Arc<Session>>,
    is_closed: bool,
}

struct Session {
    spec: SessionSpec,
    info: SessionInfo,
    group: Pid,
    state: Mutex<State>,
    /// Anything of the state changed.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    outputs: [Kept; 2],
    /// Not yet written to the process.
    input: VecDeque<u8>,
    received: u64,
    ends_at: Option<u64>,
    is_input_closed: bool,
    is_detached: bool,
    is_timed_out: bool,
    end: Option<SessionEnd>,
    /// The client of the moment.
    client: u64,
    has_client: bool,
}

/// What a stream keeps.
#[derive(Default)]
struct Kept {
    from: u64,
    bytes: VecDeque<u8>,
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

/// Starts the process, or says in the session's end why not.
fn start(id: SessionId, spec: SessionSpec) -> Arc<Session> {
    let shell = ["/bin/sh".into()];
    let list = ["printf".into(), "%s".into(), PROCESSES.into()];
    let parts: &[ByteString] = match &spec.program {
        SessionProgram::Command(parts) => parts,
        SessionProgram::Shell => &shell,
        SessionProgram::Processes => &list,
    };
    let mut command = Command::new(parts[0].as_os_str());
    command.args(parts[1..].iter().map(ByteString::as_os_str));
    command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").process_group(0).kill_on_drop(true);
    command.envs(spec.env.iter().map(|(name, value)| (name.as_os_str(), value.as_os_str())));
    command.stdin(if spec.stdin { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(dir) = &spec.workdir {
        command.current_dir(dir.as_os_str());
    }
    let user = spec.user.as_ref().map(ToString::to_string).filter(|user| user != "root");
    let child = match user {
        Some(user) => Err((126, format!("there is no user {user:?}"))),
        None => command.spawn().map_err(|error| {
            let is_found = error.kind() != std::io::ErrorKind::NotFound || spec.workdir.is_some();
            (if is_found { 126 } else { 127 }, error.to_string())
        }),
    };
    let group = child.as_ref().ok().and_then(tokio::process::Child::id).map_or(0, u32::cast_signed);
    let (label, terminal, detached) = (spec.label(), spec.terminal.is_some(), spec.detached);
    let kept_from = SessionOffsets::default();
    let asked_at = Utc::now();
    let info = SessionInfo { id, label, asked_at, terminal, detached, attached: false, stdin: 0, kept_from, end: None };
    let end =
        child.as_ref().err().map(|(code, message)| SessionEnd::NotStarted { code: *code, message: message.clone() });
    let state = State { is_detached: detached, end, is_input_closed: child.is_err(), ..State::default() };
    let changed = watch::channel(()).0;
    let session = Arc::new(Session { spec, info, group: Pid::from_raw(group), state: Mutex::new(state), changed });
    let Ok(mut child) = child else { return session };
    let stdout = child.stdout.take().map(|pipe| session.clone().read(0, pipe).boxed());
    let stderr = child.stderr.take().map(|pipe| session.clone().read(1, pipe).boxed());
    let input = child.stdin.take().map(|pipe| session.clone().write(pipe));
    let (whole, limit) = (session.clone(), session.spec.timeout);
    // Observed by whoever is told of the session's end, which it tells.
    drop(tokio::spawn(async move {
        let ending = async {
            let status = child.wait().await;
            let status =
                status.ok().and_then(|s| s.code().map(ExitStatus::Code).or_else(|| s.signal().map(ExitStatus::Signal)));
            status.unwrap_or(ExitStatus::Unknown)
        };
        let limited = async {
            if let Some(limit) = limit {
                tokio::time::sleep(limit).await;
                lock(&whole.state).is_timed_out = true;
                whole.signal(Signal::SIGKILL as i32);
            }
            futures::future::pending::<()>().await;
        };
        let input = async {
            if let Some(input) = input {
                input.await;
            }
            futures::future::pending::<()>().await;
        };
        let outputs = async {
            let all = futures::future::join_all([stdout, stderr].into_iter().flatten());
            let (_, exit) = tokio::join!(all, ending);
            exit
        };
        let exit = tokio::select! {
            exit = outputs => exit,
            () = limited => return,
            () = input => return,
        };
        let mut state = lock(&whole.state);
        let is_timed_out = state.is_timed_out;
        state.end = Some(if is_timed_out { SessionEnd::TimedOut } else { SessionEnd::Exited(exit) });
        state.is_input_closed = true;
        drop(state);
        whole.changed.send_replace(());
    }));
    session
}

impl Session {
    fn info(&self) -> SessionInfo {
        let state = lock(&self.state);
        SessionInfo {
            attached: state.has_client,
            detached: state.is_detached,
            stdin: state.received,
            kept_from: SessionOffsets { stdout: state.outputs[0].from, stderr: state.outputs[1].from },
            end: state.end.clone(),
            ..self.info.clone()
        }
    }

    /// To its process group, if that is there.
    fn signal(&self, signal: i32) {
        let is_there = self.group.as_raw() > 0 && lock(&self.state).end.is_none();
        if let (true, Ok(signal)) = (is_there, Signal::try_from(signal)) {
            let _ = killpg(self.group, signal);
        }
    }

    fn hang_up(self: &Arc<Self>) {
        self.signal(Signal::SIGHUP as i32);
        let this = self.clone();
        // A timer that needs no observer.
        drop(tokio::spawn(async move {
            tokio::time::sleep(HANG_UP_GRACE).await;
            this.signal(Signal::SIGKILL as i32);
        }));
    }

    async fn read(self: Arc<Self>, index: usize, mut pipe: impl AsyncRead + Unpin + Send + 'static) {
        let mut buffer = vec![0; WINDOW];
        let mut changes = self.changed.subscribe();
        loop {
            let room = WINDOW.saturating_sub(lock(&self.state).outputs[index].bytes.len());
            if room == 0 {
                let _ = changes.changed().await;
                continue;
            }
            let Ok(count @ 1..) = pipe.read(&mut buffer[..room]).await else { return };
            lock(&self.state).outputs[index].bytes.extend(&buffer[..count]);
            self.changed.send_replace(());
        }
    }

    async fn write(self: Arc<Self>, mut pipe: ChildStdin) {
        let mut changes = self.changed.subscribe();
        loop {
            let (chunk, is_end) = {
                let mut state = lock(&self.state);
                let chunk: Vec<u8> = state.input.drain(..).collect();
                let is_end = state.ends_at.is_some_and(|end| end <= state.received + chunk.len() as u64);
                (chunk, is_end)
            };
            if !chunk.is_empty() {
                let is_read = pipe.write_all(&chunk).await.is_ok();
                lock(&self.state).received += chunk.len() as u64;
                lock(&self.state).is_input_closed |= !is_read;
                self.changed.send_replace(());
                if !is_read {
                    return;
                }
            } else if is_end {
                return;
            } else if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn take(&self, taken: SessionOffsets) -> Result<(), SessionError> {
        let mut state = lock(&self.state);
        for (kept, (taken, stream)) in
            state.outputs.iter_mut().zip([(taken.stdout, "stdout"), (taken.stderr, "stderr")])
        {
            let there = kept.from + kept.bytes.len() as u64;
            if taken > there {
                return Err(SessionError::Ahead { stream, asked: taken, there });
            }
            let count = usize::try_from(taken.saturating_sub(kept.from)).unwrap_or(usize::MAX);
            kept.bytes.drain(..count);
            kept.from = kept.from.max(taken);
        }
        drop(state);
        self.changed.send_replace(());
        Ok(())
    }

    fn input(&self, offset: u64, bytes: &[u8]) -> Result<(), SessionError> {
        let mut state = lock(&self.state);
        let there = state.received + state.input.len() as u64;
        if offset > there {
            return Err(SessionError::Ahead { stream: "stdin", asked: offset, there });
        }
        let known = usize::try_from(there - offset).unwrap_or(usize::MAX).min(bytes.len());
        if !state.is_input_closed {
            state.input.extend(&bytes[known..]);
        }
        drop(state);
        self.changed.send_replace(());
        Ok(())
    }
}

/// What the client was told.
struct Told {
    outputs: [u64; 2],
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
            let told = Told { outputs: [from.stdout, from.stderr], window: None, is_input_closed: false };
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
