//! How fast the kernel's clocks run.
#![allow(unsafe_code)] // adjtimex(2), which nix has no wrapper for

use nix::errno::Errno;
use nix::libc;

/// Sets what the clocks go forward in a hundredth of a second, in µs: 9000 to 11000.
pub fn set(tick: i32) -> Result<(), Errno> {
    // SAFETY: the structure is plain numbers, for which zeros are values.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_TICK;
    change.tick = tick.into();
    // SAFETY: the kernel reads and writes that structure alone, which is ours.
    Errno::result(unsafe { libc::adjtimex(&raw mut change) }).map(drop)
}
