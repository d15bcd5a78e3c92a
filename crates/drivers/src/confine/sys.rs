//! System calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::io;

#[cfg(feature = "testing")]
use nix::errno::Errno;
use nix::libc;

/// `SECCOMP_GET_ACTION_AVAIL` of linux/seccomp.h.
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;

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

/// Makes a system call of the probes' table.
#[cfg(feature = "testing")]
pub(super) fn call(number: i64, arguments: [usize; 6]) -> Result<usize, Errno> {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    // SAFETY: the table has null or 1 in the place of pointers and no descriptors that are open, so that the calls read and
    // write no memory of this process and change nothing in it.
    let answer = unsafe { libc::syscall(number, first, second, third, fourth, fifth, sixth) };
    usize::try_from(answer).map_err(|_| Errno::last())
}

/// Reads a byte of another process's memory, at an address that it does not have: the kernel says `EFAULT` only to
/// whom it lets look.
#[cfg(feature = "testing")]
pub(super) fn read_memory(pid: u32) -> Result<(), Errno> {
    let mut byte = [0_u8];
    let own = libc::iovec { iov_base: byte.as_mut_ptr().cast(), iov_len: 1 };
    let other = libc::iovec { iov_base: std::ptr::without_provenance_mut(1), iov_len: 1 };
    // SAFETY: one byte of ours, which lives until the call returns, may be written to.
    let answer = unsafe { libc::process_vm_readv(pid.cast_signed(), &raw const own, 1, &raw const other, 1, 0) };
    match Errno::result(answer) {
        Ok(_) | Err(Errno::EFAULT) => Ok(()),
        Err(refused) => Err(refused),
    }
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

/// Whether the kernel's seccomp filters know an action (`SECCOMP_RET_*`).
///
/// # Errors
/// `ENOSYS` or `EINVAL` where there are no filters, `EOPNOTSUPP` where the action is missing.
pub(super) fn has_seccomp_action(action: u32) -> io::Result<()> {
    // SAFETY: this operation reads one u32, which lives until the call returns.
    let answer =
        unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0 as libc::c_uint, &raw const action) };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
