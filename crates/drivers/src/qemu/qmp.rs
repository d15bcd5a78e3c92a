//! QEMU's monitor (QMP, `docs/interop/qmp-spec.txt` of QEMU): the few commands that save a machine and
//! restore one. JSON lines: on a FIFO pair that the waiter holds, and on a socket where QEMU is given a descriptor, to
//! which it saves.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::Path;
use std::time::Duration;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use sandpen_vmm::waiter::{FIRST_DESCRIPTOR, open_fifo_read, open_fifo_write};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::time::timeout;

use super::args::QMP;
use super::prepare::qmp_fifos;

/// The descriptor of a template's memory in QEMU; such a machine shares no directories, whose sockets would come first.
pub(super) const MEMORY_FD: i32 = FIRST_DESCRIPTOR;
/// Of the devices' state, where it is restored.
const STATE_FD: i32 = FIRST_DESCRIPTOR + 1;
/// Of the socket on which the monitor listens, where it is saved.
pub(super) const LISTENER_FD: i32 = FIRST_DESCRIPTOR + 1;
/// Most bytes of one line of the monitor's; real ones have some hundred.
const LINE_MAX: usize = 64 << 10;

/// How long QEMU may take to make room in its FIFO, which has place for all that is ever said to it.
const SAY_LIMIT: Duration = Duration::from_millis(if cfg!(test) { 200 } else { 2000 });

/// Why the monitor is of no use.
#[derive(Debug, thiserror::Error)]
pub(super) enum QmpError {
    /// Its FIFOs or its socket.
    #[error("{action} QEMU's monitor")]
    Pipe {
        /// What was tried.
        action: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// It says no.
    #[error("QEMU's monitor refuses a command: {0}")]
    Refused(String),
    /// It says something else.
    #[error("QEMU's monitor says what it must not")]
    Garbage,
}

fn failed(action: &'static str) -> impl FnOnce(io::Error) -> QmpError {
    move |source| QmpError::Pipe { action, source }
}

/// Memory that is in a file stays there, and progress is told.
fn capabilities() -> Value {
    let on = |capability: &str| json!({"capability": capability, "state": true});
    json!({"execute": "migrate-set-capabilities", "arguments": {"capabilities": [on("x-ignore-shared"), on("events")]}})
}

/// All that makes a QEMU which waits for a machine's state take it and go on.
fn restore_commands() -> String {
    let incoming = json!({"execute": "migrate-incoming", "arguments": {"uri": format!("fd:{STATE_FD}")}});
    let lines = [json!({"execute": "qmp_capabilities"}), capabilities(), incoming];
    lines.map(|line| format!("{line}\n")).concat()
}

/// The name by which QEMU has the descriptor that it saves to.
const STATE_NAME: &str = "state";

/// The socket at which QEMU's monitor listens, in the runtime directory.
pub(super) fn socket() -> String {
    format!("{QMP}.sock")
}

/// A conversation with one QEMU.
pub(super) struct Qmp {
    commands: Box<dyn AsyncWrite + Send + Unpin>,
    answers: Box<dyn AsyncRead + Send + Unpin>,
    buffer: Vec<u8>,
}

impl Qmp {
    /// Opens the FIFOs.
    pub(super) fn open(runtime_dir: &Path) -> Result<Self, QmpError> {
        let [commands, answers] = qmp_fifos();
        let commands = open_fifo_write(&runtime_dir.join(commands)).and_then(pipe::Sender::from_owned_fd);
        let answers = open_fifo_read(&runtime_dir.join(answers)).and_then(pipe::Receiver::from_owned_fd);
        let (commands, answers) = (commands.map_err(failed("opening"))?, answers.map_err(failed("opening"))?);
        Ok(Self { commands: Box::new(commands), answers: Box::new(answers), buffer: Vec::new() })
    }

    /// Connects to the [`socket`], and gives QEMU the file that it is to save to.
    pub(super) fn connect(runtime_dir: &Path, state: &File) -> Result<Self, QmpError> {
        let connected = || {
            // The directory's path may be longer than an address.
            let directory: OwnedFd = File::open(runtime_dir)?.into();
            let path = format!("/proc/self/fd/{}/{}", directory.as_raw_fd(), socket());
            let stream = StdUnixStream::connect(path)?;
            stream.set_nonblocking(true)?;
            let name = json!({"execute": "getfd", "arguments": {"fdname": STATE_NAME}});
            let said = format!("{}\n{}\n{name}\n", json!({"execute": "qmp_capabilities"}), capabilities());
            let state = [state.as_raw_fd()];
            // Some hundred bytes into an empty buffer: taken at once and whole.
            let with = [ControlMessage::ScmRights(&state)];
            let sent =
                sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(said.as_bytes())], &with, MsgFlags::empty(), None)?;
            if sent != said.len() {
                return Err(io::ErrorKind::WriteZero.into());
            }
            UnixStream::from_std(stream)
        };
        let (answers, commands) = connected().map_err(failed("connecting to"))?.into_split();
        Ok(Self { commands: Box::new(commands), answers: Box::new(answers), buffer: Vec::new() })
    }

    /// Says what restores the machine, and resolves when it runs.
    pub(super) async fn restore(&mut self) -> Result<(), QmpError> {
        self.say(&restore_commands()).await?;
        self.until(|line| line["event"] == "RESUME").await
    }

    /// Saves the machine's devices to the file that was given to [`Qmp::connect`], its memory being in another one;
    /// resolves when all is written. The machine stands still from then on.
    pub(super) async fn save(&mut self) -> Result<(), QmpError> {
        let migrate = json!({"execute": "migrate", "arguments": {"uri": format!("fd:{STATE_NAME}")}});
        self.say(&format!("{migrate}\n")).await?;
        self.until(|line| line["event"] == "MIGRATION" && line["data"]["status"] == "completed").await
    }

    /// Ends QEMU.
    pub(super) async fn quit(&mut self) -> Result<(), QmpError> {
        self.say(&format!("{}\n", json!({"execute": "quit"}))).await
    }

    async fn say(&mut self, text: &str) -> Result<(), QmpError> {
        let said = timeout(SAY_LIMIT, self.commands.write_all(text.as_bytes())).await;
        said.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(failed("writing to"))
    }

    /// Reads until a line is the one that is waited for.
    async fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<(), QmpError> {
        loop {
            let line = self.line().await?;
            if line["error"].is_object() {
                return Err(QmpError::Refused(line["error"]["desc"].as_str().unwrap_or_default().to_owned()));
            }
            if line["event"] == "MIGRATION" && line["data"]["status"] == "failed" {
                return Err(QmpError::Refused("the migration failed".to_owned()));
            }
            if is_it(&line) {
                return Ok(());
            }
        }
    }

    async fn line(&mut self) -> Result<Value, QmpError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map_err(|_| QmpError::Garbage);
            }
            if self.buffer.len() > LINE_MAX {
                return Err(QmpError::Garbage);
            }
            if self.answers.read_buf(&mut self.buffer).await.map_err(failed("reading from"))? == 0 {
                return Err(failed("reading from")(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

/// Says to the QEMU of a dead daemon once more what restores its machine, in case that one did not. One
/// that has heard it refuses, and nothing changes; one that does not read is left alone soon.
pub(super) async fn restore_again(runtime_dir: &Path) {
    let Ok(mut qmp) = Qmp::open(runtime_dir) else { return };
    if let Err(error) = qmp.say(&restore_commands()).await {
        tracing::debug!(%error, "QEMU's monitor of an adopted microVM");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use super::*;

    /// A QEMU that is stopped, or hostile: it has its FIFOs open and reads nothing.
    #[tokio::test]
    async fn nobody_waits_for_a_qemu_that_does_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let mut held = Vec::new();
        for name in qmp_fifos() {
            let path = dir.path().join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let mut both = std::fs::File::options();
            both.read(true).write(true).custom_flags(nix::libc::O_NONBLOCK);
            let mut fifo = both.open(&path).unwrap();
            while std::io::Write::write(&mut fifo, &[b' '; 4096]).is_ok() {}
            held.push(fifo);
        }
        let begun = tokio::time::Instant::now();
        timeout(SAY_LIMIT * 100, restore_again(dir.path())).await.expect("it waits for QEMU");
        assert!(begun.elapsed() >= SAY_LIMIT, "it was not full");
        let mut qmp = Qmp::open(dir.path()).unwrap();
        let quit = timeout(SAY_LIMIT * 100, qmp.quit()).await.expect("it waits for QEMU");
        assert!(matches!(quit, Err(QmpError::Pipe { action: "writing to", .. })), "{quit:?}");
    }
}
