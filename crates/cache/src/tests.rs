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

/// Entries of these sizes in KiB, each used a second after the one before it.
fn entries(directory: &Path, sizes: &[usize]) {
    for (number, kib) in (0..).zip(sizes) {
        let path = directory.join(format!("entry-{number}"));
        fs::write(&path, vec![1; kib << 10]).unwrap();
        let age = Duration::from_secs(1000 - number);
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::now() - age).unwrap();
    }
}

fn keep(directory: &Path, budget: Budget) -> Vec<String> {
    keep_newest(directory, |name| name.starts_with("entry-"), budget);
    names(directory)
}

#[test]
fn what_was_not_used_for_longest_goes() {
    let dir = tempfile::tempdir().unwrap();
    entries(dir.path(), &[4; 6]);
    fs::write(dir.path().join("lock"), "").unwrap();
    fs::create_dir(dir.path().join("entry-directory")).unwrap();
    mark_used(&dir.path().join("entry-0"));
    let left = keep(dir.path(), Budget::of_entries(3));
    assert_eq!(left, ["entry-0", "entry-4", "entry-5", "entry-directory", "lock"]);
    assert_eq!(keep(dir.path(), Budget::of_entries(0)), ["entry-0", "entry-directory", "lock"]);
    keep_newest(&dir.path().join("nothing"), |_| true, Budget::of_entries(0));
    mark_used(&dir.path().join("nothing"));
}

#[test]
fn a_budget_of_bytes_counts_what_is_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    entries(dir.path(), &[64, 64, 64, 64]);
    // Mostly a hole.
    let hole = dir.path().join("entry-4");
    fs::write(&hole, "x").unwrap();
    File::options().write(true).open(&hole).unwrap().set_len(1 << 40).unwrap();
    let budget = Budget { entries: 10, bytes: 160 << 10 };
    assert_eq!(keep(dir.path(), budget), ["entry-2", "entry-3", "entry-4"]);
    assert_eq!(keep(dir.path(), Budget { entries: 10, bytes: 0 }), ["entry-4"], "what was used last stays");
}

#[test]
fn bytes_are_two_digits_each() {
    assert_eq!(hex(&[0, 0x0f, 0xa0, 255]), "000fa0ff");
}
