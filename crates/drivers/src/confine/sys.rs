//! System calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;

use nix::libc;

/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const LANDLOCK_VERSION: libc::c_uint = 1;

/// Closes every descriptor above the standard three. For a process that has opened nothing yet.
///
/// # Errors
/// What the kernel said (Linux 5.9 and later can do it).
pub(super) fn close_inherited() -> io::Result<()> {
    // SAFETY: called first of all in a process that was just executed: nothing in it owns a
    // descriptor above the standard three.
    let answer =
        unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, 0 as libc::c_uint) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks to be traced by the parent process: something to be refused.
#[cfg(feature = "testing")]
pub(super) fn trace_me() -> io::Result<()> {
    // SAFETY: this request takes no more arguments and touches no memory.
    let answer = unsafe { libc::syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0_usize, 0_usize, 0_usize) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The kernel's Landlock ABI version.
///
/// # Errors
/// `ENOSYS` where it is not in the kernel, `EOPNOTSUPP` where it is switched off.
pub(super) fn landlock_abi() -> io::Result<i32> {
    // SAFETY: a null pointer of size 0 with this flag asks for the version; no memory is touched.
    let answer = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0_usize, LANDLOCK_VERSION)
    };
    i32::try_from(answer).ok().filter(|abi| *abi > 0).ok_or_else(io::Error::last_os_error)
}
