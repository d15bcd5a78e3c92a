//! The system calls of the waiter program that the standard library does not offer. All of its
//! `unsafe` is here; constants are Linux's, the same on x86_64 and aarch64.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int, c_long, c_short, c_uint, c_ulong};
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use sandpen_waiter::records::RecordedEnd;

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("the waiter knows the system call ABI of Linux on x86_64 and aarch64 only");

const SYS_PIDFD_SEND_SIGNAL: c_long = 424;
const SYS_PIDFD_OPEN: c_long = 434;
/// Since Linux 6.9.
const PIDFD_SIGNAL_PROCESS_GROUP: c_long = 4;
const SYS_CLOSE_RANGE: c_long = 436;
/// `CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS` (linux/sched.h).
const PRIVATE_NAMESPACES: c_int = 0x2000_0000 | 0x0800_0000 | 0x0400_0000;
const CLONE_NEWNET: c_int = 0x4000_0000;
const CLONE_NEWUSER: c_int = 0x1000_0000;
const PR_SET_DUMPABLE: c_int = 4;
const SIGCHLD: c_int = 17;
const SIG_IGN: usize = 1;
const F_DUPFD_CLOEXEC: c_int = 1030;
const SYS_MEMFD_CREATE: c_long = if cfg!(target_arch = "aarch64") { 279 } else { 319 };
const MFD_CLOEXEC: c_uint = 1;
const MFD_ALLOW_SEALING: c_uint = 2;
const F_ADD_SEALS: c_int = 1033;
/// `F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE`.
const ALL_SEALS: c_int = 0xf;
pub(crate) const ESRCH: i32 = 3;
const EINTR: i32 = 4;
/// Tells of what happens in a directory, each time (linux/fcntl.h).
const F_NOTIFY: c_int = 1026;
const DN_DELETE: c_ulong = 8;
const DN_MULTISHOT: c_ulong = 0x8000_0000;
const SIG_BLOCK: c_int = 0;
/// `SFD_CLOEXEC | SFD_NONBLOCK`.
const SFD_FLAGS: c_int = 0o200_0000 | 0o4000;
/// What the kernel sends for [`F_NOTIFY`].
const SIGIO: c_int = 29;
const SIGPIPE: c_int = 13;
pub(crate) const SIGKILL: c_int = 9;
pub(crate) const SIGTERM: c_int = 15;
const LAST_SIGNAL: c_int = 64;
const SIG_DFL: usize = 0;
const P_PID: c_int = 1;
const WEXITED: c_int = 4;
const WNOWAIT: c_int = 0x0100_0000;
const PR_SET_NAME: c_int = 15;
const CLD_EXITED: c_int = 1;
const POLLIN: c_short = 1;

/// `siginfo_t` as `waitid` fills it; 128 bytes on every 64-bit Linux.
#[repr(C, align(8))]
struct SigInfo {
    signo: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    pid: c_int,
    uid: c_uint,
    status: c_int,
    rest: [c_int; 25],
}

/// `sigset_t` of the C libraries; 128 bytes on every 64-bit Linux.
#[repr(C)]
struct SigSet([c_ulong; 16]);

/// One entry of `poll`'s array.
#[repr(C)]
struct PollFd {
    fd: c_int,
    events: c_short,
    revents: c_short,
}

unsafe extern "C" {
    safe fn setsid() -> c_int;
    safe fn dup2(old: c_int, new: c_int) -> c_int;
    safe fn kill(pid: c_int, signal: c_int) -> c_int;
    safe fn fork() -> c_int;
    safe fn unshare(flags: c_int) -> c_int;
    safe fn setns(fd: c_int, kind: c_int) -> c_int;
    fn prctl(operation: c_int, ...) -> c_int;
    fn signal(signal: c_int, handler: usize) -> usize;
    fn syscall(number: c_long, ...) -> c_long;
    fn fcntl(fd: c_int, command: c_int, ...) -> c_int;
    fn mkfifo(path: *const c_char, mode: c_uint) -> c_int;
    fn sigemptyset(set: *mut SigSet) -> c_int;
    fn sigaddset(set: *mut SigSet, signal: c_int) -> c_int;
    fn sigprocmask(how: c_int, set: *const SigSet, old: *mut SigSet) -> c_int;
    fn signalfd(fd: c_int, set: *const SigSet, flags: c_int) -> c_int;
    fn read(fd: c_int, buffer: *mut u8, count: usize) -> isize;
    fn poll(fds: *mut PollFd, count: c_ulong, timeout_ms: c_int) -> c_int;
    fn waitid(id_type: c_int, id: c_uint, info: *mut SigInfo, options: c_int) -> c_int;
}

/// What `ps` and the kernel's log call this process. It is executed by the number of a descriptor, which they
/// would show otherwise.
pub(crate) fn name_process() {
    // SAFETY: the name is a NUL-terminated constant of at most 16 bytes, which the kernel copies.
    unsafe { prctl(PR_SET_NAME, c"sandpen-waiter".as_ptr()) };
}

/// A session of our own, default signal dispositions for us and our children, no inherited files
/// but the three standard ones.
pub(crate) fn detach() -> io::Result<()> {
    // Fails only for a process group leader, which a fresh child can only be if its parent made it
    // one; then it is away from the parent's group anyway.
    setsid();
    for number in 1..=LAST_SIGNAL {
        // SIGPIPE stays ignored here; the standard library resets it in children.
        if number != SIGPIPE {
            // SAFETY: SIG_DFL installs no code of ours; numbers that cannot be set (SIGKILL,
            // SIGSTOP, the C library's own) are refused with an error that does not matter.
            unsafe { signal(number, SIG_DFL) };
        }
    }
    // SAFETY: nothing in this process has opened a file yet, so no owned descriptor above 2 exists
    // that this could close under its owner.
    let closed = unsafe { syscall(SYS_CLOSE_RANGE, 3 as c_uint, c_uint::MAX, 0 as c_uint) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn checked(answer: c_int) -> io::Result<()> {
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Enters a user namespace, in which this process may make others.
pub(crate) fn enter_user_namespace(file: &File) -> io::Result<()> {
    checked(setns(file.as_raw_fd(), CLONE_NEWUSER))?;
    // The kernel hides from our own user what has changed its rights; ours see this process's files all the same.
    // SAFETY: an operation with one integer; no memory is touched.
    checked(unsafe { prctl(PR_SET_DUMPABLE, 1 as c_ulong, 0 as c_ulong, 0 as c_ulong, 0 as c_ulong) })
}

/// Makes namespaces of our own: those of process ids are for the children to come, the others ours too.
pub(crate) fn make_namespaces(network: bool) -> io::Result<()> {
    checked(unshare(PRIVATE_NAMESPACES | if network { CLONE_NEWNET } else { 0 }))
}

/// Forks this process; the child does `work` and ends. Its pid.
pub(crate) fn fork_for(work: impl FnOnce()) -> io::Result<u32> {
    // This process has one thread: the child is whole and may do anything.
    match fork() {
        0 => {
            work();
            std::process::exit(0);
        }
        pid => u32::try_from(pid).map_err(|_| io::Error::last_os_error()),
    }
}

/// For the first process of a namespace of process ids, a fork of the waiter: keeps open nothing but `kept`, in the place
/// of standard input, leaves no zombies, and has a session of its own.
pub(crate) fn leave_everything(kept: &impl AsRawFd) -> io::Result<()> {
    setsid();
    replace_standard(0, kept)?;
    // SAFETY: SIG_IGN installs no code of ours. Children that end without their parent are nobody's.
    unsafe { signal(SIGCHLD, SIG_IGN) };
    // SAFETY: whatever owned these descriptors is never used again: this process ends without unwinding (fork_for).
    let closed = unsafe { syscall(SYS_CLOSE_RANGE, 1 as c_uint, c_uint::MAX, 0 as c_uint) };
    if closed == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Another descriptor of the same file, from `least` on.
pub(crate) fn duplicate_from(file: &impl AsRawFd, least: c_int) -> io::Result<OwnedFd> {
    // SAFETY: a live descriptor and an integer; no memory is touched.
    let fd = unsafe { fcntl(file.as_raw_fd(), F_DUPFD_CLOEXEC, least) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has the command's process get these descriptors open, from `first` on. Their numbers here must lie beyond all of
/// those.
pub(crate) fn hand_over(command: &mut Command, descriptors: Vec<OwnedFd>, first: c_int) {
    // SAFETY: the closure runs between fork and exec and calls dup2 alone, which is async-signal-safe, for descriptors
    // that it owns; the copies stay open over the execution.
    unsafe {
        command.pre_exec(move || {
            for (number, descriptor) in (first..).zip(&descriptors) {
                replace_standard(number, descriptor)?;
            }
            Ok(())
        });
    }
}

/// Puts `file` in the place of another descriptor, mostly a standard one (0 to 2).
pub(crate) fn replace_standard(number: c_int, file: &impl AsRawFd) -> io::Result<()> {
    if dup2(file.as_raw_fd(), number) == number { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes a FIFO for our user only.
pub(crate) fn make_fifo(path: &str) -> io::Result<()> {
    let path = CString::new(path)?;
    // SAFETY: `path` is a NUL-terminated string that lives through the call.
    if unsafe { mkfifo(path.as_ptr(), 0o600) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A file in memory with this content, at its beginning, that nobody can change.
pub(crate) fn memory_file(content: &[u8]) -> io::Result<File> {
    // SAFETY: the name is a NUL-terminated constant; no other memory is touched.
    let fd = unsafe { syscall(SYS_MEMFD_CREATE, c"sandpen".as_ptr(), MFD_CLOEXEC | MFD_ALLOW_SEALING) };
    let fd = match c_int::try_from(fd) {
        // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
        Ok(fd) if fd >= 0 => unsafe { OwnedFd::from_raw_fd(fd) },
        _ => return Err(io::Error::last_os_error()),
    };
    let mut file = File::from(fd);
    file.write_all(content)?;
    file.rewind()?;
    // SAFETY: a live descriptor and an integer; no memory is touched.
    if unsafe { fcntl(file.as_raw_fd(), F_ADD_SEALS, ALL_SEALS) } == 0 {
        Ok(file)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Gives the command's process a session and with it a process group of its own: its descendants can be
/// ended with it, and the end of this process means nothing to it. (A group in our session would get
/// SIGHUP when we are killed while it is stopped.)
pub(crate) fn lead_a_session(command: &mut Command) {
    // SAFETY: the closure runs between fork and exec and calls setsid alone, which is async-signal-safe
    // and touches no memory. A child just forked leads no group, so it cannot fail.
    unsafe {
        command.pre_exec(|| {
            setsid();
            Ok(())
        });
    }
}

/// A descriptor that becomes readable when the child ends.
pub(crate) fn open_pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: takes two integers; no memory is touched.
    let fd = unsafe { syscall(SYS_PIDFD_OPEN, c_long::from(pid), 0 as c_long) };
    match c_int::try_from(fd) {
        // SAFETY: the kernel just made this descriptor for us (close-on-exec); nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A signal to the process group of a child that leads it and was not reaped yet, so that its pid
/// cannot mean others.
pub(crate) fn signal_group(unreaped_leader: u32, signal: c_int) {
    if let Ok(pid) = c_int::try_from(unreaped_leader) {
        kill(-pid, signal);
    }
}

/// A signal to the process group that this process leads or led; to the process alone where the kernel
/// knows no better. Neither can meet anybody else.
pub(crate) fn signal_group_of(leader: &OwnedFd, signal: c_int) {
    for flags in [PIDFD_SIGNAL_PROCESS_GROUP, 0] {
        // SAFETY: three integers and a null pointer, which stands for "as kill(2) does it".
        let sent = unsafe {
            syscall(SYS_PIDFD_SEND_SIGNAL, c_long::from(leader.as_raw_fd()), c_long::from(signal), 0 as c_long, flags)
        };
        if sent == 0 {
            return;
        }
    }
}

/// A signal to the process alone.
pub(crate) fn signal_process(process: &OwnedFd, signal: c_int) {
    // SAFETY: three integers and a null pointer, which stands for "as kill(2) does it".
    unsafe { syscall(SYS_PIDFD_SEND_SIGNAL, c_long::from(process.as_raw_fd()), c_long::from(signal), 0 as c_long, 0) };
}

/// Waits until a child has ended, and reaps it.
pub(crate) fn reap(pid: u32) {
    let mut info = SigInfo { signo: 0, errno: 0, code: 0, pad: 0, pid: 0, uid: 0, status: 0, rest: [0; 25] };
    loop {
        // SAFETY: `info` is writable and as large as the kernel's siginfo_t (128 bytes).
        let answer = unsafe { waitid(P_PID, pid, &raw mut info, WEXITED) };
        if answer == 0 || io::Error::last_os_error().raw_os_error() != Some(EINTR) {
            return;
        }
    }
}

/// Waits until the process has ended.
pub(crate) fn wait_ended(pidfd: &OwnedFd) {
    while !wait_readable(&[pidfd.as_fd()], None)[0] {}
}

/// How an ended child ended, without reaping it.
pub(crate) fn peek_end(pid: u32) -> io::Result<RecordedEnd> {
    let mut info = SigInfo { signo: 0, errno: 0, code: 0, pad: 0, pid: 0, uid: 0, status: 0, rest: [0; 25] };
    loop {
        // SAFETY: `info` is writable and as large as the kernel's siginfo_t (128 bytes).
        if unsafe { waitid(P_PID, pid, &raw mut info, WEXITED | WNOWAIT) } == 0 {
            let end = if info.code == CLD_EXITED { RecordedEnd::Code } else { RecordedEnd::Signal };
            return Ok(end(info.status));
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(EINTR) {
            return Err(error);
        }
    }
}

/// A descriptor that becomes readable whenever a name was removed from the directory, for as long as that is open. The
/// signal by which the kernel tells of it is blocked from now on, here and in children to come.
pub(crate) fn signal_removals(directory: &File) -> io::Result<OwnedFd> {
    let mut set = SigSet([0; 16]);
    // SAFETY: `set` is writable and as large as the C library's sigset_t (128 bytes); there is no old set to fill in.
    let fd = unsafe {
        sigemptyset(&raw mut set);
        sigaddset(&raw mut set, SIGIO);
        checked(sigprocmask(SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        signalfd(-1, &raw const set, SFD_FLAGS)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just made this descriptor for us; nobody else owns it.
    let signals = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: a live descriptor and an integer; no memory is touched.
    checked(unsafe { fcntl(directory.as_raw_fd(), F_NOTIFY, DN_DELETE | DN_MULTISHOT) })?;
    Ok(signals)
}

/// Reads the signal that has come, if one has: of one that is pending already, no second one is kept.
pub(crate) fn take_signals(signals: &OwnedFd) {
    let mut info = [0_u8; 128];
    // SAFETY: pointer and length are of one writable array, as large as the kernel's signalfd_siginfo; the descriptor
    // does not block.
    unsafe { read(signals.as_raw_fd(), info.as_mut_ptr(), info.len()) };
}

/// Waits until one of `fds` is readable or closed at its other end; `None` waits for ever. Answers
/// one flag per descriptor.
pub(crate) fn wait_readable(fds: &[BorrowedFd<'_>], timeout_ms: Option<u32>) -> Vec<bool> {
    let mut polled: Vec<PollFd> =
        fds.iter().map(|fd| PollFd { fd: fd.as_fd().as_raw_fd(), events: POLLIN, revents: 0 }).collect();
    let timeout = timeout_ms.map_or(-1, |ms| c_int::try_from(ms).unwrap_or(c_int::MAX));
    // SAFETY: pointer and length are of one live, writable array, and every descriptor is borrowed
    // for the call. On an error (EINTR) no entry is marked, and the caller comes back.
    unsafe { poll(polled.as_mut_ptr(), polled.len() as c_ulong, timeout) };
    polled.iter().map(|entry| entry.revents != 0).collect()
}
