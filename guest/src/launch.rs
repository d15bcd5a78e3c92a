//! Standard streams of what PID 1 starts: pipes or a terminal, our ends of which are non-blocking.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Pid, Uid, fchown, pipe2};
use sandpen_guest::protocol::{StartFailure, StartFailureCode, TerminalSize};

use crate::terminal::Terminal;
use crate::users::User;

/// Whose process it is, in words for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    Workload,
    /// A session's.
    Command,
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Workload => "workload",
            Self::Command => "command",
        })
    }
}

/// Which streams there are.
#[derive(Debug, Clone, Copy)]
pub struct Streams {
    pub of: Whose,
    /// A terminal of this size instead of pipes.
    pub terminal: Option<TerminalSize>,
    /// Whether anybody feeds the standard input.
    pub stdin: bool,
}

/// A running process with our ends of its standard streams, non-blocking.
#[derive(Debug)]
pub struct Launched {
    /// Leader of its session and process group.
    pub pid: Pid,
    /// `None` when it reads from `/dev/null`, or from a terminal on which nobody types.
    pub stdin: Option<OwnedFd>,
    /// Its standard output, or all of its terminal's.
    pub stdout: OwnedFd,
    /// Its standard error; `None` with a terminal.
    pub stderr: Option<OwnedFd>,
    /// Its terminal, if it has one.
    pub terminal: Option<Terminal>,
}

/// Makes the streams, which are `user`'s, and has `run` make the process with them; `null` is an open `/dev/null`.
pub fn launch(
    streams: Streams,
    user: Option<&User>,
    null: &OwnedFd,
    run: impl FnOnce([BorrowedFd<'_>; 3]) -> Result<Pid, StartFailure>,
) -> Result<Launched, StartFailure> {
    if let Some(size) = streams.terminal {
        return launch_on_terminal(streams, size, user, run);
    }
    let pipe_failed = |errno: Errno| not_executable(format!("making pipes for the {}: {errno}", streams.of));
    let (child_stdin, stdin) = if streams.stdin {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_failed)?;
        (Some(read), Some(unblocked(write).map_err(pipe_failed)?))
    } else {
        (None, None)
    };
    let (stdout, child_stdout) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_failed)?;
    let (stderr, child_stderr) = pipe2(OFlag::O_CLOEXEC).map_err(pipe_failed)?;
    if let Some(user) = user {
        for stream in [&child_stdout, &child_stderr].into_iter().chain(&child_stdin) {
            give_away(stream, user).map_err(pipe_failed)?;
        }
    }
    // Whoever the process becomes may open `/dev/stdout` and the others once more, as servers do for their logs.
    for output in [&child_stdout, &child_stderr] {
        fchmod(output, Mode::from_bits_truncate(0o622)).map_err(pipe_failed)?;
    }
    if let Some(input) = &child_stdin {
        fchmod(input, Mode::from_bits_truncate(0o644)).map_err(pipe_failed)?;
    }
    let (stdout, stderr) = (unblocked(stdout).map_err(pipe_failed)?, unblocked(stderr).map_err(pipe_failed)?);
    let stdio = [child_stdin.as_ref().unwrap_or(null).as_fd(), child_stdout.as_fd(), child_stderr.as_fd()];
    let pid = run(stdio)?;
    Ok(Launched { pid, stdin, stdout, stderr: Some(stderr), terminal: None })
}

fn launch_on_terminal(
    streams: Streams,
    size: TerminalSize,
    user: Option<&User>,
    run: impl FnOnce([BorrowedFd<'_>; 3]) -> Result<Pid, StartFailure>,
) -> Result<Launched, StartFailure> {
    let failed =
        |errno: Errno| not_executable(format!("making the {}'s terminal in /dev/pts: {}", streams.of, errno.desc()));
    let terminal = Terminal::open(size).map_err(failed)?;
    if let Some(user) = user {
        give_away(terminal.slave(), user).map_err(failed)?;
    }
    // As the pipes of one that has none.
    fchmod(terminal.slave(), Mode::from_bits_truncate(0o666)).map_err(failed)?;
    let stdin = if streams.stdin { Some(terminal.master().map_err(failed)?) } else { None };
    let stdout = terminal.master().map_err(failed)?;
    let pid = run([terminal.slave(); 3])?;
    Ok(Launched { pid, stdin, stdout, stderr: None, terminal: Some(terminal) })
}

/// Gives a stream to a process's user.
fn give_away(stream: impl AsFd, user: &User) -> Result<(), Errno> {
    fchown(stream, Some(Uid::from_raw(user.uid)), None)
}

/// Makes our end of a pipe non-blocking; the other end is another description and stays as it is.
fn unblocked(fd: OwnedFd) -> Result<OwnedFd, Errno> {
    fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok(fd)
}

/// A failure with the shell's code for what is there and cannot be run.
pub fn not_executable(message: String) -> StartFailure {
    StartFailure::new(StartFailureCode::NotExecutable, message)
}
