//! A driver whose "microVM" is a host process, for tests: no isolation at all.
//!
//! Everything else is as with a real VMM: a waiter holds the FIFOs and records the exit, an
//! orchestrator that died is followed by one that adopts. There is no guest, so the process's end is
//! the workload's; the "VMM" counts as gone when that was acknowledged.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_types::error_chain::error_chain;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::spec::{ByteString, Network, Rootfs, TerminalSize};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::driver::{
    Capabilities, Driver, DriverError, GuestSession, Launch, ProbeOutcome, ProbeStatus, Vmm, VmmEvent, VmmProcess,
};
use sandpen_vmm::sessions::{GuestSessions, SessionError};
use sandpen_vmm::waiter::{
    ProcessSpec, StdioSpec, WaitedVmm, WaiterError, WaiterSpec, open_fifo_read, open_fifo_write,
};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe::Sender;
use tokio::sync::{Mutex, Notify, mpsc};

use super::fake_sessions::FakeSessions;

/// The driver's name.
pub const NAME: &str = "process";

const OUTPUTS: [(OutputStream, &str); 2] = [(OutputStream::Stdout, "stdout.out"), (OutputStream::Stderr, "stderr.out")];
const STDIN: &str = "stdin.in";
/// The VMM log of a process holds only what the waiter says.
const VMM_LOG_LIMIT: u64 = 64 << 10;

/// Bytes of a command's output that are kept, as in a guest.
const PROBE_OUTPUT_BYTES: usize = 512;

/// Runs the command of a specification on the host, in its root directory.
#[derive(Debug, Clone)]
pub struct ProcessDriver {
    bin_dir: PathBuf,
}

impl ProcessDriver {
    /// A driver that installs the waiter in `bin_dir`.
    pub fn new(bin_dir: PathBuf) -> Self {
        Self { bin_dir }
    }
}

fn launch_error(step: &str, source: impl std::error::Error + Send + Sync + 'static) -> DriverError {
    DriverError::Launch { step: step.to_owned(), source: Box::new(source) }
}

fn waiter_spec(launch: &Launch) -> WaiterSpec {
    let spec = &launch.spec;
    let root = match &spec.rootfs {
        Rootfs::Native(path) => path.clone(),
        Rootfs::Overlayfs(paths) => paths.first().cloned().unwrap_or_default(),
        Rootfs::Image(_) => "/".into(),
    };
    // The waiter's working directory is the runtime directory; `env -C` is the way to another one.
    let directory = spec.workdir.as_ref().map_or(root, |dir| PathBuf::from(dir.as_os_str()));
    let mut args = vec!["-C".into(), directory.into_os_string()];
    let idle: [ByteString; 2] = ["sleep".into(), "infinity".into()];
    let command = if spec.idle { &idle[..] } else { &spec.command };
    args.extend(command.iter().map(|part| part.as_os_str().to_owned()));
    let mut env = vec![("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into())];
    env.extend(spec.env.iter().map(|(name, value)| (name.as_os_str().to_owned(), value.as_os_str().to_owned())));
    let stdin = if spec.stdin { StdioSpec::Fifo(STDIN.into()) } else { StdioSpec::Null };
    WaiterSpec {
        tags: vec![launch.tag()],
        fifos: OUTPUTS.iter().map(|(_, name)| *name).chain(spec.stdin.then_some(STDIN)).map(str::to_owned).collect(),
        processes: vec![ProcessSpec {
            role: "vmm".into(),
            program: "/usr/bin/env".into(),
            args,
            env,
            clear_env: true,
            stdin,
            stdout: StdioSpec::Fifo(OUTPUTS[0].1.into()),
            stderr: StdioSpec::Fifo(OUTPUTS[1].1.into()),
            descriptors: Vec::new(),
        }],
        namespaces: None,
        vmm_log: launch.vmm_log.clone(),
        vmm_log_limit: VMM_LOG_LIMIT,
        leases: Vec::new(),
    }
}

/// What launch and adoption have in common: pipes opened, events told.
fn hand_over(waited: WaitedVmm, runtime_dir: &Path, stdin: bool) -> Result<Vmm, DriverError> {
    let open = |step: &'static str| move |error: std::io::Error| launch_error(step, error);
    let mut outputs = Vec::new();
    for (stream, name) in OUTPUTS {
        outputs.push((stream, open_fifo_read(&runtime_dir.join(name)).map_err(open("opening an output"))?));
    }
    let stdin = match stdin {
        // Nobody reads any more when the process has ended.
        true => open_fifo_write(&runtime_dir.join(STDIN)).ok().and_then(|fifo| Sender::from_owned_fd(fifo).ok()),
        false => None,
    };
    let acknowledged = Arc::new(Notify::new());
    let process = ProcessHandle {
        waited: waited.clone(),
        acknowledged: acknowledged.clone(),
        stdin: Arc::new(Mutex::new(stdin)),
        sessions: FakeSessions::default(),
    };
    let sessions = process.sessions.clone();
    let (sender, events) = mpsc::channel(4);
    // Its end closes the channel, which the monitor sees; it ends when the monitor is gone.
    drop(tokio::task::spawn_local(async move {
        let tell = async {
            let _ = sender.send(VmmEvent::WorkloadStarted).await;
            let exit = waited.ended().await.status;
            sessions.close();
            // A command that cannot be executed ends with `env`'s 126 or 127, which are the shells'.
            let event = VmmEvent::WorkloadExited { exit, stdout_bytes: None, stderr_bytes: None };
            let _ = sender.send(event).await;
            acknowledged.notified().await;
            let _ = sender.send(VmmEvent::VmmExited(ExitStatus::Code(0))).await;
        };
        tokio::select! {
            () = tell => {}
            () = sender.closed() => {}
        }
    }));
    let process = Arc::new(process);
    Ok(Vmm { process: process.clone(), guest: process, outputs, events })
}

/// A command on the host, without the workload's environment; killed when nobody waits for it any more.
async fn run_probe(command: Vec<ByteString>, limit: Duration) -> Result<ProbeOutcome, DriverError> {
    let mut parts = command.iter().map(ByteString::as_os_str);
    let program = parts.next().ok_or_else(|| DriverError::Unreachable("the command is empty".to_owned()))?;
    let mut child = tokio::process::Command::new(program);
    child.args(parts).env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").kill_on_drop(true);
    child.stdin(std::process::Stdio::null());
    let (end, output) = match tokio::time::timeout(limit, child.output()).await {
        Ok(Ok(output)) => {
            let status = output.status;
            let exit = status.code().map(ExitStatus::Code).or_else(|| status.signal().map(ExitStatus::Signal));
            (ProbeStatus::Ended(exit.unwrap_or(ExitStatus::Unknown)), [output.stdout, output.stderr].concat())
        }
        Ok(Err(error)) => (ProbeStatus::NotStarted, error.to_string().into_bytes()),
        Err(_) => (ProbeStatus::TimedOut, Vec::new()),
    };
    let end_of_output = &output[output.len().saturating_sub(PROBE_OUTPUT_BYTES)..];
    let text = String::from_utf8_lossy(end_of_output);
    Ok(ProbeOutcome { end, output: text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect() })
}

impl Driver for ProcessDriver {
    fn name(&self) -> &'static str {
        NAME
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            // It has the host's, whatever is asked for.
            networks: &[Network::None, Network::On, Network::Tsi, Network::User, Network::Published],
            terminals: false,
            kernels: false,
            // The news of its end, two outputs.
            open_files: 3,
            open_files_of_stdin: 1,
        }
    }

    fn launch(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let bin_dir = self.bin_dir.clone();
        async move {
            if launch.spec.terminal.is_some() {
                return Err(DriverError::NoTerminals);
            }
            let waited = WaitedVmm::launch(&launch.runtime_dir, &bin_dir, waiter_spec(&launch), &launch.timings).await;
            let waited = waited.map_err(|error| launch_error("starting a process", error))?;
            hand_over(waited, &launch.runtime_dir, launch.spec.stdin)
        }
        .boxed()
    }

    fn kill(&self, launch: &Launch) {
        if let Err(error) = WaitedVmm::kill(&launch.runtime_dir) {
            tracing::warn!(error = error_chain(&error), "a process that cannot be adopted is not killed");
        }
    }

    fn adopt(&self, launch: Launch) -> BoxFuture<'static, Result<Vmm, DriverError>> {
        let bin_dir = self.bin_dir.clone();
        async move {
            match WaitedVmm::adopt(&launch.runtime_dir, &bin_dir).await {
                Ok(waited) => hand_over(waited, &launch.runtime_dir, launch.spec.stdin),
                Err(WaiterError::Gone) => Err(DriverError::Gone),
                Err(error) => Err(launch_error("finding a process again", error)),
            }
        }
        .boxed()
    }
}

/// Both halves: there is no guest.
struct ProcessHandle {
    waited: WaitedVmm,
    acknowledged: Arc<Notify>,
    stdin: Arc<Mutex<Option<Sender>>>,
    /// They live and end with this very orchestrator.
    sessions: FakeSessions,
}

impl VmmProcess for ProcessHandle {
    fn pid(&self) -> Option<u32> {
        Some(self.waited.pid())
    }

    fn signal_vmm(&self, signal: i32) -> Result<(), DriverError> {
        self.waited.signal(signal).map_err(|source| DriverError::Signal { signal, source })
    }

    fn release(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let waited = self.waited.clone();
        async move { waited.release().await.map_err(|error| launch_error("ending the waiter", error)) }.boxed()
    }
}

impl GuestSession for ProcessHandle {
    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        let sent = self.signal_vmm(signal);
        async move { sent }.boxed()
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        self.acknowledged.notify_one();
        async { Ok(()) }.boxed()
    }

    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        let stdin = self.stdin.clone();
        async move {
            match stdin.lock().await.as_mut() {
                Some(stdin) => {
                    stdin.write_all(&bytes).await.map_err(|error| DriverError::Unreachable(error.to_string()))
                }
                None => Err(DriverError::Unreachable("its standard input is closed".to_owned())),
            }
        }
        .boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let (stdin, waited) = (self.stdin.clone(), self.waited.clone());
        async move {
            stdin.lock().await.take();
            waited.close_fifo(STDIN).await.map_err(|error| DriverError::Unreachable(error.to_string()))
        }
        .boxed()
    }

    fn resize(&self, _: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>> {
        async { Err(DriverError::NoTerminals) }.boxed()
    }

    fn probe(
        &self,
        command: Vec<ByteString>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<ProbeOutcome, DriverError>> {
        run_probe(command, limit).boxed()
    }

    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        Ok(Arc::new(self.sessions.clone()))
    }
}
