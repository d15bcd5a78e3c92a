//! No core dumps: the memory of this program, as a client and as the daemon, holds what users gave their workloads as
//! environment, and a dump would lie in a file or in a crash collector's store for longer than the sandbox.
//!
//! Not through `PR_SET_DUMPABLE`: helpers of the same user open files of the daemon by `/proc/PID/exe` and
//! `/proc/PID/fd`, which belong to root in a process that is not dumpable.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Why there may be one.
#[derive(Debug, thiserror::Error)]
pub enum CoreDumpError {
    /// Nothing limits them.
    #[error("core dumps of this program cannot be limited")]
    Limit(#[source] Errno),
    /// One that is made all the same has memory in it.
    #[error("what a core dump of this program holds cannot be limited")]
    Content(#[source] io::Error),
}

/// For this process and all that it starts. Called before there is anybody to tell: that is for the caller.
///
/// # Errors
/// [`CoreDumpError`], the worst one; all was tried.
pub fn forbid() -> Result<(), CoreDumpError> {
    // A limit of 0 keeps the kernel from writing a file, but not from piping to a program of `core_pattern`; of 1 keeps
    // it from both (core(5), and `coredump_pipe` in the kernel): no dump is as small.
    let forbidden = setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|error| match getrlimit(Resource::RLIMIT_CORE)? {
        // Lower already, and not ours to raise.
        (_, 0) => setrlimit(Resource::RLIMIT_CORE, 0, 0),
        _ => Err(error),
    });
    // And whoever is given one all the same (a socket of `core_pattern`, say) finds no memory in it.
    let emptied = match std::fs::write("/proc/self/coredump_filter", "0") {
        // A kernel that dumps no core has no such file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        emptied => emptied,
    };
    forbidden.map_err(CoreDumpError::Limit)?;
    emptied.map_err(CoreDumpError::Content)
}
