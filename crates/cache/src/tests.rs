//! Makers that die at each step, makers of the same entry, and what goes.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::*;

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn what_nobody_holds_goes() {
    let dir = tempfile::tempdir().unwrap();
    let held = Draft::create(dir.path()).unwrap();
    fs::write(dir.path().join(".draft-abandoned"), "").unwrap();
    fs::write(dir.path().join("other"), "").unwrap();
    // As a program has it that was given one.
    let copied = Draft::create(dir.path()).unwrap();
    let copy = copied.file().try_clone().unwrap();
    let copied_to = copied.path().to_owned();
    // Its maker dies, and does not remove it.
    std::mem::forget(copied);
    sweep(dir.path());
    assert!(held.path().exists() && copied_to.exists() && dir.path().join("other").exists());
    assert!(!dir.path().join(".draft-abandoned").exists());
    drop(copy);
    drop(held);
    assert_eq!(names(dir.path()).len(), 2, "a draft that is dropped is gone");
}

#[test]
fn what_nobody_uses_and_nobody_wants_goes() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), u64::MAX);
    for name in ["used", "wanted", "unused", "kind/used", "kind/unused"] {
        write(&dir.path().join(name), 0o600, &[b'x'; 5000]).unwrap();
    }
    let held = Draft::create(dir.path()).unwrap();
    fs::write(dir.path().join("kind/.draft-abandoned"), "x").unwrap();
    let user = CacheUser::new(cache.clone(), dir.path().join("uses/default/a.1"));
    for name in ["used", "kind/used"] {
        user.uses(&dir.path().join(name)).unwrap();
    }
    let used: Vec<_> = cache.kept().into_iter().filter(|kept| kept.is_used).map(|kept| kept.path).collect();
    assert_eq!(used.len(), 3, "{used:?}");
    let removed = cache.remove_unused(|path| path.ends_with("wanted"));
    let mut gone: Vec<_> = removed.iter().map(|removed| removed.kept.path.strip_prefix(dir.path()).unwrap()).collect();
    gone.sort();
    assert_eq!(gone, ["kind/.draft-abandoned", "kind/unused", "unused"].map(Path::new));
    assert!(removed.iter().all(|removed| removed.error.is_none()));
    assert!(held.path().exists());
    assert_eq!(names(&dir.path().join("kind")), ["used"]);
    assert!(cache.remove_unused(|path| path.ends_with("wanted")).is_empty());
}

/// Whoever looks for an entry after he has said that he uses it finds it for as long as he does, or finds it gone at
/// once.
#[test]
fn what_is_taken_into_use_at_the_same_moment_stays_or_is_gone_before() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), u64::MAX);
    let entry = dir.path().join("entry");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let remover = scope.spawn(|| {
            let mut removed = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                removed += cache.remove_unused(|_| false).len();
            }
            removed
        });
        let mut found = 0;
        for i in 0..500 {
            write(&entry, 0o600, b"x").unwrap();
            let list = dir.path().join(format!("uses/default/a.{i}"));
            CacheUser::new(cache.clone(), list.clone()).uses(&entry).unwrap();
            if entry.exists() {
                found += 1;
                for _ in 0..20 {
                    assert!(entry.exists(), "it went while it was in use");
                    std::thread::yield_now();
                }
            }
            fs::remove_file(list).unwrap();
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(remover.join().unwrap() + found > 0);
    });
}

#[test]
fn an_entry_is_whole_or_what_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a/b/entry");
    write(&path, 0o640, b"one").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&path.metadata().unwrap().permissions()) & 0o777, 0o640);
    let draft = Draft::create(path.parent().unwrap()).unwrap();
    draft.file().write_all(b"tw").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"one");
    drop(draft);
    write(&path, 0o640, b"two").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(names(path.parent().unwrap()), ["entry"]);
    // A directory in its place.
    fs::create_dir_all(dir.path().join("taken/inside")).unwrap();
    assert!(write(&dir.path().join("taken"), 0o600, b"x").is_err());
    assert_eq!(names(dir.path()), ["a", "taken"], "no draft is left");
}

#[test]
fn a_committed_program_can_be_executed_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("program");
    write(&path, 0o700, &fs::read("/bin/true").unwrap()).unwrap();
    let is_open = |entry: fs::DirEntry| fs::read_link(entry.path()).is_ok_and(|target| target == path);
    assert!(!fs::read_dir("/proc/self/fd").unwrap().any(|entry| is_open(entry.unwrap())));
    // A process that another thread has just started may have it open until its exec.
    let started = (0..1000).find_map(|_| match Command::new(&path).status() {
        Err(error) if error.kind() == io::ErrorKind::ExecutableFileBusy => {
            std::thread::yield_now();
            None
        }
        started => Some(started),
    });
    assert!(started.unwrap().unwrap().success());
}

const MAKER: &str = "SANDPEN_TEST_CACHE_MAKER";

/// Not a test by itself: the maker that is killed at a step.
#[test]
#[ignore = "run by a_maker_that_is_killed_leaves_nothing_that_stays as a process of its own"]
fn maker_to_be_killed() {
    let directory = PathBuf::from(std::env::var_os(MAKER).unwrap());
    let (step, directory) = (directory.extension().unwrap().to_owned(), directory.with_extension(""));
    let draft = Draft::create(&directory).unwrap();
    if step != "made" {
        draft.file().write_all(b"half").unwrap();
    }
    if step == "synced" {
        draft.file().sync_all().unwrap();
    }
    if step == "renamed" {
        draft.commit(&directory.join("entry")).unwrap();
    }
    std::process::abort();
}

#[test]
fn a_maker_that_is_killed_leaves_nothing_that_stays() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("cache");
    for step in ["made", "written", "synced", "renamed"] {
        fs::create_dir(&place).unwrap();
        let mut maker = Command::new(std::env::current_exe().unwrap());
        maker.args(["--ignored", "--exact", "tests::maker_to_be_killed"]).env(MAKER, place.with_extension(step));
        let killed = maker.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(!killed.success());
        let left = names(&place);
        assert_eq!(left.len(), 1, "{step}: {left:?}");
        assert_eq!(left[0] == "entry", step == "renamed", "{left:?}");
        write(&place.join("entry"), 0o600, b"whole").unwrap();
        assert_eq!(names(&place), ["entry"], "{step}");
        assert_eq!(fs::read(place.join("entry")).unwrap(), b"whole");
        fs::remove_dir_all(&place).unwrap();
    }
}

#[test]
fn makers_of_one_entry_leave_one_whole_entry() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cache/entry");
    std::thread::scope(|scope| {
        for maker in 0..8_u8 {
            let path = &path;
            scope.spawn(move || {
                for _ in 0..20 {
                    write(path, 0o600, &vec![maker; 100_000]).unwrap();
                    let read = fs::read(path).unwrap();
                    assert!(read.len() == 100_000 && read.iter().all(|byte| *byte == read[0]));
                }
            });
        }
    });
    assert_eq!(names(path.parent().unwrap()), ["entry"]);
}

/// An entry of so many KiB, used so many seconds ago.
fn entry(path: &Path, kib: usize, age: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, vec![1; kib << 10]).unwrap();
    let used = SystemTime::now() - Duration::from_secs(age);
    File::options().write(true).open(path).unwrap().set_modified(used).unwrap();
}

/// What is left in a cache with such a budget, by name.
fn left(directory: &Path, kib: u64) -> Vec<String> {
    Cache::new(directory.to_owned(), kib << 10).keep_within_budget();
    let kinds = ["", "images", "templates"].map(|kind| directory.join(kind));
    let mut left: Vec<_> = kinds.iter().filter(|kind| kind.is_dir()).flat_map(|kind| names(kind)).collect();
    left.retain(|name| name.contains("entry") || name.contains("draft"));
    left.sort();
    left
}

#[test]
fn all_kinds_share_one_budget_and_what_was_not_used_for_longest_goes() {
    let dir = tempfile::tempdir().unwrap();
    for (name, age) in [("entry-1", 50), ("images/entry-2", 40), ("templates/entry-3", 30), ("entry-4", 20)] {
        entry(&dir.path().join(name), 64, age);
    }
    entry(&dir.path().join("building/machine/entry-of-others"), 64, 1000);
    entry(&dir.path().join("images/.draft-x"), 64, 1000);
    std::os::unix::fs::symlink("nowhere", dir.path().join("link-entry")).unwrap();
    let rest = [".draft-x", "link-entry"].map(str::to_owned);
    let all = |entries: &[u32]| {
        let mut all: Vec<_> = entries.iter().map(|number| format!("entry-{number}")).chain(rest.clone()).collect();
        all.sort();
        all
    };
    assert_eq!(left(dir.path(), 256), all(&[1, 2, 3, 4]));
    mark_used(&dir.path().join("entry-1"));
    assert_eq!(left(dir.path(), 200), all(&[1, 3, 4]));
    // Of more bytes than the budget has: mostly a hole, which counts nothing.
    entry(&dir.path().join("images/entry-5"), 1, 10);
    File::options().write(true).open(dir.path().join("images/entry-5")).unwrap().set_len(1 << 40).unwrap();
    assert_eq!(left(dir.path(), 140), all(&[1, 4, 5]));
    assert_eq!(left(dir.path(), 0), all(&[5]), "what was used last stays");
    assert!(dir.path().join("building/machine/entry-of-others").exists());
    assert!(left(&dir.path().join("nothing"), 0).is_empty());
    mark_used(&dir.path().join("nothing"));
}

#[test]
fn what_somebody_uses_stays_until_he_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), 0);
    let list = dir.path().join("uses/default/web");
    for (name, age) in [("entry-1", 50), ("images/entry-2", 40), ("entry-3", 30), ("entry-4", 20)] {
        entry(&dir.path().join(name), 64, age);
    }
    let user = CacheUser::new(cache.clone(), list.clone());
    for name in ["entry-1", "images/entry-2", "images/entry-2", "to-be-made"] {
        user.uses(&dir.path().join(name)).unwrap();
    }
    user.uses(Path::new("/elsewhere")).unwrap();
    assert_eq!(fs::read_to_string(&list).unwrap(), "entry-1\nimages/entry-2\nto-be-made\n");
    // Used ones count: there is no room for entry-3 beside them.
    assert_eq!(left(dir.path(), 200), ["entry-1", "entry-2", "entry-4"]);
    // Another one, who stays beside him.
    let next = CacheUser::new(cache.clone(), dir.path().join("uses/default/next"));
    next.uses(&dir.path().join("images/entry-2")).unwrap();
    assert_eq!(left(dir.path(), 0), ["entry-1", "entry-2", "entry-4"]);
    fs::remove_file(&list).unwrap();
    assert_eq!(left(dir.path(), 0), ["entry-2", "entry-4"]);
    // Somebody who is not remembered.
    CacheUser::passing(cache).uses(&dir.path().join("entry-2")).unwrap();
    fs::remove_file(dir.path().join("uses/default/next")).unwrap();
    assert_eq!(left(dir.path(), 0), ["entry-4"]);
    assert_eq!(names(list.parent().unwrap()), [""; 0]);
    // Lists that say anything at all.
    for junk in [&b"../../etc/passwd\n/etc\n\n\0\n"[..], b"\xff\xfe"] {
        fs::write(&list, junk).unwrap();
        assert_eq!(left(dir.path(), 0), ["entry-4"]);
    }
}

#[test]
fn what_could_not_be_written_is_not_taken_for_said() {
    let dir = tempfile::tempdir().unwrap();
    let (cache, list) = (Cache::new(dir.path().to_owned(), 0), dir.path().join("uses/default/web"));
    let user = CacheUser::new(cache, list.clone());
    // In the way of the directory of lists.
    fs::write(dir.path().join("uses"), "").unwrap();
    for _ in 0..2 {
        user.uses(&dir.path().join("entry")).unwrap_err();
    }
    fs::remove_file(dir.path().join("uses")).unwrap();
    user.uses(&dir.path().join("entry")).unwrap();
    assert_eq!(fs::read_to_string(&list).unwrap(), "entry\n");
}

#[test]
fn a_whole_cache_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::new(dir.path().to_owned(), u64::MAX);
    for kind in ["images", "templates", "uses"] {
        fs::create_dir(dir.path().join(kind)).unwrap();
    }
    let dead = [".draft-a", "images/.draft-b", "templates/.draft-c"].map(|name| dir.path().join(name));
    for path in &dead {
        fs::write(path, "").unwrap();
    }
    let held = Draft::create(&dir.path().join("images")).unwrap();
    // What cannot be opened without waiting.
    let made = Command::new("mkfifo").arg(dir.path().join(".draft-fifo")).status().unwrap();
    assert!(made.success());
    let mut removed = cache.sweep();
    removed.sort();
    assert_eq!(removed, dead);
    let mut left = cache.drafts();
    left.sort();
    assert_eq!(left, [dir.path().join(".draft-fifo"), held.path().to_owned()]);
}

#[test]
fn bytes_are_two_digits_each() {
    assert_eq!(hex(&[0, 0x0f, 0xa0, 255]), "000fa0ff");
}
