//! Watching and signalling a process by a descriptor that can never come to mean another one.
#![allow(unsafe_code)] // tokio's safe constructor of `AsyncFd` is deprecated

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process_identity::ProcessIdentity;
use crate::process_owner::ProcessOwner;

/// Opens the process if it is still the one that is meant; `None` when it is gone. One of another user's was never
/// ours, whatever a record says ([`ProcessOwner::is_ours`]): `None` as well.
///
/// # Errors
/// What `pidfd_open` (Linux 5.3 or later) or `/proc` said.
pub fn open(identity: &ProcessIdentity) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(identity.pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // In this order: what holds now, with the descriptor open, holds for the descriptor.
    if !identity.holds()? {
        return Ok(None);
    }
    match ProcessOwner::of(identity.pid) {
        Ok(owner) => Ok(owner.is_ours().then_some(pidfd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a child of this process that nobody has reaped.
///
/// # Errors
/// No descriptor left, or what `pidfd_open` said.
pub fn of_child(child: &std::process::Child) -> io::Result<OwnedFd> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no pid"))?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Reaps it, if it has ended and is a child of this process; no error otherwise. Only for a process that nothing
/// else waits for.
///
/// # Errors
/// What `waitid` said.
pub fn reap(pidfd: impl AsFd) -> io::Result<()> {
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    match waitid(Id::PIDFd(pidfd.as_fd()), flags) {
        // Somebody else's child, or reaped already.
        Ok(_) | Err(Errno::ECHILD) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// Sends a signal; no error when the process is already gone.
///
/// # Errors
/// `InvalidInput` for a number that is none of the classic signals (1 to 31); what the kernel said.
pub fn send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    match pidfd_send_signal(pidfd, classic(signal)?) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Whether a number is one of the classic signals.
///
/// # Errors
/// `InvalidInput`: it is not.
pub fn check_signal(signal: i32) -> io::Result<()> {
    classic(signal).map(drop)
}

fn classic(signal: i32) -> io::Result<Signal> {
    Signal::from_named_raw(signal)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is no signal number")))
}

/// Whether the process has ended (it may still be a zombie).
///
/// # Errors
/// What `poll` said.
pub fn has_ended(pidfd: impl AsFd) -> io::Result<bool> {
    is_readable(pidfd.as_fd(), PollTimeout::ZERO)
}

/// Waits for the process's end (it may still be a zombie), at most this long; false when it still runs.
/// Blocking.
///
/// # Errors
/// What `poll` said.
pub fn wait_ended(pidfd: impl AsFd, limit: std::time::Duration) -> io::Result<bool> {
    is_readable(pidfd.as_fd(), PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX))
}

/// `poll`, again after each signal that somebody has a handler for: even without a timeout it can be cut short.
fn is_readable(fd: BorrowedFd<'_>, limit: PollTimeout) -> io::Result<bool> {
    let until = limit.duration().map(|limit| Instant::now() + limit);
    let mut left = limit;
    loop {
        match nix::poll::poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], left) {
            Err(Errno::EINTR) => {}
            polled => return Ok(polled? > 0),
        }
        if let Some(until) = until {
            let rest = until.saturating_duration_since(Instant::now());
            left = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
        }
    }
}

/// Resolves when the process has ended (it may still be a zombie).
///
/// # Errors
/// No descriptor left, or no tokio runtime with I/O.
pub async fn ended(pidfd: impl AsFd) -> io::Result<()> {
    // A descriptor of its own: two waits on one descriptor cannot both be registered.
    let own: OwnedFd = pidfd.as_fd().try_clone_to_owned()?;
    // SAFETY: an `OwnedFd` answers the same open descriptor as long as it lives, and the `AsyncFd`
    // owns it to its end.
    let own = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) }?;
    own.readable().await.map(|_| ())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    use nix::libc::{pthread_kill, pthread_self};
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal as NixSignal, sigaction};

    use super::*;

    extern "C" fn nothing(_: nix::libc::c_int) {}

    #[test]
    fn a_signal_is_no_failure_and_no_end() {
        let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
        // SAFETY: the handler does nothing, and nothing else in this process uses the signal.
        unsafe { sigaction(NixSignal::SIGURG, &action) }.unwrap();
        let own = pidfd_open(rustix::process::getpid(), PidfdFlags::empty()).unwrap();
        // SAFETY: takes nothing.
        let looker = unsafe { pthread_self() };
        let is_done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_done.load(Ordering::SeqCst) {
                    // SAFETY: the thread waits for this one's end, and the signal's handler does nothing.
                    assert_eq!(unsafe { pthread_kill(looker, NixSignal::SIGURG as nix::libc::c_int) }, 0);
                }
            });
            let looked: Result<Vec<_>, _> = (0..5_000).map(|_| has_ended(&own)).collect();
            let waited = wait_ended(&own, Duration::from_millis(50));
            is_done.store(true, Ordering::SeqCst);
            assert!(looked.unwrap().iter().all(|ended| !ended));
            assert!(!waited.unwrap());
        });
    }
}
