//! What the waiter does once its processes run: it waits for their ends, for commands and for the VMM log's words.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sandpen_waiter::records::{ExitRecord, RecordedEnd};
use sandpen_waiter::wire::{self, VMM_ROLE};

use crate::log_copy::LogCopy;
use crate::process::Process;
use crate::removal::{Removals, is_removed};
use crate::sys;

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

#[derive(Clone, Copy)]
enum Task {
    KillVmm,
    KillCompanions,
    WriteExit,
}

/// See the program's documentation.
pub(crate) struct Waiter {
    pub(crate) processes: Vec<Process>,
    fifos: BTreeMap<String, File>,
    commands: File,
    /// Bytes of a command whose end was not read yet.
    command_bytes: Vec<u8>,
    /// Closed when the exit record is written.
    ended: Option<File>,
    log: Option<LogCopy>,
    exit_draft: File,
    /// Locked for as long as they are open.
    _leases: Vec<File>,
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
    /// One without processes. It holds these open: the FIFOs for its processes by their names, the one that its
    /// commands come from, the one that is closed when the exit record is written, the log's pipe, the record's draft,
    /// and what it has locked.
    pub(crate) fn new(
        fifos: BTreeMap<String, File>,
        commands: File,
        ended: File,
        log: LogCopy,
        exit_draft: File,
        leases: Vec<File>,
    ) -> Self {
        Self {
            processes: Vec::new(),
            fifos,
            commands,
            command_bytes: Vec::new(),
            ended: Some(ended),
            log: Some(log),
            exit_draft,
            _leases: leases,
            exit: None,
            lost: None,
            alarm: None,
            sync_due: None,
        }
    }

    /// Until it is released, or its directory is gone.
    pub(crate) fn serve(&mut self) {
        // A kernel that does not tell: then it stays, as if nothing had been removed.
        let removals = Removals::watch().ok();
        // What was removed before nobody tells of.
        if is_removed(&self.commands) {
            return self.kill_all();
        }
        loop {
            let next = self.alarm.map(|(at, _)| at).into_iter().chain(self.sync_due).min();
            let alarm_ms = next.map(|at| {
                // Rounded up: an early wake-up would spin.
                u32::try_from(at.saturating_duration_since(Instant::now()).as_millis() + 1).unwrap_or(u32::MAX)
            });
            let watched: Vec<usize> = (0..self.processes.len()).filter(|&i| !self.processes[i].ended).collect();
            let mut fds = vec![self.commands.as_fd()];
            fds.extend(watched.iter().map(|&i| self.processes[i].pidfd.as_fd()));
            let removed_at = fds.len();
            fds.extend(removals.iter().map(Removals::as_fd));
            fds.extend(self.log.iter().map(|log| log.pipe.as_fd()));
            let ready = sys::wait_readable(&fds, alarm_ms);
            if ready[0] && self.obey() {
                return self.kill_all();
            }
            if let Some(removals) = removals.as_ref().filter(|_| ready[removed_at]) {
                removals.take();
                if is_removed(&self.commands) {
                    return self.kill_all();
                }
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

    pub(crate) fn vmm_ended(&mut self, end: RecordedEnd) {
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

    /// Kills whatever lives, and reaps it.
    pub(crate) fn kill_all(&mut self) {
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

/// The draft is the file from now on; nothing of it can be missing for lack of room.
fn write_exit(draft: &File, text: &str) -> io::Result<()> {
    draft.write_all_at(text.as_bytes(), 0)?;
    fs::rename(wire::EXIT_DRAFT_FILE, wire::EXIT_FILE)
}
