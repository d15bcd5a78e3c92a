//! The waiter: the parent of one sandbox's VMM and its companions, which outlives the orchestrator.
//!
//! ```text
//!   reading the specification ──pipe ends early──▶ gone, nothing left
//!     │ FIFOs, sockets and log made, all programs executed, `processes` written
//!     │ (any failure: everything started is killed, the reason reported)
//!     ▼
//!   waiting ──companion dies──▶ VMM killed (at once, or after EXIT_GRACE if the companion exited)
//!     │ VMM ended: `exit` durable, then reaped, then the `ended` FIFO closed
//!     ▼
//!   ended (companions: SIGTERM, SIGKILL after COMPANION_GRACE; FIFOs still held)
//!     │ "release" (from any state on: whatever lives is killed)
//!     ▼
//!   gone
//! ```
//!
//! One thread, blocked in `poll`. Built by `build.rs` as a static program of its own; in the
//! crate it is a module only for the linter's eyes.

// Both are shared with the orchestrator, which uses their other halves.
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../process_identity.rs"]
mod process_identity;
#[path = "program_sys.rs"]
mod sys;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use process_identity::ProcessIdentity;
use wire::{ExitRecord, ProcessSpec, ProcessesRecord, Report, Stage, StdioSpec, VMM_ROLE, WaiterSpec};

/// How long companions may take after SIGTERM.
const COMPANION_GRACE: Duration = Duration::from_secs(2);
/// A companion that exits by itself mostly does so because the VMM is shutting down and has closed
/// its connection; this long the VMM may take to end before it counts as abandoned.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// How soon a record that could not be written (disk error) is tried again.
const RECORD_RETRY: Duration = Duration::from_secs(1);
/// `O_NOFOLLOW` differs between the two architectures.
const O_NOFOLLOW: i32 = if cfg!(target_arch = "aarch64") { 0o10_0000 } else { 0o40_0000 };

struct Failure {
    stage: Stage,
    subject: String,
    source: io::Error,
}

fn failed(stage: Stage, subject: impl Into<String>) -> impl FnOnce(io::Error) -> Failure {
    let subject = subject.into();
    move |source| Failure { stage, subject, source }
}

fn main() {
    let report = |report: &Report| {
        // The orchestrator may be gone already; the next one adopts.
        let _ = io::stdout().write_all(report.to_line().as_bytes());
    };
    let mut waiter = match sys::detach().map_err(failed(Stage::Detach, "")).and_then(|()| start()) {
        Ok(Some(waiter)) => waiter,
        Ok(None) => return leave_nothing(),
        Err(Failure { stage, subject, source }) => {
            let errno = source.raw_os_error().unwrap_or(0);
            report(&Report::Failed { stage, errno, subject });
            std::process::exit(1);
        }
    };
    report(&Report::Ready);
    // The orchestrator sees the end of the report, and no pipe of its making is kept.
    if let Ok(null) = OpenOptions::new().read(true).write(true).open("/dev/null") {
        let _ = sys::replace_standard(0, &null).and_then(|()| sys::replace_standard(1, &null));
    }
    waiter.serve();
}

/// The orchestrator went away before it said what to do.
fn leave_nothing() {
    let Ok(dir) = std::env::current_dir() else { return };
    let _ = fs::remove_file(wire::LOCK_FILE);
    // Refused if the driver had prepared files in it; the next launch clears those.
    let _ = fs::remove_dir(dir);
}

fn start() -> Result<Option<Waiter>, Failure> {
    let Some(spec) = wire::read_spec(&mut io::stdin().lock()) else { return Ok(None) };
    let mut fifos = BTreeMap::new();
    for name in &spec.fifos {
        fifos.insert(name.clone(), hold_fifo(name)?);
    }
    let commands = hold_fifo(wire::COMMANDS_FIFO)?;
    let ended = hold_fifo(wire::ENDED_FIFO)?;
    let exit_draft = File::create(wire::EXIT_DRAFT_FILE).map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    exit_draft
        .write_all_at(&[b' '; wire::EXIT_RECORD_BYTES], 0)
        .map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    let (log, log_input) = match open_log(&spec)? {
        Some((log, input)) => (Some(log), Some(input)),
        None => (None, None),
    };
    let mut waiter = Waiter {
        processes: Vec::new(),
        fifos,
        commands,
        command_bytes: Vec::new(),
        ended: Some(ended),
        log,
        exit_draft,
        exit: None,
        lost: None,
        alarm: None,
    };
    match waiter.start_all(&spec, log_input.as_ref()) {
        Ok(()) => Ok(Some(waiter)),
        Err(failure) => {
            waiter.kill_all();
            Err(failure)
        }
    }
}

fn hold_fifo(name: &str) -> Result<File, Failure> {
    // A stale one of a start that failed may be there.
    let _ = fs::remove_file(name);
    sys::make_fifo(name).map_err(failed(Stage::Fifo, name))?;
    // For reading and writing: never blocks, and the pipe's content stays as long as we do.
    OpenOptions::new().read(true).write(true).open(name).map_err(failed(Stage::Fifo, name))
}

fn open_log(spec: &WaiterSpec) -> Result<Option<(LogCopy, PipeWriter)>, Failure> {
    let subject = spec.vmm_log.to_string_lossy();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(O_NOFOLLOW);
    let file = options.open(&spec.vmm_log).map_err(failed(Stage::Log, subject.clone()))?;
    if !spec.processes.iter().any(|process| [&process.stdout, &process.stderr].contains(&&StdioSpec::VmmLog)) {
        return Ok(None);
    }
    let (pipe, input) = io::pipe().map_err(failed(Stage::Log, subject))?;
    Ok(Some((LogCopy { pipe, file, left: spec.vmm_log_limit }, input)))
}

/// Copies what the processes print into the VMM log, up to its limit: a hostile guest's console
/// cannot fill the disk.
struct LogCopy {
    pipe: PipeReader,
    file: File,
    left: u64,
}

impl LogCopy {
    /// One read; false when all writers are gone.
    fn copy(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = match self.pipe.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return error.kind() == io::ErrorKind::Interrupted,
        };
        if self.left > 0 {
            let kept = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= kept as u64;
            // With a full disk the words are lost; the VMM must not wait for them.
            let _ = self.file.write_all(&buffer[..kept]);
            if self.left == 0 {
                let _ = self.file.write_all("\n… truncated\n".as_bytes());
            }
        }
        true
    }

    /// Takes what is in the pipe now: the last words of a process that has ended.
    fn drain(&mut self) {
        // A pipe holds 64 KiB; more than this comes from others that still write.
        for _ in 0..64 {
            if !sys::wait_readable(&[self.pipe.as_fd()], Some(0))[0] || !self.copy() {
                break;
            }
        }
    }
}

/// A started process.
struct Running {
    role: String,
    child: Child,
    pidfd: OwnedFd,
    /// Whether its end was seen.
    ended: bool,
}

#[derive(Clone, Copy)]
enum Task {
    KillVmm,
    KillCompanions,
    WriteExit,
}

struct Waiter {
    processes: Vec<Running>,
    fifos: BTreeMap<String, File>,
    commands: File,
    /// Bytes of a command whose end was not read yet.
    command_bytes: Vec<u8>,
    /// Closed when the exit record is durable.
    ended: Option<File>,
    log: Option<LogCopy>,
    exit_draft: File,
    /// The VMM's end, while its record could not be written.
    exit: Option<ExitRecord>,
    /// The companion that died before the VMM.
    lost: Option<String>,
    /// What is to be done later, and when.
    alarm: Option<(Instant, Task)>,
}

impl Waiter {
    fn start_all(&mut self, spec: &WaiterSpec, log_input: Option<&PipeWriter>) -> Result<(), Failure> {
        // All sockets first: who connects may be started before who answers.
        let mut listeners = BTreeMap::new();
        for process in &spec.processes {
            for stdio in [&process.stdin, &process.stdout, &process.stderr] {
                if let StdioSpec::Listener(name) = stdio {
                    let _ = fs::remove_file(name);
                    listeners.insert(name, UnixListener::bind(name).map_err(failed(Stage::Listener, name))?);
                }
            }
        }
        let stdio = |stdio: &StdioSpec, output: bool| -> io::Result<Stdio> {
            Ok(match stdio {
                StdioSpec::Null => Stdio::null(),
                StdioSpec::VmmLog => log_input
                    .map_or_else(|| Ok(Stdio::null()), |input| Ok::<_, io::Error>(input.try_clone()?.into()))?,
                StdioSpec::Fifo(name) => OpenOptions::new().read(true).write(output).open(name)?.into(),
                StdioSpec::Listener(name) => match listeners.get(name) {
                    Some(listener) => OwnedFd::from(listener.try_clone()?).into(),
                    None => Stdio::null(),
                },
                StdioSpec::Data(bytes) => sys::memory_file(bytes)?.into(),
            })
        };
        let boot_id = process_identity::boot_id().map_err(failed(Stage::Record, "boot id"))?;
        let mut identities = vec![identify(wire::WAITER_ROLE, std::process::id())?];
        for process in &spec.processes {
            let failed_program = |source| Failure { stage: Stage::Program, subject: process.role.clone(), source };
            let mut command = command(process);
            command.stdin(stdio(&process.stdin, false).map_err(failed_program)?);
            command.stdout(stdio(&process.stdout, true).map_err(failed_program)?);
            command.stderr(stdio(&process.stderr, true).map_err(failed_program)?);
            let mut child = command.spawn().map_err(failed_program)?;
            let pidfd = match sys::open_pidfd(child.id()) {
                Ok(pidfd) => pidfd,
                Err(error) => {
                    sys::signal_group(child.id(), sys::SIGKILL);
                    let _ = child.wait();
                    return Err(failed_program(error));
                }
            };
            let pid = child.id();
            self.processes.push(Running { role: process.role.clone(), child, pidfd, ended: false });
            identities.push(identify(&process.role, pid)?);
        }
        let record = ProcessesRecord { boot_id, processes: identities };
        write_processes(&record.to_text()).map_err(failed(Stage::Record, wire::PROCESSES_FILE))
    }

    fn serve(&mut self) {
        loop {
            let alarm_ms = self.alarm.map(|(at, _)| {
                // Rounded up: an early wake-up would spin.
                u32::try_from(at.saturating_duration_since(Instant::now()).as_millis() + 1).unwrap_or(u32::MAX)
            });
            let watched: Vec<usize> = (0..self.processes.len()).filter(|&i| !self.processes[i].ended).collect();
            let mut fds = vec![self.commands.as_fd()];
            fds.extend(watched.iter().map(|&i| self.processes[i].pidfd.as_fd()));
            fds.extend(self.log.iter().map(|log| log.pipe.as_fd()));
            let ready = sys::wait_readable(&fds, alarm_ms);
            if ready[0] && self.obey() {
                return self.kill_all();
            }
            if self.log.is_some() && ready[ready.len() - 1] && !self.log.as_mut().is_some_and(LogCopy::copy) {
                self.log = None;
            }
            // The VMM first: a companion that ended at the same time was not lost.
            let mut ended: Vec<usize> =
                watched.iter().zip(&ready[1..]).filter(|(_, ready)| **ready).map(|(&i, _)| i).collect();
            ended.sort_by_key(|&i| self.processes[i].role != VMM_ROLE);
            for i in ended {
                self.process_ended(i);
            }
            if let Some((at, task)) = self.alarm
                && at <= Instant::now()
            {
                self.alarm = None;
                match task {
                    Task::KillVmm => self.kill(|role| role == VMM_ROLE),
                    Task::KillCompanions => self.kill(|role| role != VMM_ROLE),
                    Task::WriteExit => self.write_exit(),
                }
            }
        }
    }

    fn process_ended(&mut self, i: usize) {
        self.processes[i].ended = true;
        let pid = self.processes[i].child.id();
        let end = sys::peek_end(pid);
        // Its descendants end with it, as everything in a machine does.
        sys::signal_group(pid, sys::SIGKILL);
        if self.processes[i].role == VMM_ROLE {
            if let Some(log) = &mut self.log {
                log.drain();
            }
            let (signalled, number) = match end {
                Ok(sys::Ended::Code(code)) => (false, code),
                Ok(sys::Ended::Signal(signal)) => (true, signal),
                // Nobody else reaps our children; say what cannot be taken for success.
                Err(_) => (true, 0),
            };
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let at_micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
            // A companion that merely exited first, and the VMM after it by itself, is a shutdown.
            let killed = self.alarm.is_none();
            let lost = if killed { self.lost.take() } else { None };
            self.exit = Some(ExitRecord { signalled, number, at_micros, lost });
            self.write_exit();
        } else {
            let vmm_lives = self.processes.iter().any(|process| process.role == VMM_ROLE && !process.ended);
            if vmm_lives && self.lost.is_none() {
                self.lost = Some(self.processes[i].role.clone());
                match end {
                    Ok(sys::Ended::Code(_)) => self.alarm = Some((Instant::now() + EXIT_GRACE, Task::KillVmm)),
                    _ => self.kill(|role| role == VMM_ROLE),
                }
            }
            let _ = self.processes[i].child.wait();
        }
    }

    /// Status durable → reaped → `ended` closed, in this order: who sees the process gone or the
    /// FIFO closed finds the status.
    fn write_exit(&mut self) {
        let Some(record) = &self.exit else { return };
        if let Err(error) = write_exit(&self.exit_draft, &record.to_text()) {
            let _ = writeln!(io::stderr(), "cannot record the VMM's end, trying again: {error}");
            self.alarm = Some((Instant::now() + RECORD_RETRY, Task::WriteExit));
            return;
        }
        self.exit = None;
        for process in &mut self.processes {
            if process.role == VMM_ROLE {
                let _ = process.child.wait();
            } else if !process.ended {
                sys::signal_group(process.child.id(), sys::SIGTERM);
            }
        }
        self.ended = None;
        self.alarm = Some((Instant::now() + COMPANION_GRACE, Task::KillCompanions));
    }

    fn kill(&mut self, chosen: impl Fn(&str) -> bool) {
        for process in &mut self.processes {
            if !process.ended && chosen(&process.role) {
                sys::signal_group(process.child.id(), sys::SIGKILL);
            }
        }
    }

    fn kill_all(&mut self) {
        self.kill(|_| true);
        for process in &mut self.processes {
            let _ = process.child.wait();
        }
    }

    /// Reads commands; true for "release".
    fn obey(&mut self) -> bool {
        let mut buffer = [0; 1024];
        let Ok(count) = self.commands.read(&mut buffer) else { return false };
        self.command_bytes.extend_from_slice(&buffer[..count]);
        while let Some(end) = self.command_bytes.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.command_bytes.drain(..=end).collect();
            match std::str::from_utf8(&line).map(str::trim_end) {
                Ok("release") => return true,
                Ok(line) => {
                    if let Some(name) = line.strip_prefix("close ") {
                        self.fifos.remove(name);
                    }
                }
                Err(_) => {}
            }
        }
        if self.command_bytes.len() > 4096 {
            self.command_bytes.clear();
        }
        false
    }
}

fn command(process: &ProcessSpec) -> Command {
    let mut command = Command::new(&process.program);
    if process.clear_env {
        command.env_clear();
    }
    // A group of its own, so that its descendants can be ended with it.
    command.process_group(0).args(&process.args).envs(process.env.iter().map(|(name, value)| (name, value)));
    command
}

fn identify(role: &str, pid: u32) -> Result<(String, u32, u64), Failure> {
    let identity = ProcessIdentity::of(pid).map_err(failed(Stage::Record, format!("/proc/{pid}/stat")))?;
    Ok((role.to_owned(), pid, identity.start_time))
}

fn write_processes(text: &str) -> io::Result<()> {
    let draft = "processes.draft";
    let mut file = File::create(draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(draft, wire::PROCESSES_FILE)
}

fn write_exit(draft: &File, text: &str) -> io::Result<()> {
    draft.write_all_at(text.as_bytes(), 0)?;
    draft.sync_all()?;
    match fs::rename(wire::EXIT_DRAFT_FILE, wire::EXIT_FILE) {
        // A second try after only the directory's sync failed.
        Err(error) if error.kind() == io::ErrorKind::NotFound && fs::exists(wire::EXIT_FILE)? => {}
        renamed => renamed?,
    }
    File::open(".")?.sync_all()
}
