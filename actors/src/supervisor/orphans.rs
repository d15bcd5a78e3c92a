//! Processes of this state directory that nothing leads to any more: no row, no runtime directory.
//!
//! Every VMM, waiter and companion carries a word in its command line that says whose it is
//! ([`Launch::tag`](sandpen_vmm::driver::Launch::tag)). A process can give itself any command line, so the
//! word decides nothing alone: only processes of our user ([`ProcessOwner::is_ours`]) are looked at, by root too, and
//! who carries a foreign one only brings about its own end.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::libc::SIGKILL;
use sandpen_types::spec::{ConfigName, SandboxKey, SandboxName};
use sandpen_vmm::pidfd;
use sandpen_vmm::process_identity::ProcessIdentity;
use sandpen_vmm::process_owner::ProcessOwner;

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
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // In this order: what is read of owner and command line is this process's, or the identity fails later.
        let Ok(identity) = ProcessIdentity::of(pid) else { continue };
        if !ProcessOwner::of(pid).is_ok_and(|owner| owner.is_ours()) {
            continue;
        }
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
    doomed.extend(descendants(&orphan.identity)?);
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

/// Those below a process that are ours, as descriptors. A child is taken by what is true of it while its descriptor is
/// open, and while its parent is still the process that was meant: a pid that was used again meets nobody else. What
/// belongs to another user is left alone, with all below it.
fn descendants(of: &ProcessIdentity) -> io::Result<Vec<OwnedFd>> {
    let (mut found, mut seen, mut parents) = (Vec::new(), HashSet::new(), vec![of.clone()]);
    while let Some(parent) = parents.pop() {
        let threads = fs::read_dir(format!("/proc/{}/task", parent.pid)).into_iter().flatten().flatten();
        for children in threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok()) {
            for child in children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()) {
                if seen.len() < TREE_MAX
                    && seen.insert(child)
                    && let Some((child, pidfd)) = child_of(&parent, child)?
                {
                    found.push(pidfd);
                    parents.push(child);
                }
            }
        }
    }
    Ok(found)
}

/// The process of this pid, if it is ours and a child of `parent`.
fn child_of(parent: &ProcessIdentity, pid: u32) -> io::Result<Option<(ProcessIdentity, OwnedFd)>> {
    let Ok(identity) = ProcessIdentity::of(pid) else { return Ok(None) };
    let Some(pidfd) = pidfd::open(&identity)? else { return Ok(None) };
    // In this order, with the descriptor open: whose child it is, then that this parent is still the one.
    let is_child = ProcessOwner::of(pid).is_ok_and(|owner| owner.parent == parent.pid) && parent.holds()?;
    Ok(is_child.then_some((identity, pidfd)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt as _;

    use sandpen_skip::{Reason, skip};

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
        let below = descendants(&found[0].identity).unwrap();
        assert_eq!((found.len(), below.len()), (1, 2));
        assert_eq!((found[0].key.name.as_str(), found[0].generation), ("web", 3));
        assert!(!end(&found[0], "other").unwrap(), "it is not of that state directory");
        assert!(end(&found[0], ours).unwrap());
        assert!(orphan.wait().is_err(), "as its parent we have reaped it");
        assert!(!end(&found[0], ours).unwrap(), "it is gone");
        assert!(below.iter().all(|process| pidfd::has_ended(process).unwrap()));
        assert_eq!(find(ours), []);
    }

    /// A child of ours with a tag in its command line, which runs as this user.
    struct OfUser(std::process::Child);

    impl OfUser {
        fn start(state_id: &str, user: u32) -> Self {
            let mut command = std::process::Command::new("sleep");
            Self(command.arg0(format!("{state_id}/default/web/3")).arg("1000").uid(user).gid(user).spawn().unwrap())
        }
    }

    impl Drop for OfUser {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    #[test]
    fn a_tag_of_another_users_process_is_nothing_to_root() {
        if !nix::unistd::geteuid().is_root() {
            return skip(Reason::NotRoot, "only root can make processes of another user");
        }
        let state_id = &format!("1f2e3d{:x}", std::process::id());
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        let stranger = OfUser::start(state_id, 61_617);
        let sandbox = OfUser::start(state_id, *sandpen_vmm::process_owner::SANDBOX_UIDS.start());
        let found: Vec<_> = find(state_id).into_iter().map(|tagged| tagged.identity.pid).collect();
        assert_eq!(found, [sandbox.0.id()]);
        let told = |child: &OfUser| {
            let key = SandboxKey::new(SandboxName::new("web").unwrap());
            Tagged { key, generation: 3, identity: ProcessIdentity::of(child.0.id()).unwrap() }
        };
        assert!(!end(&told(&stranger), state_id).unwrap(), "named outright, it is still not ours");
        assert!(child_of(&own, stranger.0.id()).unwrap().is_none(), "nor is it as a descendant");
        assert!(child_of(&own, sandbox.0.id()).unwrap().is_some());
        assert!(!pidfd::has_ended(pidfd::of_child(&stranger.0).unwrap()).unwrap());
    }

    #[test]
    fn who_is_not_the_child_any_more_is_left_alone() {
        let state_id = &format!("2f3e4d{:x}", std::process::id());
        let child = OfUser::start(state_id, nix::unistd::geteuid().as_raw());
        let own = ProcessIdentity::of(std::process::id()).unwrap();
        assert!(child_of(&own, child.0.id()).unwrap().is_some());
        let init = ProcessIdentity::of(1).unwrap();
        assert!(child_of(&init, child.0.id()).unwrap().is_none(), "another parent by now");
        let reused = ProcessIdentity { start_time: own.start_time + 1, ..own };
        assert!(child_of(&reused, child.0.id()).unwrap().is_none(), "the parent's pid was used again");
    }
}
