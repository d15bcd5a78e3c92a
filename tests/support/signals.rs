//! Signals to processes by their number.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Sends a signal to a process, which must be there.
pub fn send(pid: u32, signal: Signal) {
    kill(nix_pid(pid), signal).unwrap();
}

/// Sends a signal to a process that may be gone already. Its number is nobody else's so soon.
pub fn send_if_there(pid: u32, signal: Signal) {
    let _ = kill(nix_pid(pid), signal);
}

/// Whether there is a process of this number.
pub fn is_there(pid: u32) -> bool {
    kill(nix_pid(pid), None).is_ok()
}

fn nix_pid(pid: u32) -> Pid {
    Pid::from_raw(i32::try_from(pid).unwrap())
}
