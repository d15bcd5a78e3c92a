//! The first process of the namespace of process ids in which a sandbox's processes run.
//!
//! ```text
//!   forked ─▶ told which processes there are, until the waiter says no more ─▶ waits for their ends ─▶ gone
//! ```
//!
//! The kernel wants such a namespace to have a first process for as long as it has any, ends all others with it, and
//! keeps signals from it. So it is none of them: they have the waiter as their parent, which gets their statuses, and
//! signals do to them what they always do. It is a fork of the waiter without open files, in no jail, and never
//! meets anything of a guest.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::fd::AsFd as _;

use sandpen_waiter::wire::INIT_ROLE;

use crate::process::Process;
use crate::sys;

/// The waiter's end of it, until all processes are started.
pub(crate) struct Init {
    told: io::PipeWriter,
}

impl Init {
    /// Starts it: the first child after the namespace was made.
    pub(crate) fn start() -> io::Result<(Self, Process)> {
        let (heard, told) = io::pipe()?;
        let pid = sys::fork_for(|| {
            // Elsewhere than the waiter, which is told from it by that.
            if sys::leave_everything(&heard).is_ok() && std::env::set_current_dir("/").is_ok() {
                wait_for_all();
            }
        })?;
        Ok((Self { told }, Process::forked(INIT_ROLE, pid)?))
    }

    /// Tells it of another process.
    pub(crate) fn tell(&mut self, pid: u32) -> io::Result<()> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_whitespace().next_back());
        writeln!(self.told, "{}", inner.ok_or(io::ErrorKind::InvalidData)?)
    }
}

/// What the first process does: the others' pids come on standard input.
fn wait_for_all() {
    let Ok(input) = io::stdin().as_fd().try_clone_to_owned() else { return };
    let mut processes = Vec::new();
    for line in BufReader::new(File::from(input)).lines().map_while(Result::ok) {
        // One that has ended by now is not there, or a zombie.
        processes.extend(line.parse().ok().and_then(|pid| sys::open_pidfd(pid).ok()));
    }
    for process in &processes {
        sys::wait_ended(process);
    }
}
