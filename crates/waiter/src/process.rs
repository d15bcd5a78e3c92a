//! A process under the waiter: its own child, or one that an earlier waiter has left.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command};

use sandpen_waiter::process_identity::ProcessIdentity;
use sandpen_waiter::records::RecordedEnd;
use sandpen_waiter::wire::ProcessSpec;

use crate::sys;

/// Whose child a process is.
enum Parent {
    /// Ours, as it was executed.
    Us(Child),
    /// Ours, and a fork of ourselves: alone in its process group, once it leads one.
    UsByFork,
    /// Another waiter's, which is gone: the host's init reaps it, and nobody tells us its status.
    Another,
}

pub(crate) struct Process {
    pub(crate) role: String,
    pub(crate) pid: u32,
    start_time: u64,
    parent: Parent,
    pub(crate) pidfd: OwnedFd,
    /// Whether its end was seen.
    pub(crate) ended: bool,
}

impl Process {
    /// Executes the program.
    pub(crate) fn start(role: &str, command: &mut Command) -> io::Result<Self> {
        let mut child = command.spawn()?;
        let pid = child.id();
        let watched = sys::open_pidfd(pid).and_then(|pidfd| Ok((pidfd, ProcessIdentity::of(pid)?.start_time)));
        match watched {
            Ok((pidfd, start_time)) => {
                Ok(Self { role: role.to_owned(), pid, start_time, parent: Parent::Us(child), pidfd, ended: false })
            }
            Err(error) => {
                sys::signal_group(pid, sys::SIGKILL);
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// A fork of ourselves.
    pub(crate) fn forked(role: &str, pid: u32) -> io::Result<Self> {
        let pidfd = sys::open_pidfd(pid)?;
        let start_time = ProcessIdentity::of(pid)?.start_time;
        Ok(Self { role: role.to_owned(), pid, start_time, parent: Parent::UsByFork, pidfd, ended: false })
    }

    /// Takes up a process that another waiter started; `None` when it is gone.
    pub(crate) fn take_up(role: &str, identity: &ProcessIdentity) -> io::Result<Option<Self>> {
        let pidfd = match sys::open_pidfd(identity.pid) {
            Ok(pidfd) => pidfd,
            Err(error) if error.raw_os_error() == Some(sys::ESRCH) => return Ok(None),
            Err(error) => return Err(error),
        };
        // In this order: what holds now, with the descriptor open, holds for the descriptor.
        if !identity.holds()? {
            return Ok(None);
        }
        let (pid, start_time) = (identity.pid, identity.start_time);
        Ok(Some(Self { role: role.to_owned(), pid, start_time, parent: Parent::Another, pidfd, ended: false }))
    }

    /// Its line in the record of processes.
    pub(crate) fn line(&self) -> (String, u32, u64) {
        (self.role.clone(), self.pid, self.start_time)
    }

    /// To it and its descendants in its process group. Of a child that was not reaped yet.
    pub(crate) fn signal(&self, signal: i32) {
        match self.parent {
            Parent::Us(_) => sys::signal_group(self.pid, signal),
            Parent::UsByFork => sys::signal_process(&self.pidfd, signal),
            Parent::Another => sys::signal_group_of(&self.pidfd, signal),
        }
    }

    /// How it ended, once it has; it is not reaped.
    pub(crate) fn end(&self) -> RecordedEnd {
        match self.parent {
            // Nobody else reaps our children.
            Parent::Us(_) | Parent::UsByFork => sys::peek_end(self.pid).unwrap_or(RecordedEnd::Unknown),
            Parent::Another => RecordedEnd::Unknown,
        }
    }

    /// Waits for its end, and reaps it where that is up to us.
    pub(crate) fn reap(&mut self) {
        match &mut self.parent {
            Parent::Us(child) => {
                let _ = child.wait();
            }
            Parent::UsByFork => sys::reap(self.pid),
            Parent::Another => sys::wait_ended(&self.pidfd),
        }
    }
}

/// The command of a specification, without its descriptors. `program` is what is executed for its program.
pub(crate) fn command(process: &ProcessSpec, program: PathBuf) -> Command {
    let mut command = Command::new(program);
    command.arg0(&process.program);
    if process.clear_env {
        command.env_clear();
    }
    sys::lead_a_session(&mut command);
    command.args(&process.args).envs(process.env.iter().map(|(name, value)| (name, value)));
    command
}
