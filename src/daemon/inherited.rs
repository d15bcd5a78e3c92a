//! What a process has of whoever started it, and a daemon must not keep: it lives on for everybody, and they go.
//!
//! | | |
//! | --- | --- |
//! | descriptors | closed, where a client started it: a lock or a pipe of a CI job would be held for ever |
//! | environment | a client passes on what a daemon has a use for, see [`sandpen_client::daemon_environment`] |
//! | directory, session, umask, blocked signals | `/`, its own, 077, none |
//! | soft limits | raised to the hard ones |
//! | hard limits, niceness, the choice of the out-of-memory killer | stay: told by `sandpen doctor`, and at the start |

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Limits that hold for a daemon, and through it for all sandboxes: a stack is as large as ours are made, and core dumps
/// have their own rule.
const LIMITS: [(Resource, &str, &str); 9] = [
    (Resource::RLIMIT_AS, "address space", "-Hv"),
    (Resource::RLIMIT_CPU, "processor time", "-Ht"),
    (Resource::RLIMIT_DATA, "data segment", "-Hd"),
    (Resource::RLIMIT_FSIZE, "file size", "-Hf"),
    (Resource::RLIMIT_MEMLOCK, "locked memory", "-Hl"),
    (Resource::RLIMIT_NOFILE, "open files", "-Hn"),
    (Resource::RLIMIT_NPROC, "processes", "-Hu"),
    (Resource::RLIMIT_RSS, "resident memory", "-Hm"),
    (Resource::RLIMIT_SIGPENDING, "pending signals", "-Hi"),
];

/// Of those, the ones that are infinite where nobody has set one: the others are always numbers.
const UNLIMITED: [Resource; 5] =
    [Resource::RLIMIT_AS, Resource::RLIMIT_CPU, Resource::RLIMIT_DATA, Resource::RLIMIT_FSIZE, Resource::RLIMIT_RSS];
/// Fewer processes than these of one user are too few: QEMU has some ten threads.
const PROCESSES_MIN: u64 = 1000;

/// Raises the soft limits of this process to the hard ones: the usual 1024 open files, for one, are for select(2).
pub(super) fn raise_limits() {
    for (resource, what, _) in LIMITS {
        let raised = getrlimit(resource).and_then(|(soft, hard)| match soft == hard {
            true => Ok(()),
            false => setrlimit(resource, hard, hard),
        });
        if let Err(error) = raised {
            tracing::warn!(%error, "the limit of {what} cannot be raised to the hard one");
        }
    }
}

/// What this process cannot change back, and a daemon would suffer from, for people; each with what to do.
pub fn restrictions() -> Vec<String> {
    let hard = |resource: Resource| getrlimit(resource).map_or(u64::MAX, |(_, hard)| hard);
    let is_low = |resource: Resource| match resource {
        Resource::RLIMIT_NPROC => hard(resource) < PROCESSES_MIN,
        other => UNLIMITED.contains(&other) && hard(other) != u64::MAX,
    };
    let limits = LIMITS.into_iter().filter(|(resource, ..)| is_low(*resource));
    let limits =
        limits.map(|(resource, what, option)| format!("{what} is limited to {} (ulimit {option})", hard(resource)));
    limits.chain(niceness(&read("/proc/self/stat"))).chain(oom_score(&read("/proc/self/oom_score_adj"))).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// Of `/proc/PID/stat`: the 19th field, the 17th behind the name, which ends with the last parenthesis.
fn niceness(stat: &str) -> Option<String> {
    let nice: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(16)?.parse().ok()?;
    (nice > 0).then(|| format!("it would be nice {nice} (nice, renice)"))
}

fn oom_score(adjustment: &str) -> Option<String> {
    let adjustment: i32 = adjustment.trim().parse().ok()?;
    (adjustment > 0).then(|| format!("it would be ended first when memory runs out (oom_score_adj {adjustment})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_slows_or_endangers_a_daemon_is_told_and_nothing_else() {
        let stat = |nice: i32| format!("7 (a ) b) S 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 {nice} 1 0 5");
        assert_eq!(niceness(&stat(0)), None);
        assert_eq!(niceness(&stat(-5)), None);
        assert!(niceness(&stat(19)).unwrap().contains("nice 19"));
        assert_eq!((niceness(""), niceness("7 (x) S 1")), (None, None));
        assert_eq!((oom_score("0\n"), oom_score("-1000\n"), oom_score("")), (None, None, None));
        assert!(oom_score("500\n").unwrap().contains("500"));
    }
}
