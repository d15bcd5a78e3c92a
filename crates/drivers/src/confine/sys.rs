//! System calls that no safe wrapper offers.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};

#[cfg(feature = "testing")]
use nix::errno::Errno;
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork};

/// `SECCOMP_GET_ACTION_AVAIL` of linux/seccomp.h.
const SECCOMP_GET_ACTION_AVAIL: libc::c_uint = 2;

/// `LANDLOCK_CREATE_RULESET_VERSION` of linux/landlock.h.
const LANDLOCK_VERSION: libc::c_uint = 1;

/// `struct mount_attr` (linux/mount.h).
#[repr(C)]
#[derive(Default)]
pub(super) struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

impl MountAttributes {
    /// These `MOUNT_ATTR_…`, to be set.
    pub(super) fn of(set: u64) -> Self {
        Self { set, ..Self::default() }
    }

    /// Apart from what is mounted on the other copies of the mount from now on.
    pub(super) fn private(mut self) -> Self {
        self.propagation = libc::MS_PRIVATE;
        self
    }

    /// With the user namespace that `MOUNT_ATTR_IDMAP` asks for, which has to stay open until they are set.
    pub(super) fn mapped_by(mut self, user_namespace: BorrowedFd<'_>) -> Self {
        self.user_namespace = u64::from(user_namespace.as_raw_fd().cast_unsigned());
        self
    }
}

/// Sets attributes of what is mounted here, and below if `below`.
///
/// # Errors
/// What the kernel said (Linux 5.12 and later can do it).
pub(super) fn set_mount_attributes(tree: BorrowedFd<'_>, attributes: &MountAttributes, below: bool) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if below { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: an empty constant path, and a structure of the given size, which the kernel only reads.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttributes>(),
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A new user namespace with these maps (user_namespaces(7), lines of `uid_map` and `gid_map`), in which this process
/// is not. For a process with one thread and the right to map others' ids.
///
/// # Errors
/// What the kernel said.
pub(super) fn user_namespace(uid_map: &str, gid_map: &str) -> io::Result<OwnedFd> {
    let (mut said, mut says) = io::pipe()?;
    let (ends, end) = io::pipe()?;
    // SAFETY: this process has one thread, so the child is whole; it does a few system calls and ends at once.
    match unsafe { fork() }? {
        ForkResult::Child => {
            drop((said, end));
            // Its pid as that /proc names it, which may be of another namespace of pids than ours.
            let made = unshare(CloneFlags::CLONE_NEWUSER).map_err(io::Error::from);
            let pid = made.and_then(|()| std::fs::read_link("/proc/self"));
            if let Ok(pid) = pid {
                let _ = says.write_all(pid.as_os_str().as_encoded_bytes());
            }
            drop(says);
            let _ = File::from(OwnedFd::from(ends)).read(&mut [0]);
            // SAFETY: ends this process without running anything of the parent's.
            unsafe { libc::_exit(0) }
        }
        ForkResult::Parent { child } => {
            drop((says, ends));
            let made = (|| {
                let mut pid = String::new();
                said.read_to_string(&mut pid)?;
                if pid.is_empty() {
                    return Err(io::Error::from(io::ErrorKind::PermissionDenied));
                }
                std::fs::write(format!("/proc/{pid}/uid_map"), uid_map)?;
                std::fs::write(format!("/proc/{pid}/gid_map"), gid_map)?;
                Ok(File::open(format!("/proc/{pid}/ns/user"))?.into())
            })();
            drop(end);
            nix::sys::wait::waitpid(child, None)?;
            made
        }
    }
}

/// Closes every descriptor above the standard three. For a process that has opened nothing yet.
///
/// # Errors
/// As [`close_inherited_beyond`].
pub fn close_inherited() -> io::Result<()> {
    close_inherited_beyond(0)
}

/// Closes every descriptor above the standard three and the `kept` ones after them. For a process that has opened
/// nothing yet.
///
/// # Errors
/// What the kernel said (Linux 5.9 and later can do it).
pub(super) fn close_inherited_beyond(kept: u32) -> io::Result<()> {
    // SAFETY: called first of all in a process that was just executed: nothing in it owns a
    // descriptor above the standard three.
    let answer =
        unsafe { libc::syscall(libc::SYS_close_range, 3 as libc::c_uint + kept, libc::c_uint::MAX, 0 as libc::c_uint) };
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
