//! Limits of the machine that stand above the workload's own.

use std::fs;

use nix::sys::resource::{Resource, setrlimit};
use sandpen_guest::protocol::Rlimit;

use crate::log::log;

/// `RLIMIT_NOFILE` of asm-generic/resource.h.
const NOFILE: u32 = 7;

/// How many files a process of the workload's may have open at first, and up to where it may raise that: what systemd and
/// container engines give, where the kernel's own 1024 and 4096 are too few for package managers and servers.
const OPEN_FILES: (u64, u64) = (65_536, 1 << 20);
/// How many files the kernel allows one process, and all of them.
const ALLOWED: [&str; 2] = ["/proc/sys/fs/nr_open", "/proc/sys/fs/file-max"];

/// Gives this process, and so the workload's, that limit. One that is asked for is set later.
pub fn raise_open_files() {
    allow(OPEN_FILES.1);
    if let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, OPEN_FILES.0, OPEN_FILES.1) {
        log!("raising the limit of open files: {error}");
    }
}

/// Raises what the kernel allows one process (`fs.nr_open`) and all of them together (`fs.file-max`)
/// where a limit of open files needs it. What cannot be raised shows when the limit is set.
pub fn make_room(limits: &[Rlimit]) {
    let Some(wanted) = limits.iter().filter(|limit| limit.resource == NOFILE).map(|limit| limit.hard).max() else {
        return;
    };
    allow(wanted);
}

fn allow(wanted: u64) {
    for path in ALLOWED {
        let allowed = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
        // The kernel wants whole words of its bit maps.
        let raised = wanted.next_multiple_of(64);
        if allowed.is_some_and(|allowed| allowed < wanted)
            && let Err(error) = fs::write(path, raised.to_string())
        {
            log!("raising {path} to {raised}: {error}");
        }
    }
}
