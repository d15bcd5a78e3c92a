//! No core dumps: the memory of this program, as a client and as the daemon, holds what users gave their workloads as
//! environment, and a dump would lie in a file or in a crash collector's store for longer than the sandbox.
//!
//! Not through `PR_SET_DUMPABLE`: helpers of the same user open files of the daemon by `/proc/PID/exe` and
//! `/proc/PID/fd`, which belong to root in a process that is not dumpable.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// For this process and all that it starts.
pub fn forbid() {
    // A limit of 0 keeps the kernel from writing a file, but not from piping to a program of `core_pattern`; of 1 keeps
    // it from both (core(5), and `coredump_pipe` in the kernel): no dump is as small.
    let forbidden = setrlimit(Resource::RLIMIT_CORE, 1, 1).or_else(|error| match getrlimit(Resource::RLIMIT_CORE)? {
        // Lower already, and not ours to raise.
        (_, 0) => setrlimit(Resource::RLIMIT_CORE, 0, 0),
        _ => Err(error),
    });
    if let Err(error) = forbidden {
        tracing::warn!(%error, "core dumps of this program cannot be limited");
    }
    // And whoever is given one all the same (a socket of `core_pattern`, say) finds no memory in it.
    if let Err(error) = std::fs::write("/proc/self/coredump_filter", "0") {
        tracing::debug!(%error, "what a core dump of this program holds cannot be limited");
    }
}
