//! Makes, signals and reaps processes.
#![allow(unsafe_code)] // fork and what must happen between it and execve; wait statuses and signals that nix cannot name

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::unistd::{ForkResult, Pid, fork, pipe2};
use sandpen_guest::protocol::{Rlimit, WorkloadEnd};

use self::verdict::{VERDICT_LIMIT, Verdict, read_verdict};
use crate::users::User;

#[cfg(test)]
mod tests;
mod verdict;

/// Everything for one `execve`, ready before the fork.
#[derive(Debug)]
pub struct Program {
    /// Paths to try in order, as `execvp` does.
    pub candidates: Vec<CString>,
    /// Arguments, the program's name first.
    pub args: Vec<CString>,
    /// `NAME=VALUE` each.
    pub env: Vec<CString>,
    /// Working directory.
    pub workdir: CString,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub controls_terminal: bool,
    /// Limits of the process.
    pub rlimits: Vec<Rlimit>,
    /// Whom it runs as; `None` for root.
    pub user: Option<User>,
}

/// Where a child failed before it became the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// New session and standard streams.
    Setup,
    /// Changing into the working directory.
    Workdir,
    /// Executing; every candidate was tried.
    Exec,
    /// Setting its limits.
    Limits,
    /// Becoming its user.
    User,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// No child could be made.
    #[error("making a process")]
    Fork(#[source] io::Error),
    /// The child waits for something that does not come.
    #[error(
        "it did not begin within {} s: its working directory, or the file of its program, cannot be reached",
        VERDICT_LIMIT.as_secs()
    )]
    Stuck,
    /// The child could not become the program.
    #[error("{step:?}: {errno}")]
    Child {
        /// Where.
        step: Step,
        /// Why.
        errno: Errno,
        /// Which of the limits, at [`Step::Limits`].
        limit: u8,
    },
}

/// Runs `program` in a session of its own with these standard streams and nothing else open. Gives
/// the process after it was executed.
pub fn spawn(program: &Program, stdio: [BorrowedFd<'_>; 3]) -> Result<Pid, SpawnError> {
    let pointers = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let args = pointers(&program.args);
    let env = pointers(&program.env);
    let stdio = stdio.map(|fd| fd.as_raw_fd());
    in_child(|| become_program(program, &args, &env, stdio))
}

/// What PID 1 does in a process of its own, without executing anything.
pub struct Own<'a> {
    /// Whom it runs as; `None` for root.
    pub user: Option<&'a User>,
    /// Whether standard input is a terminal that becomes the controlling one.
    pub controls_terminal: bool,
    /// Done first, as root.
    pub prepare: fn(),
    /// Stays open, for `run`.
    pub keep: Option<BorrowedFd<'a>>,
    /// All else; gives the exit code.
    pub run: Box<dyn FnOnce(Option<OwnedFd>) -> u8 + 'a>,
}

/// Runs a piece of this program as [`spawn`] runs another one. Gives the process after it was prepared.
pub fn spawn_own(own: Own<'_>, stdio: [BorrowedFd<'_>; 3]) -> Result<Pid, SpawnError> {
    let stdio = stdio.map(|fd| fd.as_raw_fd());
    in_child(|| run_own(own, stdio))
}

/// What stands for a workload that is none: it waits until a signal ends it, and SIGTERM ends it with code 0.
pub fn idle(user: Option<&User>, controls_terminal: bool) -> Own<'_> {
    extern "C" fn end(_: libc::c_int) {
        // SAFETY: async-signal-safe; ends the process.
        unsafe { libc::_exit(0) }
    }
    fn prepare() {
        // The kernel shows arguments from memory alone, not from a program's file.
        let name = Vec::leak(c"sandpen-idle".to_bytes_with_nul().to_vec()).as_ptr_range();
        // SAFETY: a handler that is async-signal-safe, and a name that is alive for ever. The kernel is told where the process's
        // arguments lie, for `ps`; that it refuses (or half of it) harms nobody.
        unsafe {
            libc::signal(libc::SIGTERM, end as extern "C" fn(libc::c_int) as libc::sighandler_t);
            libc::prctl(libc::PR_SET_NAME, name.start);
            for (field, place) in [(libc::PR_SET_MM_ARG_START, name.start), (libc::PR_SET_MM_ARG_END, name.end)] {
                libc::prctl(libc::PR_SET_MM, field, place, 0, 0);
            }
        }
    }
    fn run(_: Option<OwnedFd>) -> u8 {
        loop {
            // SAFETY: no memory involved.
            unsafe { libc::pause() };
        }
    }
    Own { user, controls_terminal, prepare, keep: None, run: Box::new(run) }
}

/// Makes a child, whose `work` comes back only with a failure, and waits until all that it tells its verdict on is closed.
fn in_child(work: impl FnOnce() -> (Step, Errno, u8)) -> Result<Pid, SpawnError> {
    let (verdict, child_verdict) = pipe2(OFlag::O_CLOEXEC).map_err(|errno| SpawnError::Fork(errno.into()))?;
    // SAFETY: PID 1 has one thread, so no lock is held and the child may do what it likes. (A child that executes a program
    // only makes async-signal-safe calls until then: all else was allocated before.) It never returns from here.
    match unsafe { fork() }.map_err(|errno| SpawnError::Fork(errno.into()))? {
        ForkResult::Child => {
            tell_verdict(child_verdict.as_raw_fd(), work());
            // SAFETY: ends the process without running anything of the parent's.
            unsafe { libc::_exit(127) }
        }
        ForkResult::Parent { child } => {
            drop(child_verdict);
            match read_verdict(verdict) {
                Verdict::Runs => Ok(child),
                Verdict::Stuck => {
                    // It is reaped like any other child, when what it waits for lets it go.
                    let _ = signal(child, libc::SIGKILL);
                    Err(SpawnError::Stuck)
                }
                Verdict::Failed(step, errno, limit) => {
                    // SAFETY: our own child, not yet reaped; no status wanted.
                    unsafe { libc::waitpid(child.as_raw(), ptr::null_mut(), 0) };
                    Err(SpawnError::Child { step, errno, limit })
                }
            }
        }
    }
}

/// In the child. Comes back only with a failure.
fn run_own(own: Own<'_>, stdio: [RawFd; 3]) -> (Step, Errno, u8) {
    // PID 1's own hook ends the machine.
    std::panic::set_hook(Box::new(|_| {
        // SAFETY: ends the process.
        unsafe { libc::_exit(101) }
    }));
    if let Err(errno) = set_up_child(stdio, own.controls_terminal) {
        return (Step::Setup, errno, 0);
    }
    (own.prepare)();
    if let Some(user) = own.user
        && let Err(errno) = become_user(user)
    {
        return (Step::User, errno, 0);
    }
    // SAFETY: what PID 1 has open is closed here for good, and no owner of it is ever used or dropped in this process. With
    // it goes the pipe of the verdict, which says that all is well. What is kept is a new descriptor, which has no other owner.
    let kept = unsafe {
        let kept = match own.keep.map(|keep| libc::dup2(keep.as_raw_fd(), 3)) {
            Some(-1) => return (Step::Setup, Errno::last(), 0),
            Some(fd) => Some(fd),
            None => None,
        };
        let first = if kept.is_some() { 4_u32 } else { 3 };
        if libc::syscall(libc::SYS_close_range, first, u32::MAX, 0_u32) != 0 {
            for fd in first..1024 {
                libc::close(fd.cast_signed());
            }
        }
        kept.map(|fd| OwnedFd::from_raw_fd(fd))
    };
    let code = (own.run)(kept);
    // SAFETY: ends the process without running anything of PID 1's.
    unsafe { libc::_exit(i32::from(code)) }
}

/// In the child. Comes back only with a failure.
fn become_program(
    program: &Program,
    args: &[*const libc::c_char],
    env: &[*const libc::c_char],
    stdio: [RawFd; 3],
) -> (Step, Errno, u8) {
    if let Err(errno) = set_up_child(stdio, program.controls_terminal) {
        return (Step::Setup, errno, 0);
    }
    if let Err(errno) = change_dir(&program.workdir) {
        return (Step::Workdir, errno, 0);
    }
    // Last: a limit may be too tight for anything but the program.
    for (number, limit) in (0..).zip(&program.rlimits) {
        if let Err(errno) = set_limit(*limit) {
            return (Step::Limits, errno, number);
        }
    }
    if let Some(user) = &program.user
        && let Err(errno) = become_user(user)
    {
        return (Step::User, errno, 0);
    }
    let mut result = Errno::ENOENT;
    for candidate in &program.candidates {
        // SAFETY: a NUL-terminated path and two NULL-terminated arrays of NUL-terminated strings, all
        // alive; it comes back only when it failed.
        unsafe { libc::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr()) };
        match Errno::last() {
            // As execvp: go on, but remember that there was one that may not be executed.
            Errno::EACCES => result = Errno::EACCES,
            Errno::ENOENT | Errno::ENOTDIR | Errno::ENODEV | Errno::ESTALE | Errno::ETIMEDOUT => {}
            errno => return (Step::Exec, errno, 0),
        }
    }
    (Step::Exec, result, 0)
}

fn set_up_child(stdio: [RawFd; 3], controls_terminal: bool) -> Result<(), Errno> {
    // SAFETY: plain system calls on our own process; `empty` is a valid signal set.
    unsafe {
        Errno::result(libc::setsid())?;
        for (target, fd) in (0..).zip(stdio) {
            // The parent's descriptors are above 2 (Rust's runtime sees to it), so none is
            // overwritten before its turn and close-on-exec is always cleared.
            Errno::result(libc::dup2(fd, target))?;
        }
        if controls_terminal {
            Errno::result(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        // All of ours are close-on-exec; this also holds for one that somebody forgot. Kernels
        // before 5.11 do not know it.
        libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC);
        for signal in 1..=libc::SIGRTMAX() {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut empty = std::mem::zeroed();
        libc::sigemptyset(&raw mut empty);
        Errno::result(libc::sigprocmask(libc::SIG_SETMASK, &raw const empty, ptr::null_mut()))?;
        libc::umask(0o022);
    }
    Ok(())
}

fn set_limit(limit: Rlimit) -> Result<(), Errno> {
    let value = [limit.soft, limit.hard];
    let none = ptr::null_mut::<u64>();
    // SAFETY: 0 is this process; `value` is laid out as the kernel's rlimit64 (two u64) and alive. The
    // C library's wrapper would want its own type for the number.
    Errno::result(unsafe { libc::syscall(libc::SYS_prlimit64, 0, limit.resource, value.as_ptr(), none) }).map(drop)
}

/// For good: real, effective and saved.
fn become_user(user: &User) -> Result<(), Errno> {
    let User { uid, gid, groups, .. } = user;
    // SAFETY: plain system calls on our own process, which has one thread; `groups` is alive and as long as it says.
    unsafe {
        Errno::result(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        Errno::result(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid)).map(drop)
    }
}

fn change_dir(path: &CStr) -> Result<(), Errno> {
    // SAFETY: a NUL-terminated path.
    Errno::result(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

fn tell_verdict(fd: RawFd, (step, errno, limit): (Step, Errno, u8)) {
    let [a, b, c, d] = (errno as i32).to_ne_bytes();
    let verdict = [step as u8, limit, a, b, c, d];
    // SAFETY: `verdict` is alive and 6 bytes long. A failure cannot be told to anybody.
    unsafe { libc::write(fd, verdict.as_ptr().cast(), verdict.len()) };
}

/// Reaps one ended child; `None` when there is none now.
pub fn reap() -> Option<(Pid, WorkloadEnd)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` is alive; nix's wrapper fails on real-time signals after reaping.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return None;
        }
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        if libc::WIFEXITED(status) {
            return Some((Pid::from_raw(pid), WorkloadEnd::Code(small(libc::WEXITSTATUS(status)))));
        }
        if libc::WIFSIGNALED(status) {
            return Some((Pid::from_raw(pid), WorkloadEnd::Signal(small(libc::WTERMSIG(status)))));
        }
    }
}

/// Sends a signal to a process that must not be reaped yet. To it alone: how it treats its children
/// is its business, as it is for a service manager's main process.
pub fn signal(process: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory involved. nix's wrapper does not know real-time signals.
    Errno::result(unsafe { libc::kill(process.as_raw(), signal) }).map(drop)
}

/// Sends a signal to the process group of `leader`, which must not be reaped yet.
pub fn signal_group(leader: Pid, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory involved. nix's wrapper does not know real-time signals.
    Errno::result(unsafe { libc::kill(-leader.as_raw(), signal) }).map(drop)
}

/// Kills the process group of `leader`, which must not be reaped before its last process has ended, or
/// must have left nobody else who could have its number.
pub fn kill_group(leader: Pid) {
    // A number that is nobody's is no harm.
    let _ = signal_group(leader, libc::SIGKILL);
}

/// Kills every process of the machine but PID 1; outside of a machine (in tests), only the process
/// group of `leader`.
pub fn kill_all(leader: Pid) {
    let target = if std::process::id() == 1 { -1 } else { -leader.as_raw() };
    // SAFETY: no memory involved; -1 is only used by PID 1, which the kernel leaves out.
    unsafe { libc::kill(target, libc::SIGKILL) };
}
