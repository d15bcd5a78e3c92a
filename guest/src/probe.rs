//! A command beside the workload, for the host: one at a time, with the workload's environment, working
//! directory and limits.
//!
//! ```text
//!   Probe ──▶ runs ──main process ended──▶ ProbeEnded
//!              ├──── time limit ─────────▶ ProbeEnded (TimedOut)
//!              └──── another Probe, the workload's end: killed without an answer
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};
use nix::unistd::{Pid, pipe2, read};
use sandpen_guest::protocol::{Bytes, PROBE_OUTPUT_MAX, ProbeEnd, Start, StartFailure, StartFailureCode, WorkloadEnd};

use crate::launch::Whose;
use crate::process;
use crate::users::User;
use crate::workload::{self, Program};

/// What the workload was started with.
#[derive(Debug)]
pub struct Surroundings {
    pub start: Start,
    pub user: Option<User>,
    /// The directory of what is written to the root, where that is a disk of its own.
    pub upper: Option<OwnedFd>,
}

/// A command that runs.
#[derive(Debug)]
pub struct Probe {
    /// The host's number.
    id: u64,
    /// Leader of its session and process group.
    pid: Pid,
    /// Standard output and error.
    output: Option<OwnedFd>,
    /// The end of what it wrote.
    tail: Vec<u8>,
    deadline: Instant,
}

impl Probe {
    /// Executes `command` in the surroundings of the workload.
    pub fn start(
        Surroundings { start, user, .. }: &Surroundings,
        id: u64,
        command: Vec<Bytes>,
        limit: Duration,
        null: &OwnedFd,
    ) -> Result<Self, StartFailure> {
        let surroundings = Start { command, terminal: None, ..start.clone() };
        let program: Program = workload::program(&surroundings, user.clone())?;
        let failed = |errno: Errno| {
            StartFailure::new(StartFailureCode::NotExecutable, format!("making a pipe: {}", errno.desc()))
        };
        let (output, child_output) = pipe2(OFlag::O_CLOEXEC).map_err(failed)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(failed)?;
        let stdio = [null.as_fd(), child_output.as_fd(), child_output.as_fd()];
        let pid = process::spawn(&program, stdio)
            .map_err(|error| workload::explain(&error, &surroundings, &program, Whose::Workload))?;
        let deadline = Instant::now().checked_add(limit).unwrap_or_else(Instant::now);
        Ok(Self { id, pid, output: Some(output), tail: Vec::new(), deadline })
    }

    /// When it is killed.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// What to wait for beside its end.
    pub fn interest(&self) -> Option<PollFd<'_>> {
        self.output.as_ref().map(|output| PollFd::new(output.as_fd(), PollFlags::POLLIN))
    }

    /// Takes what it wrote, and keeps the end of it.
    pub fn read(&mut self) {
        let mut chunk = [0; 4096];
        // Bounded: the rest has its turn later.
        for _ in 0..16 {
            let Some(output) = &self.output else { return };
            match read(output, &mut chunk) {
                Ok(len) if len > 0 => {
                    self.tail.extend_from_slice(&chunk[..len]);
                    let surplus = self.tail.len().saturating_sub(PROBE_OUTPUT_MAX);
                    self.tail.drain(..surplus);
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return,
                Ok(_) | Err(_) => self.output = None,
            }
        }
    }

    /// The answer when `child` is its main process, which has ended; processes that it left are killed.
    pub fn ended(&mut self, child: Pid, how: WorkloadEnd) -> Option<(u64, ProbeEnd, Bytes)> {
        (child == self.pid).then(|| {
            self.read();
            process::kill_group(self.pid);
            (self.id, ProbeEnd::Ended(how), Bytes::from(std::mem::take(&mut self.tail)))
        })
    }

    /// The answer when its time is up.
    pub fn timed_out(&mut self, now: Instant) -> Option<(u64, ProbeEnd, Bytes)> {
        (now >= self.deadline).then(|| {
            self.read();
            (self.id, ProbeEnd::TimedOut, Bytes::from(std::mem::take(&mut self.tail)))
        })
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        process::kill_group(self.pid);
    }
}
