//! What becomes of a child before it is its program, as its parent hears of it over a pipe.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Step;

/// How long a child may take to become its program: many times what a slow disk of a busy host makes of it.
pub(super) const VERDICT_LIMIT: Duration = if cfg!(test) { Duration::from_secs(1) } else { Duration::from_secs(10) };

/// What a child says before it becomes the program.
pub(super) enum Verdict {
    /// Nothing: the pipe was closed by a successful `execve`.
    Runs,
    Failed(Step, Errno, u8),
    /// Nothing in [`VERDICT_LIMIT`].
    Stuck,
}

/// A child is waited for, and nothing else is done meanwhile: what has hung up a file system that it needs (a server of files that
/// does not answer) must not have hung up the machine.
pub(super) fn read_verdict(pipe: OwnedFd) -> Verdict {
    let until = Instant::now() + VERDICT_LIMIT;
    let mut fds = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match poll(&mut fds, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
            Ok(0) if left.is_zero() => return Verdict::Stuck,
            Ok(0) | Err(Errno::EINTR) => {}
            // The read says the rest.
            Ok(_) | Err(_) => break,
        }
    }
    let mut verdict = [0; 6];
    if File::from(pipe).read_exact(&mut verdict).is_err() {
        return Verdict::Runs;
    }
    let [step, limit, errno @ ..] = verdict;
    let steps = [Step::Setup, Step::Workdir, Step::Exec, Step::Limits, Step::User];
    match steps.into_iter().find(|known| *known as u8 == step) {
        Some(step) => Verdict::Failed(step, Errno::from_raw(i32::from_ne_bytes(errno)), limit),
        None => Verdict::Runs,
    }
}
