//! The waiter: the parent of one sandbox's VMM and its companions, which outlives the orchestrator.
//!
//! ```text
//!   reading the specification ──pipe ends early──▶ gone, nothing left
//!     │ FIFOs, sockets and log made, all programs executed, `processes` written
//!     │ (any failure: everything started is killed, the reason reported)
//!     ▼
//!   waiting ◀── taking up what a killed waiter has left: FIFOs opened, `processes` written
//!     │     ──companion dies──▶ VMM killed (at once, or after EXIT_GRACE if the companion exited)
//!     │ VMM ended: `exit` written, then reaped, then the `ended` FIFO closed
//!     ▼
//!   ended (companions: SIGTERM, SIGKILL after COMPANION_GRACE; FIFOs still held;
//!     │    not released within SYNC_DELAY: `exit` written out to the disk)
//!     │ "release" (from any state on: whatever lives is killed)
//!     ▼
//!   gone
//! ```
//!
//! One thread, blocked in `poll`. Built by `build.rs` as a static program of its own; in the
//! crate it is a module only for the linter's eyes.

// Both are shared with the orchestrator, which uses their other halves.
#[path = "program_log.rs"]
mod log;
#[path = "program_process.rs"]
mod process;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "../process_identity.rs"]
mod process_identity;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "records.rs"]
mod records;
#[path = "program_sys.rs"]
mod sys;
#[allow(dead_code, clippy::duplicate_mod)]
#[path = "wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use log::LogCopy;
use process::Process;
use process_identity::ProcessIdentity;
use records::{EXIT_RECORD_BYTES, ExitRecord, ProcessesRecord, RecordedEnd};
use wire::{Report, Stage, StdioSpec, VMM_ROLE, WaiterSpec};

/// How long companions may take after SIGTERM.
const COMPANION_GRACE: Duration = Duration::from_secs(2);
/// A companion that exits by itself mostly does so because the VMM is shutting down and has closed
/// its connection; this long the VMM may take to end before it counts as abandoned.
const EXIT_GRACE: Duration = Duration::from_secs(5);
/// How soon a record that could not be written (disk error) is tried again.
const RECORD_RETRY: Duration = Duration::from_secs(1);

/// An orchestrator that lives has the end in its database and releases the waiter long before this. Where there is
/// none, the disk is to hold the record, for an orchestrator after a power failure.
const SYNC_DELAY: Duration = Duration::from_millis(200);

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
    if fs::exists(wire::PROCESSES_FILE).unwrap_or(true) {
        // Another waiter's processes: they are the next one's.
        return;
    }
    let Ok(dir) = std::env::current_dir() else { return };
    let _ = fs::remove_file(wire::LOCK_FILE);
    // Refused if the driver had prepared files in it; the next launch clears those.
    let _ = fs::remove_dir(dir);
}

fn start() -> Result<Option<Waiter>, Failure> {
    let Some(spec) = wire::read_spec(&mut io::stdin().lock()) else { return Ok(None) };
    // A specification without processes is about those that are there.
    let take_up = spec.processes.is_empty();
    let hold = |name: &str| {
        let file = if take_up { open_fifo(name) } else { make_fifo(name) };
        file.map_err(failed(Stage::Fifo, name))
    };
    let mut fifos = BTreeMap::new();
    for name in &spec.fifos {
        fifos.insert(name.clone(), hold(name)?);
    }
    let commands = hold(wire::COMMANDS_FIFO)?;
    let ended = hold(wire::ENDED_FIFO)?;
    let exit_draft = File::create(wire::EXIT_DRAFT_FILE).map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    exit_draft.write_all_at(&[b' '; EXIT_RECORD_BYTES], 0).map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    let log = LogCopy::open(hold(wire::LOG_FIFO)?, &spec.vmm_log, spec.vmm_log_limit, take_up);
    let mut waiter = Waiter {
        processes: Vec::new(),
        fifos,
        commands,
        command_bytes: Vec::new(),
        ended: Some(ended),
        log: Some(log.map_err(failed(Stage::Log, spec.vmm_log.to_string_lossy()))?),
        exit_draft,
        exit: None,
        lost: None,
        alarm: None,
        sync_due: None,
    };
    if take_up {
        return waiter.take_up().map(|()| Some(waiter));
    }
    match waiter.start_all(&spec) {
        Ok(()) => Ok(Some(waiter)),
        Err(failure) => {
            waiter.kill_all();
            Err(failure)
        }
    }
}

fn make_fifo(name: &str) -> io::Result<File> {
    // A stale one of a start that failed may be there.
    let _ = fs::remove_file(name);
    sys::make_fifo(name)?;
    open_fifo(name)
}

/// For reading and writing: never blocks, and the pipe's content stays as long as we do.
fn open_fifo(name: &str) -> io::Result<File> {
    let fifo = OpenOptions::new().read(true).write(true).open(name)?;
    if fifo.metadata()?.file_type().is_fifo() { Ok(fifo) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

#[derive(Clone, Copy)]
enum Task {
    KillVmm,
    KillCompanions,
    WriteExit,
}

struct Waiter {
    processes: Vec<Process>,
    fifos: BTreeMap<String, File>,
    commands: File,
    /// Bytes of a command whose end was not read yet.
    command_bytes: Vec<u8>,
    /// Closed when the exit record is written.
    ended: Option<File>,
    log: Option<LogCopy>,
    exit_draft: File,
    /// The VMM's end, while its record could not be written.
    exit: Option<ExitRecord>,
    /// The companion that died before the VMM.
    lost: Option<String>,
    /// What is to be done later, and when.
    alarm: Option<(Instant, Task)>,
    /// When the exit record is to be written out to the disk.
    sync_due: Option<Instant>,
}

impl Waiter {
    fn start_all(&mut self, spec: &WaiterSpec) -> Result<(), Failure> {
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
                StdioSpec::VmmLog => open_fifo(wire::LOG_FIFO)?.into(),
                StdioSpec::Fifo(name) => OpenOptions::new().read(true).write(output).open(name)?.into(),
                StdioSpec::Listener(name) => match listeners.get(name) {
                    Some(listener) => OwnedFd::from(listener.try_clone()?).into(),
                    None => Stdio::null(),
                },
                StdioSpec::Data(bytes) => sys::memory_file(bytes)?.into(),
            })
        };
        for process in &spec.processes {
            let failed_program = |source| Failure { stage: Stage::Program, subject: process.role.clone(), source };
            let mut command = process::command(process);
            command.stdin(stdio(&process.stdin, false).map_err(failed_program)?);
            command.stdout(stdio(&process.stdout, true).map_err(failed_program)?);
            command.stderr(stdio(&process.stderr, true).map_err(failed_program)?);
            self.processes.push(Process::start(&process.role, &mut command).map_err(failed_program)?);
        }
        self.record_processes(Vec::new())
    }

    /// Takes up what a killed waiter has left. What is gone is found to have ended.
    fn take_up(&mut self) -> Result<(), Failure> {
        let text = fs::read_to_string(wire::PROCESSES_FILE).map_err(failed(Stage::Record, wire::PROCESSES_FILE))?;
        let damaged = || failed(Stage::Record, wire::PROCESSES_FILE)(io::ErrorKind::InvalidData.into());
        let record = ProcessesRecord::from_text(&text).ok_or_else(damaged)?;
        let mut gone = Vec::new();
        for (role, pid, start_time) in record.processes {
            if role == wire::WAITER_ROLE {
                continue;
            }
            let identity = ProcessIdentity { boot_id: record.boot_id.clone(), pid, start_time };
            match Process::take_up(&role, &identity).map_err(failed(Stage::Program, &role))? {
                Some(process) => self.processes.push(process),
                None => gone.push((role, pid, start_time)),
            }
        }
        let vmm_is_gone = gone.iter().any(|(role, ..)| role == VMM_ROLE);
        self.record_processes(gone)?;
        if vmm_is_gone {
            self.vmm_ended(RecordedEnd::Unknown);
        }
        Ok(())
    }

    fn record_processes(&self, gone: Vec<(String, u32, u64)>) -> Result<(), Failure> {
        let boot_id = process_identity::boot_id().map_err(failed(Stage::Record, "boot id"))?;
        let own = ProcessIdentity::of(std::process::id()).map_err(failed(Stage::Record, "/proc/self/stat"))?;
        let mut processes = vec![(wire::WAITER_ROLE.to_owned(), own.pid, own.start_time)];
        processes.extend(self.processes.iter().map(Process::line));
        processes.extend(gone);
        let record = ProcessesRecord { boot_id, processes };
        write_processes(&record.to_text()).map_err(failed(Stage::Record, wire::PROCESSES_FILE))
    }

    fn serve(&mut self) {
        loop {
            let next = self.alarm.map(|(at, _)| at).into_iter().chain(self.sync_due).min();
            let alarm_ms = next.map(|at| {
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
            if self.sync_due.is_some_and(|at| at <= Instant::now()) {
                self.sync_due = self.sync_exit().err().map(|error| {
                    let _ = writeln!(io::stderr(), "cannot write out the VMM's end, trying again: {error}");
                    Instant::now() + RECORD_RETRY
                });
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
        let process = &mut self.processes[i];
        process.ended = true;
        let end = process.end();
        // Its descendants end with it, as everything in a machine does.
        process.signal(sys::SIGKILL);
        if process.role == VMM_ROLE {
            return self.vmm_ended(end);
        }
        let role = process.role.clone();
        process.reap();
        let vmm_lives = self.processes.iter().any(|process| process.role == VMM_ROLE && !process.ended);
        if vmm_lives && self.lost.is_none() {
            self.lost = Some(role);
            match end {
                RecordedEnd::Signal(_) => self.kill(|role| role == VMM_ROLE),
                _ => self.alarm = Some((Instant::now() + EXIT_GRACE, Task::KillVmm)),
            }
        }
    }

    fn vmm_ended(&mut self, end: RecordedEnd) {
        if let Some(log) = &mut self.log {
            log.drain();
        }
        let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at_micros = i64::try_from(at.as_micros()).unwrap_or(i64::MAX);
        // A companion that merely exited first, and the VMM after it by itself, is a shutdown.
        let killed = self.alarm.is_none();
        let lost = if killed { self.lost.take() } else { None };
        self.exit = Some(ExitRecord { end, at_micros, lost });
        self.write_exit();
    }

    /// Status written → reaped → `ended` closed, in this order: who sees the process gone or the
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
                process.reap();
            } else if !process.ended {
                process.signal(sys::SIGTERM);
            }
        }
        self.ended = None;
        self.sync_due = Some(Instant::now() + SYNC_DELAY);
        self.alarm = Some((Instant::now() + COMPANION_GRACE, Task::KillCompanions));
    }

    fn sync_exit(&self) -> io::Result<()> {
        self.exit_draft.sync_all()?;
        File::open(".")?.sync_all()
    }

    fn kill(&mut self, chosen: impl Fn(&str) -> bool) {
        for process in &mut self.processes {
            if !process.ended && chosen(&process.role) {
                process.signal(sys::SIGKILL);
            }
        }
    }

    fn kill_all(&mut self) {
        self.kill(|_| true);
        for process in &mut self.processes {
            process.reap();
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

/// Not written out to the disk: no process outlives a power failure.
fn write_processes(text: &str) -> io::Result<()> {
    let draft = "processes.draft";
    fs::write(draft, text)?;
    fs::rename(draft, wire::PROCESSES_FILE)
}

/// The draft is the file from now on; nothing of it can be missing for lack of room.
fn write_exit(draft: &File, text: &str) -> io::Result<()> {
    draft.write_all_at(text.as_bytes(), 0)?;
    fs::rename(wire::EXIT_DRAFT_FILE, wire::EXIT_FILE)
}
