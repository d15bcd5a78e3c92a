//! What is kept of layers.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use super::*;

fn keep(store: &Store, number: u8, bytes: &[u8]) {
    let mut partial = store.partial(&diff_id(number), 1 << 20).unwrap().unwrap();
    std::io::copy(&mut partial, &mut std::io::sink()).unwrap();
    partial.write_all(bytes).unwrap();
}

fn read(store: &Store, number: u8, size: u64) -> Vec<u8> {
    let mut partial = store.partial(&diff_id(number), size).unwrap().unwrap();
    let mut bytes = Vec::new();
    partial.read_to_end(&mut bytes).unwrap();
    assert_eq!(partial.size(), bytes.len() as u64);
    bytes
}

fn count(store: &Store) -> usize {
    store.partials().unwrap().len()
}

#[test]
fn what_was_written_is_gone_on_with_by_one_at_a_time() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    keep(&store, 1, b"one");
    keep(&store, 1, b" two");
    let mut held = store.partial(&diff_id(1), 7).unwrap().unwrap();
    assert!(store.partial(&diff_id(1), 7).unwrap().is_none());
    assert!(store.partials().unwrap()[0].is_held);
    // Who has it keeps it.
    store.remove_partial(&diff_id(1)).unwrap();
    assert_eq!(store.prune(true, false, &nobody).unwrap().bytes, 0);
    assert_eq!(store.keep_within(0, &nobody).unwrap().bytes, 0);
    assert_eq!((count(&store), held.size()), (1, 7));
    held.cut(3).unwrap();
    drop(held);
    assert_eq!(read(&store, 1, 3), b"one");
    // More bytes than there can be.
    assert_eq!(read(&store, 1, 2), b"");
    keep(&store, 1, b"three");
    store.partial(&diff_id(1), 7).unwrap().unwrap().remove().unwrap();
    assert_eq!(count(&store), 0);
    store.remove_partial(&diff_id(1)).unwrap();
}

#[test]
fn names_of_other_things_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store")).unwrap();
    let other = directory.path().join("other");
    fs::write(&other, "other").unwrap();
    let path = store.partial_path(&diff_id(1));
    symlink(&other, &path).unwrap();
    assert_eq!(read(&store, 1, 100), b"");
    fs::remove_file(&path).unwrap();
    fs::hard_link(&other, &path).unwrap();
    keep(&store, 1, b"mine");
    fs::remove_file(&path).unwrap();
    make_fifo(&path);
    keep(&store, 1, b"mine");
    assert_eq!(read(&store, 1, 100), b"mine");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(store.partial(&diff_id(1), 100).is_err());
    fs::remove_dir(&path).unwrap();
    // Nor is the directory itself.
    let partials = path.parent().unwrap();
    fs::remove_dir(partials).unwrap();
    fs::create_dir(directory.path().join("theirs")).unwrap();
    symlink(directory.path().join("theirs"), partials).unwrap();
    assert!(store.partial(&diff_id(1), 100).is_err());
    assert_eq!(fs::read(&other).unwrap(), b"other");
    assert_eq!(fs::read_dir(directory.path().join("theirs")).unwrap().count(), 0);
}

fn make_fifo(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).unwrap();
}

#[test]
fn a_week_a_prune_and_a_budget_end_them() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    let bytes = vec![7; 100_000];
    (1..=3).for_each(|number| keep(&store, number, &bytes));
    let set = |number: u8, days: u64| {
        let file = File::options().write(true).open(store.partial_path(&diff_id(number))).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(24 * days)).unwrap();
    };
    set(1, 8);
    set(2, 6);
    store.draft().unwrap();
    assert_eq!(count(&store), 2);
    // Those that came first go first, and before any image.
    let image = make_image(&store, "a", &[1], &["a:1"]);
    let taken: u64 = store.partials().unwrap().iter().map(|partial| partial.bytes).sum();
    let all = store.bytes().unwrap() + taken;
    assert_eq!(store.keep_within(all, &nobody).unwrap().bytes, 0);
    assert!(store.keep_within(all - 1, &nobody).unwrap().bytes >= 100_000);
    assert_eq!(store.partials().unwrap()[0].packed, diff_id(3));
    let would = store.prune(false, true, &nobody).unwrap();
    assert_eq!((count(&store), would.bytes), (1, store.partials().unwrap()[0].bytes));
    assert_eq!(store.prune(false, false, &nobody).unwrap(), would);
    assert_eq!(count(&store), 0);
    assert!(store.image(&image).is_ok());
}
