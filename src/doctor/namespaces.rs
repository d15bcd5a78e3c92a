//! Whether an ordinary user may make the namespaces that a root directory is shared from. It is
//! tried, in a child: what forbids them (sysctl, AppArmor, a container's seccomp filter) says so
//! nowhere else.
#![allow(unsafe_code)] // work between fork and exec has no safe wrapper

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// What the child says when all went well: no step of ours fails with it.
const WORKED: Errno = Errno::EXFULL;

/// Makes the namespaces in a child that never becomes a program.
///
/// # Errors
/// Why they cannot be made.
pub(super) fn try_out() -> io::Result<()> {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: the closure makes system calls only and allocates nothing, so it may run between fork
    // and exec of a process with other threads.
    unsafe { command.pre_exec(|| Err(attempt().err().unwrap_or(WORKED).into())) };
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(WORKED as i32) => Ok(()),
        Err(error) => Err(error),
        // Not reached: the closure always fails, so nothing is executed.
        Ok(mut child) => child.wait().map(drop),
    }
}

/// The steps of virtiofsd that are forbidden somewhere. Some hosts allow the first and leave the
/// namespace without rights, which shows at the second.
fn attempt() -> Result<(), Errno> {
    const NOTHING: Option<&str> = None;
    let namespaces =
        CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID | CloneFlags::CLONE_NEWNET;
    unshare(namespaces)?;
    mount(NOTHING, c"/", NOTHING, MsFlags::MS_SLAVE | MsFlags::MS_REC, NOTHING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_leaves_this_process_where_it_is() {
        let namespace = || std::fs::read_link("/proc/self/ns/user").unwrap();
        let before = namespace();
        // Either answer is right: it depends on the host.
        let _ = try_out();
        assert_eq!(namespace(), before);
    }
}
