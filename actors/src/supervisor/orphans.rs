//! Processes of this state directory that nothing leads to any more: no row, no runtime directory.
//!
//! Every VMM, waiter and companion carries a word in its command line that says whose it is
//! ([`Launch::tag`](sandpen_vmm::driver::Launch::tag)). A process can give itself any command line, so the
//! word alone decides nothing about others: who carries a foreign one only brings about its own end.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use nix::libc::SIGKILL;
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};
use sandpen_vmm::pidfd;
use sandpen_vmm::process_identity::ProcessIdentity;

/// How long a killed process may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);
/// A bound for a process tree that grows while it is looked at.
const TREE_MAX: usize = 10_000;

/// A process that carries the tag of a start of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tagged {
    pub(super) key: SandboxKey,
    pub(super) generation: u64,
    pub(super) identity: ProcessIdentity,
}

/// The processes of our user that carry tags of this state directory. Blocking.
pub(super) fn find(state_id: &str) -> Vec<Tagged> {
    let user = nix::unistd::geteuid().as_raw();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if !entry.metadata().is_ok_and(|meta| meta.uid() == user || user == 0) {
            continue;
        }
        // In this order: what is read of the command line is this process's, or the identity fails later.
        let Ok(identity) = ProcessIdentity::of(pid) else { continue };
        if let Some((key, generation)) = read_tag(pid, state_id) {
            found.push(Tagged { key, generation, identity });
        }
    }
    found
}

fn read_tag(pid: u32, state_id: &str) -> Option<(SandboxKey, u64)> {
    let command_line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    // The tag stands early; the rest may be a workload's.
    command_line.split(|byte| *byte == 0).take(8).find_map(|word| parse_tag(word, state_id))
}

/// `STATE-ID/CONFIG/NAME/GENERATION`; QEMU shows it behind `sandpen/`.
fn parse_tag(word: &[u8], state_id: &str) -> Option<(SandboxKey, u64)> {
    let word = std::str::from_utf8(word).ok()?;
    let word = word.strip_prefix("sandpen/").unwrap_or(word);
    let mut parts = word.strip_prefix(state_id)?.strip_prefix('/')?.split('/');
    let config = ConfigName::new(parts.next()?).ok()?;
    let name = SandboxName::new(parts.next()?).ok()?;
    let generation = parts.next()?.parse().ok()?;
    parts.next().is_none().then_some((SandboxKey { config, name }, generation))
}

/// Ends the process with everything below it. False when it is gone, or another one, already.
/// Blocking.
///
/// # Errors
/// It could not be signalled, or did not end.
pub(super) fn end(orphan: &Tagged, state_id: &str) -> io::Result<bool> {
    let Some(pidfd) = pidfd::open(&orphan.identity)? else { return Ok(false) };
    if pidfd::has_ended(&pidfd)? || read_tag(orphan.identity.pid, state_id).is_none() {
        return Ok(false);
    }
    let mut doomed = vec![pidfd];
    for descendant in descendants(orphan.identity.pid) {
        doomed.extend(pidfd::open(&descendant)?);
    }
    for process in &doomed {
        pidfd::send_signal(process, SIGKILL)?;
    }
    for process in &doomed {
        if !pidfd::wait_ended(process, END_LIMIT)? {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it was killed and does not end"));
        }
        pidfd::reap(process)?;
    }
    Ok(true)
}

fn descendants(pid: u32) -> Vec<ProcessIdentity> {
    let (mut found, mut seen, mut parents) = (Vec::new(), HashSet::new(), vec![pid]);
    while let Some(parent) = parents.pop() {
        let threads = fs::read_dir(format!("/proc/{parent}/task")).into_iter().flatten().flatten();
        for children in threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()) {
            for child in children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()) {
                if seen.len() < TREE_MAX && seen.insert(child) {
                    found.extend(ProcessIdentity::of(child));
                    parents.push(child);
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_tags_of_this_state_directory_count() {
        let tag = |word: &str| parse_tag(word.as_bytes(), "4f1c");
        let key = |config: &str, name: &str| SandboxKey {
            config: ConfigName::new(config).unwrap(),
            name: SandboxName::new(name).unwrap(),
        };
        assert_eq!(tag("4f1c/default/web/3"), Some((key("default", "web"), 3)));
        assert_eq!(tag("sandpen/4f1c/shop/db/1"), Some((key("shop", "db"), 1)));
        for foreign in [
            "4f1c/default/web",
            "4f1c/default/web/3/4",
            "4f1c/default/web/x",
            "4f1c/default/../3",
            "4f1cc/default/web/3",
            "/4f1c/default/web/3",
            "4f1c//web/3",
            "",
        ] {
            assert_eq!(tag(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_orphan_is_ended_with_what_is_below_it() {
        // Another run of this test may be under way.
        let ours = &format!("0f1e2d{:x}", std::process::id());
        let mut orphan = std::process::Command::new("sh")
            .args(["-c", "sleep 1000 & sleep 1000 & echo; wait", &format!("{ours}/default/web/3")])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        std::io::Read::read_exact(orphan.stdout.as_mut().unwrap(), &mut line).unwrap();
        // What it has forked carries its command line until it is executed.
        let begun = std::time::Instant::now();
        let found = loop {
            let found = find(ours);
            if found.len() == 1 || begun.elapsed() > std::time::Duration::from_secs(20) {
                break found;
            }
            std::thread::yield_now();
        };
        let below = descendants(orphan.id());
        assert_eq!((found.len(), below.len()), (1, 2));
        assert_eq!((found[0].key.name.as_str(), found[0].generation), ("web", 3));
        assert!(!end(&found[0], "other").unwrap(), "it is not of that state directory");
        assert!(end(&found[0], ours).unwrap());
        assert!(orphan.wait().is_err(), "as its parent we have reaped it");
        assert!(!end(&found[0], ours).unwrap(), "it is gone");
        for process in below {
            let alive = pidfd::open(&process).unwrap().filter(|pidfd| !pidfd::has_ended(pidfd).unwrap());
            assert!(alive.is_none());
        }
        assert_eq!(find(ours), []);
    }
}
