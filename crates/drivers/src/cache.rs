//! The cache of a state directory as drivers use it: copies of kernels, initramfs files, images of roots, templates.
//! One budget holds for all of them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::libc::SIGKILL;
use nix::sys::statvfs::statvfs;
use sandpen_cache::{Cache, CacheUser};
use sandpen_types::reconcile::{Leftover, LeftoverKind};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::Launch;
use sandpen_vmm::pidfd;
use sandpen_vmm::process_identity::ProcessIdentity;
use sandpen_vmm::process_owner::ProcessOwner;

/// The budget of a cache where nobody says another one…
const BUDGET: u64 = 16 << 30;
/// …and its largest share of a small disk: an eighth.
const SMALL_DISK_PART: u64 = 8;
/// How long a killed process may take to end.
const END_LIMIT: Duration = Duration::from_secs(5);

/// The budget of a state directory's cache in bytes where nobody says another one: 16 GiB, or an eighth of a smaller
/// disk. Blocking, for microseconds.
pub fn default_budget(state_dir: &StateDir) -> u64 {
    let disk = statvfs(state_dir.path()).ok();
    let bytes = disk.map(|disk| disk.blocks().saturating_mul(disk.fragment_size()));
    bytes.map_or(BUDGET, |bytes| BUDGET.min(bytes / SMALL_DISK_PART))
}

/// The user of a cache that a sandbox is, from this start on until it has ended for good.
pub(super) fn user(cache: Cache, state_dir: &StateDir, launch: &Launch) -> Arc<CacheUser> {
    Arc::new(CacheUser::new(cache, state_dir.cache_uses(&launch.spec.key, launch.generation)))
}

/// One who only looks.
pub(super) fn nobody(cache: Cache) -> Arc<CacheUser> {
    Arc::new(CacheUser::passing(cache))
}

/// Removes what an earlier daemon left half-made, and ends the programs that were making it; then what is beyond the
/// budget goes.
pub(super) async fn remove_leftovers(cache: Cache) -> Vec<Leftover> {
    // A panic there is told by its thread; what is left is found next time.
    blocking(move || remove(&cache)).await.unwrap_or_default()
}

fn remove(cache: &Cache) -> Vec<Leftover> {
    let mut removed = Vec::new();
    for maker in orphaned_makers(&cache.drafts()) {
        let what = format!("process {}", maker.identity.pid);
        match maker.end() {
            Ok(false) => {}
            ended => removed.push(leftover(LeftoverKind::Process, what, ended.err())),
        }
    }
    let drafts = cache.sweep().into_iter();
    removed.extend(drafts.map(|path| leftover(LeftoverKind::Disk, path.display().to_string(), None)));
    cache.keep_within_budget();
    removed
}

fn leftover(kind: LeftoverKind, what: String, error: Option<io::Error>) -> Leftover {
    Leftover { kind, what, sandbox: None, error: error.map(|error| error.to_string()) }
}

/// A program that writes to a draft, and whose daemon is dead.
struct OrphanedMaker {
    identity: ProcessIdentity,
    drafts: BTreeSet<FileKey>,
}

/// Device and inode.
type FileKey = (u64, u64);

fn key_of(path: &Path) -> Option<FileKey> {
    fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// The processes of ours that have one of these drafts open, and are neither this process nor a child of it.
fn orphaned_makers(drafts: &[PathBuf]) -> Vec<OrphanedMaker> {
    let drafts: BTreeSet<_> = drafts.iter().filter_map(|path| key_of(path)).collect();
    if drafts.is_empty() {
        return Vec::new();
    }
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let makers = pids.filter(|pid| is_orphan(*pid) && has_one_open(*pid, &drafts));
    let identified = makers.filter_map(|pid| ProcessIdentity::of(pid).ok());
    identified.map(|identity| OrphanedMaker { identity, drafts: drafts.clone() }).collect()
}

/// Looks at nothing but drafts, by the names that links of descriptors have: another file may lie where looking takes for
/// ever.
fn has_one_open(pid: u32, drafts: &BTreeSet<FileKey>) -> bool {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let of_drafts = open.filter(|link| fs::read_link(link).is_ok_and(|target| sandpen_cache::is_draft(&target)));
    of_drafts.filter_map(|link| key_of(&link)).any(|key| drafts.contains(&key))
}

/// Whether it is a process of our user's or of a sandbox's, and neither this one nor a child of it.
fn is_orphan(pid: u32) -> bool {
    let ours = std::process::id();
    pid != ours && ProcessOwner::of(pid).is_ok_and(|owner| owner.is_ours() && owner.parent != ours)
}

impl OrphanedMaker {
    /// Kills it. False when it is gone, or another process, already. Blocking.
    fn end(&self) -> io::Result<bool> {
        let Some(pidfd) = pidfd::open(&self.identity)? else { return Ok(false) };
        // In this order: what holds now, with the descriptor open, holds for the descriptor.
        if !has_one_open(self.identity.pid, &self.drafts) || !is_orphan(self.identity.pid) {
            return Ok(false);
        }
        pidfd::send_signal(&pidfd, SIGKILL)?;
        match pidfd::wait_ended(&pidfd, END_LIMIT)? {
            true => Ok(true),
            false => Err(io::Error::new(io::ErrorKind::TimedOut, "it was killed and does not end")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use sandpen_types::spec::{SandboxKey, SandboxName};

    use super::*;

    #[test]
    fn lists_of_users_are_where_the_cache_reads_them() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = StateDir::new(dir.path().to_owned());
        let key = SandboxKey::new(SandboxName::new("web").unwrap());
        let cache = Cache::new(state_dir.cache(), 0);
        let entry = cache.directory().join("entry");
        sandpen_cache::write(&entry, 0o600, b"x").unwrap();
        sandpen_cache::write(&cache.directory().join("newer"), 0o600, b"x").unwrap();
        let list = state_dir.cache_uses(&key, 7);
        let user = CacheUser::new(cache.clone(), list.clone());
        user.uses(&entry).unwrap();
        cache.keep_within_budget();
        assert!(entry.exists());
        fs::remove_file(list).unwrap();
        cache.keep_within_budget();
        assert!(!entry.exists());
        let budget = default_budget(&state_dir);
        assert!(budget > 0 && budget <= BUDGET, "{budget}");
        assert_eq!(default_budget(&StateDir::new("/nowhere".into())), BUDGET);
    }

    /// As a daemon that is killed leaves it: the program that it had started goes on, and has the draft.
    #[test]
    fn an_orphaned_maker_is_ended_and_its_draft_goes_but_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let images = dir.path().join("images");
        fs::create_dir(&images).unwrap();
        let cache = Cache::new(dir.path().to_owned(), u64::MAX);
        let (theirs, ours) = (images.join(".draft-theirs"), images.join(".draft-ours"));
        for draft in [&theirs, &ours] {
            fs::write(draft, "").unwrap();
        }
        // Held as mke2fs holds it: a locked standard input.
        let start = |draft: &Path, script: &str| {
            let held = fs::File::open(draft).unwrap();
            held.lock_shared().unwrap();
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdin(held).stdout(Stdio::piped()).spawn().unwrap()
        };
        // Its parent, which ends, is in the daemon's place.
        let mut daemon = start(&theirs, "exec 3<&0; sleep 1000 <&3 >/dev/null & echo $!");
        let mut child = start(&ours, "exec sleep 1000");
        let mut pid = String::new();
        io::Read::read_to_string(daemon.stdout.as_mut().unwrap(), &mut pid).unwrap();
        daemon.wait().unwrap();
        let pid: u32 = pid.trim().parse().unwrap();
        assert!(has_one_open(pid, &BTreeSet::from([key_of(&theirs).unwrap()])));
        let removed = remove(&cache);
        let told: Vec<_> = removed.iter().map(|left| (left.kind, left.what.clone(), left.error.clone())).collect();
        let process = (LeftoverKind::Process, format!("process {pid}"), None);
        assert_eq!(told, [process, (LeftoverKind::Disk, theirs.display().to_string(), None)]);
        assert!(!theirs.exists() && ours.exists());
        assert!(child.try_wait().unwrap().is_none(), "a child of ours is at work");
        assert!(remove(&cache).is_empty());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(remove(&cache).len(), 1);
    }
}
