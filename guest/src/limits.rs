//! Limits of the machine that stand above the workload's own.

use std::fs;

use sandpen_guest::protocol::Rlimit;

use crate::log::log;

/// `RLIMIT_NOFILE` of asm-generic/resource.h.
const NOFILE: u32 = 7;

/// Raises what the kernel allows one process (`fs.nr_open`) and all of them together (`fs.file-max`)
/// where a limit of open files needs it. What cannot be raised shows when the limit is set.
pub fn make_room(limits: &[Rlimit]) {
    let Some(wanted) = limits.iter().filter(|limit| limit.resource == NOFILE).map(|limit| limit.hard).max() else {
        return;
    };
    for path in ["/proc/sys/fs/nr_open", "/proc/sys/fs/file-max"] {
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
