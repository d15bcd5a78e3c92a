//! A session's process on this host, with what is kept of its streams.

use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use chrono::Utc;
use futures::FutureExt as _;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::session::{
    HANG_UP_GRACE, SessionEnd, SessionId, SessionInfo, SessionOffsets, SessionProgram, SessionSpec,
};
use sandpen_types::spec::ByteString;
use sandpen_types::state::ExitStatus;
use sandpen_vmm::sessions::SessionError;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::{ChildStdin, Command};
use tokio::sync::watch;

use super::{WINDOW, lock};

/// What [`SessionProgram::Processes`] says.
const PROCESSES: &str = concat!(
    r#"{"pid":1,"ppid":0,"user":"root","cpu_ms":1500,"memory":4096,"state":"S","age_ms":61000,"command":"/init"}"#,
    "\n",
    r#"{"pid":7,"ppid":1,"user":"we\u001b[2Jb","cpu_ms":0,"memory":1048576,"state":"R","age_ms":0,"command":"sh -c \u0007"}"#,
    "\n"
);

pub(super) struct Session {
    pub(super) spec: SessionSpec,
    pub(super) info: SessionInfo,
    pub(super) group: Pid,
    pub(super) state: Mutex<State>,
    /// Anything of the state changed.
    pub(super) changed: watch::Sender<()>,
}

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct State {
    pub(super) outputs: [Kept; 2],
    /// Not yet written to the process.
    pub(super) input: VecDeque<u8>,
    pub(super) received: u64,
    pub(super) ends_at: Option<u64>,
    pub(super) is_input_closed: bool,
    pub(super) is_detached: bool,
    pub(super) is_timed_out: bool,
    pub(super) end: Option<SessionEnd>,
    /// The client of the moment.
    pub(super) client: u64,
    pub(super) has_client: bool,
}

/// What a stream keeps.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) from: u64,
    pub(super) bytes: VecDeque<u8>,
    pub(super) is_ended: bool,
}

/// A program of this host that does what the guest's tool does.
fn tool_of_this_host(tool: &GuestTool) -> Vec<ByteString> {
    match tool {
        GuestTool::Connect { port } => {
            let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port} || exit 1; cat <&3 & cat >&3; wait");
            vec!["bash".into(), "-c".into(), script.into()]
        }
        // Built for tests, the program that this is knows them: `src/testing_tools.rs`.
        GuestTool::Files => vec!["/proc/self/exe".into(), "__files".into()],
        GuestTool::Watch { path, recursive } => {
            vec!["/proc/self/exe".into(), "__watch".into(), path.clone(), recursive.to_string().into()]
        }
    }
}

/// Starts the process, or says in the session's end why not.
pub(super) fn start(id: SessionId, spec: SessionSpec) -> Arc<Session> {
    let shell = ["/bin/sh".into()];
    let list = ["printf".into(), "%s".into(), PROCESSES.into()];
    let parts: &[ByteString] = match &spec.program {
        SessionProgram::Command(parts) => parts,
        SessionProgram::Shell => &shell,
        SessionProgram::Processes => &list,
        SessionProgram::Tool(tool) => &tool_of_this_host(tool),
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
    pub(super) fn info(&self) -> SessionInfo {
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
    pub(super) fn signal(&self, signal: i32) {
        let is_there = self.group.as_raw() > 0 && lock(&self.state).end.is_none();
        if let (true, Ok(signal)) = (is_there, Signal::try_from(signal)) {
            let _ = killpg(self.group, signal);
        }
    }

    pub(super) fn hang_up(self: &Arc<Self>) {
        self.signal(Signal::SIGHUP as i32);
        let this = self.clone();
        // A timer that needs no observer.
        drop(tokio::spawn(async move {
            tokio::time::sleep(HANG_UP_GRACE).await;
            this.signal(Signal::SIGKILL as i32);
        }));
    }

    pub(super) async fn read(self: Arc<Self>, index: usize, mut pipe: impl AsyncRead + Unpin + Send + 'static) {
        let mut buffer = vec![0; WINDOW];
        let mut changes = self.changed.subscribe();
        loop {
            let room = WINDOW.saturating_sub(lock(&self.state).outputs[index].bytes.len());
            if room == 0 {
                let _ = changes.changed().await;
                continue;
            }
            let Ok(count @ 1..) = pipe.read(&mut buffer[..room]).await else {
                lock(&self.state).outputs[index].is_ended = true;
                self.changed.send_replace(());
                return;
            };
            lock(&self.state).outputs[index].bytes.extend(&buffer[..count]);
            self.changed.send_replace(());
        }
    }

    pub(super) async fn write(self: Arc<Self>, mut pipe: ChildStdin) {
        let mut changes = self.changed.subscribe();
        loop {
            let (chunk, is_end) = {
                let state = lock(&self.state);
                // Kept until the process has it: where the next bytes belong is counted with them.
                let chunk: Vec<u8> = state.input.iter().copied().collect();
                let is_end = state.ends_at.is_some_and(|end| end <= state.received + chunk.len() as u64);
                (chunk, is_end)
            };
            if !chunk.is_empty() {
                let is_read = pipe.write_all(&chunk).await.is_ok();
                {
                    let mut state = lock(&self.state);
                    state.input.drain(..chunk.len());
                    state.received += chunk.len() as u64;
                    state.is_input_closed |= !is_read;
                }
                self.changed.send_replace(());
                if !is_read {
                    return;
                }
            } else if is_end || changes.changed().await.is_err() {
                return;
            }
        }
    }

    pub(super) fn take(&self, taken: SessionOffsets) -> Result<(), SessionError> {
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

    pub(super) fn input(&self, offset: u64, bytes: &[u8]) -> Result<(), SessionError> {
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
