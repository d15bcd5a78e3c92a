//! Children that do not come to their program.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};

use super::*;

/// As a working directory on a file system whose server does not answer.
#[test]
fn a_child_that_does_not_come_to_its_program_holds_up_nobody() {
    fn wait() {
        std::thread::sleep(Duration::from_secs(1000));
    }
    fn is_given_up() -> bool {
        let null = File::open("/dev/null").unwrap();
        let own = Own { user: None, controls_terminal: false, prepare: wait, keep: None, run: Box::new(|_| 0) };
        let begun = Instant::now();
        let spawned = spawn_own(own, [null.as_fd(); 3]);
        matches!(spawned, Err(SpawnError::Stuck))
            && begun.elapsed() >= VERDICT_LIMIT
            && matches!(waitpid(None, None), Ok(WaitStatus::Signaled(_, Signal::SIGKILL, _)))
    }
    // In a process of its own, which has no other child.
    // SAFETY: the child takes no lock that another thread may have held, but for the allocator's, which glibc sees to.
    match unsafe { fork() }.unwrap() {
        // SAFETY: ends the process without running anything of the parent's.
        ForkResult::Child => unsafe { libc::_exit(i32::from(!is_given_up())) },
        ForkResult::Parent { child } => assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0))),
    }
}
