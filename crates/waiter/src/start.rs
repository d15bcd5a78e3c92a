//! How the waiter comes to its processes: it starts them as it is told, or takes up those of a waiter that was killed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::process::Stdio;

use sandpen_waiter::process_identity::{ProcessIdentity, boot_id};
use sandpen_waiter::records::{EXIT_RECORD_BYTES, ProcessesRecord, RecordedEnd};
use sandpen_waiter::wire::{self, Namespaces, Stage, StdioSpec, VMM_ROLE, WaiterSpec};

use crate::init::Init;
use crate::log_copy::LogCopy;
use crate::opened::Opened;
use crate::process::{self, Process};
use crate::program::{Failure, failed};
use crate::sys;
use crate::waiter::Waiter;

/// The same on both architectures.
const O_NONBLOCK: i32 = 0o4000;

/// Reads what is to be done from the standard input and does it; `None` when that ends early.
pub(crate) fn start() -> Result<Option<Waiter>, Failure> {
    let Some(spec) = wire::read_spec(&mut io::stdin().lock()) else { return Ok(None) };
    // A specification without processes is about those that are there.
    let take_up = spec.processes.is_empty();
    let hold_with = |name: &str, flags| {
        let made = if take_up { Ok(()) } else { make_fifo(name) };
        made.and_then(|()| open_fifo(name, flags)).map_err(failed(Stage::Fifo, name))
    };
    let hold = |name: &str| hold_with(name, 0);
    let mut fifos = BTreeMap::new();
    for name in &spec.fifos {
        fifos.insert(name.clone(), hold(name)?);
    }
    // Who reads them waits for nothing but the poll: others have them open, too.
    let commands = hold_with(wire::COMMANDS_FIFO, O_NONBLOCK)?;
    let ended = hold(wire::ENDED_FIFO)?;
    let exit_draft = File::create(wire::EXIT_DRAFT_FILE).map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    exit_draft.write_all_at(&[b' '; EXIT_RECORD_BYTES], 0).map_err(failed(Stage::Record, wire::EXIT_DRAFT_FILE))?;
    let log = LogCopy::open(hold_with(wire::LOG_FIFO, O_NONBLOCK)?, &spec.vmm_log, spec.vmm_log_limit, take_up);
    let log = log.map_err(failed(Stage::Log, spec.vmm_log.to_string_lossy()))?;
    let mut leases = Vec::new();
    for path in &spec.leases {
        match lease(path) {
            Ok(file) => leases.push(file),
            // What runs has open what it uses; an orchestrator that watches is worth more than a lease.
            Err(error) if take_up => {
                let _ = writeln!(io::stderr(), "cannot lock {} again: {error}", path.display());
            }
            Err(error) => return Err(failed(Stage::Lease, path.to_string_lossy())(error)),
        }
    }
    let mut waiter = Waiter::new(fifos, commands, ended, log, exit_draft, leases);
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

fn make_fifo(name: &str) -> io::Result<()> {
    // A stale one of a start that failed may be there.
    let _ = fs::remove_file(name);
    sys::make_fifo(name)
}

/// Locks a file, shared, without waiting for somebody who has it alone. That the path means the same file as it did
/// for the orchestrator is up to that one, which has it locked meanwhile.
fn lease(path: &Path) -> io::Result<File> {
    let file = File::open(path)?;
    file.try_lock_shared()?;
    Ok(file)
}

/// For reading and writing: the open never blocks, and the pipe's content stays as long as we do.
fn open_fifo(name: &str, flags: i32) -> io::Result<File> {
    let fifo = OpenOptions::new().read(true).write(true).custom_flags(flags).open(name)?;
    if fifo.metadata()?.file_type().is_fifo() { Ok(fifo) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

impl Waiter {
    fn start_all(&mut self, spec: &WaiterSpec) -> Result<(), Failure> {
        let opened = Opened::all(&spec.processes)?;
        let mut init = match &spec.namespaces {
            None => None,
            Some(namespaces) => Some(self.enter(namespaces).map_err(failed(Stage::Namespaces, ""))?),
        };
        let stdio = |stdio: &StdioSpec, output: bool| -> io::Result<Stdio> {
            Ok(match stdio {
                StdioSpec::Null => Stdio::null(),
                StdioSpec::VmmLog => open_fifo(wire::LOG_FIFO, 0)?.into(),
                StdioSpec::Fifo(name) => OpenOptions::new().read(true).write(output).open(name)?.into(),
                StdioSpec::Listener(name) => opened.listener(name)?.into(),
                StdioSpec::Data(bytes) => sys::memory_file(bytes)?.into(),
            })
        };
        for process in &spec.processes {
            let failed_program = |source| Failure { stage: Stage::Program, subject: process.role.clone(), source };
            let mut command = process::command(process, opened.program(process));
            command.stdin(stdio(&process.stdin, false).map_err(failed_program)?);
            command.stdout(stdio(&process.stdout, true).map_err(failed_program)?);
            command.stderr(stdio(&process.stderr, true).map_err(failed_program)?);
            let handed_over = opened.descriptors(process).map_err(failed_program)?;
            sys::hand_over(&mut command, handed_over, wire::FIRST_DESCRIPTOR);
            let started = Process::start(&process.role, &mut command).map_err(failed_program)?;
            // Before the first process of the namespace: that one is reaped when all others are.
            let place = self.processes.len() - usize::from(init.is_some());
            self.processes.insert(place, started);
            if let Some(init) = &mut init {
                init.tell(self.processes[place].pid).map_err(failed(Stage::Namespaces, &process.role))?;
            }
        }
        self.record_processes(Vec::new())
    }

    /// Enters namespaces of its own, with the first process of theirs.
    fn enter(&mut self, namespaces: &Namespaces) -> io::Result<Init> {
        if let Some(user) = &namespaces.user {
            sys::enter_user_namespace(&File::open(user)?)?;
        }
        sys::make_namespaces(namespaces.network)?;
        let (init, process) = Init::start()?;
        self.processes.push(process);
        Ok(init)
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
        let boot_id = boot_id().map_err(failed(Stage::Record, "boot id"))?;
        let own = ProcessIdentity::of(std::process::id()).map_err(failed(Stage::Record, "/proc/self/stat"))?;
        let mut processes = vec![(wire::WAITER_ROLE.to_owned(), own.pid, own.start_time)];
        processes.extend(self.processes.iter().map(Process::line));
        processes.extend(gone);
        let record = ProcessesRecord { boot_id, processes };
        write_processes(&record.to_text()).map_err(failed(Stage::Record, wire::PROCESSES_FILE))
    }
}

/// Not written out to the disk: no process outlives a power failure.
fn write_processes(text: &str) -> io::Result<()> {
    let draft = "processes.draft";
    fs::write(draft, text)?;
    fs::rename(draft, wire::PROCESSES_FILE)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    /// A VMM has its end of the log's pipe open for reading as well: what the poll saw may be gone.
    #[test]
    fn a_pipe_that_somebody_else_has_read_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
        let (pipe, text) = (path("log"), path("text"));
        make_fifo(&pipe).unwrap();
        let mut vmm = open_fifo(&pipe, 0).unwrap();
        let mut log = LogCopy::open(open_fifo(&pipe, O_NONBLOCK).unwrap(), Path::new(&text), 100, false).unwrap();
        vmm.write_all(b"words").unwrap();
        assert!(log.copy() && log.copy(), "there is nothing more");
        log.drain();
        assert_eq!(fs::read(text).unwrap(), b"words");
    }
}
