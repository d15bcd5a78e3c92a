//! Starts a daemon in the background and waits until it serves.
//!
//! ```text
//!   spawn ─▶ one line on the pipe ─ serving ────────▶ connect
//!              │ failed: another one holds the lock ─▶ wait for its socket ─▶ connect, or spawn again
//!              │ failed otherwise ──────────────────▶ its error
//!              └ pipe ended without a line ─────────▶ the last lines of its log
//! ```
//! Any number of clients may do this at once: the lock of the state directory picks one daemon.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use sandpen_api::{ErrorCode, Readiness};
use sandpen_types::state_dir::StateDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use super::daemon_environment;
use super::daemon_log::{self, LogLimits};
use super::{Client, ClientError};
use crate::private_dir::PrivateDir;

/// Longest time for a daemon to adopt what it finds and to serve.
const START_LIMIT: Duration = Duration::from_mins(2);
/// Longest time to wait for somebody else's daemon between two looks, in milliseconds.
const LOOK_AGAIN_MS: u16 = 500;
/// Lines of the daemon's log that an error shows.
const LOG_LINES: usize = 5;

/// The program that is the daemon.
#[derive(Debug, Clone)]
pub struct DaemonCommand {
    /// The `sandpen` program.
    pub program: PathBuf,
    /// Arguments that make it run as daemon in the background; the state directory among them.
    pub args: Vec<OsString>,
}

/// What a spawned daemon made of it.
enum Spawned {
    Serving,
    /// Another process holds the lock: its message.
    Locked(String),
}

/// Starts a daemon, unless somebody else does meanwhile, and finds it. Only in a directory of our own: root finds
/// others' daemons, and starts none for them.
pub(super) async fn start(dir: &StateDir, command: &DaemonCommand) -> Result<Client, ClientError> {
    PrivateDir::of_daemon(dir.path())?;
    let deadline = Instant::now() + START_LIMIT;
    // Before the first spawn: a socket that appears later than this is noticed.
    let watch = SocketWatch::new(dir)?;
    loop {
        let locked = match spawn(dir, command, deadline).await? {
            Spawned::Serving => return Client::find(dir).await,
            Spawned::Locked(message) => message,
        };
        // Its holder is about to serve or about to end.
        match Client::find(dir).await {
            Err(error) if error.is_not_running() => {}
            found => return found,
        }
        if Instant::now() >= deadline {
            let reason = format!("{locked}, and serves no requests");
            return Err(ClientError::Start { reason });
        }
        watch.changed().await;
        match Client::find(dir).await {
            Err(error) if error.is_not_running() => {}
            found => return found,
        }
    }
}

async fn spawn(dir: &StateDir, command: &DaemonCommand, deadline: Instant) -> Result<Spawned, ClientError> {
    let log_path = dir.daemon_log();
    let log_failed = |source| ClientError::StartSystem { action: "opening", path: log_path.clone(), source };
    let log = daemon_log::open(&log_path, LogLimits::default(), 0).map_err(log_failed)?;
    let log_start = log.metadata().map_err(log_failed)?.len();
    let mut child = Command::new(&command.program)
        .args(&command.args)
        .env_clear()
        .envs(daemon_environment::kept())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        // It outlives us; if it ends earlier, the runtime reaps it.
        .kill_on_drop(false)
        .spawn()
        .map_err(|source| ClientError::StartSystem { action: "executing", path: command.program.clone(), source })?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        match timeout_at(deadline, BufReader::new(stdout).read_line(&mut line)).await {
            Ok(Ok(_)) => {}
            Ok(Err(source)) => {
                return Err(ClientError::StartSystem { action: "reading from", path: command.program.clone(), source });
            }
            Err(_) => {
                let reason = format!("it is not ready after {} s; see {}", START_LIMIT.as_secs(), log_path.display());
                return Err(ClientError::Start { reason });
            }
        }
    }
    match serde_json::from_str(&line) {
        Ok(Readiness::Serving { .. }) => Ok(Spawned::Serving),
        Ok(Readiness::Failed(error)) if error.code == ErrorCode::AlreadyRunning => {
            Ok(Spawned::Locked(error.one_line()))
        }
        Ok(Readiness::Failed(error)) => Err(ClientError::Start { reason: error.one_line() }),
        Err(_) => {
            let tail = last_lines(&log_path, log_start).unwrap_or_default();
            let reason = format!("it ended at once; the end of {} says:\n{tail}", log_path.display());
            Err(ClientError::Start { reason })
        }
    }
}

/// The last lines that were written after `from`.
fn last_lines(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    // Meanwhile it may have been put aside.
    let from = if len < from { 0 } else { from };
    // A line of a log is short; 4 KiB hold the last few.
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(4096)).min(len)))?;
    let mut bytes = Vec::new();
    file.take(4096).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().rev().take(LOG_LINES).collect();
    Ok(lines.into_iter().rev().map(|line| format!("  {line}")).collect::<Vec<_>>().join("\n"))
}

/// Tells when a file appears or goes in the state directory.
struct SocketWatch {
    inotify: Arc<Inotify>,
}

impl SocketWatch {
    fn new(dir: &StateDir) -> Result<Self, ClientError> {
        let failed = |errno: Errno| ClientError::StartSystem {
            action: "watching",
            path: dir.path().to_owned(),
            source: errno.into(),
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(failed)?;
        // The socket is renamed to its place.
        let events = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_DELETE;
        inotify.add_watch(dir.path(), events).map_err(failed)?;
        Ok(Self { inotify: Arc::new(inotify) })
    }

    /// Resolves when something changed since the last call, or after [`LOOK_AGAIN_MS`].
    async fn changed(&self) {
        let inotify = Arc::clone(&self.inotify);
        // A failure of any of this only means to look again at once.
        let _ = tokio::task::spawn_blocking(move || {
            let mut fds = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            let _ = poll(&mut fds, PollTimeout::from(LOOK_AGAIN_MS));
            let _ = inotify.read_events();
        })
        .await;
    }
}
