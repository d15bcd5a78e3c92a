//! Trees as somebody makes them who means harm.

use std::cell::Cell;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::{CWD, Mode, RenameFlags, mkdirat, openat, renameat_with};
use sandpen_skip::{Reason, skip};

use super::removal::Removal;
use super::*;

fn always() -> bool {
    true
}

fn directory(path: impl rustix::path::Arg) -> OwnedFd {
    openat(CWD, path, DIRECTORY, Mode::empty()).unwrap()
}

/// Makes directories below each other, deeper than any path is long.
fn nest(at: &Path, levels: usize) {
    let mut last = directory(at);
    for _ in 0..levels {
        mkdirat(&last, "d", Mode::RWXU).unwrap();
        last = openat(&last, "d", DIRECTORY, Mode::empty()).unwrap();
    }
    openat(&last, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
}

/// A directory with a file, and what is to be removed beside it.
fn beside() -> (tempfile::TempDir, PathBuf, PathBuf) {
    beside_in(tempfile::tempdir().unwrap())
}

/// In memory where there is such a place: each move of a directory is some milliseconds on a busy disk.
fn beside_in_memory() -> (tempfile::TempDir, PathBuf, PathBuf) {
    beside_in(tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap())
}

fn beside_in(temp: tempfile::TempDir) -> (tempfile::TempDir, PathBuf, PathBuf) {
    let (outside, tree) = (temp.path().join("outside"), temp.path().join("tree"));
    for path in [&outside, &tree] {
        fs::create_dir(path).unwrap();
    }
    fs::write(outside.join("file"), "kept").unwrap();
    (temp, outside, tree)
}

#[test]
fn the_deepest_tree_goes_without_stack_or_descriptors() {
    let (_temp, _, tree) = beside_in_memory();
    nest(&tree, 50_000);
    // Where several chains begin, and where the guest has used our names.
    for name in ["a", ".0", ".1/x", ".2"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    nest(&tree.join("a"), 2000);
    fs::write(tree.join(".3"), "x").unwrap();
    let (descriptors, most) = (|| fs::read_dir("/proc/self/fd").unwrap().count(), Cell::new(0));
    let before = descriptors();
    let steps = Cell::new(0_u64);
    let look = || {
        steps.set(steps.get() + 1);
        if steps.get().is_multiple_of(1000) {
            most.set(most.get().max(descriptors()));
        }
        true
    };
    // Far less than a level of recursion for each directory would need.
    std::thread::scope(|scope| {
        let removed = || remove(&tree, &always);
        let small = std::thread::Builder::new().stack_size(128 << 10);
        nest(&tree.join(".0"), 5000);
        small.spawn_scoped(scope, removed).unwrap().join().unwrap().unwrap();
    });
    assert!(!tree.exists());
    fs::create_dir(&tree).unwrap();
    nest(&tree, 5000);
    remove(&tree, &look).unwrap();
    assert!(!tree.exists() && steps.get() >= 5000);
    // Other tests of this process may have some open, but not thousands.
    assert!(most.get() < before + 200, "{} descriptors, {before} before", most.get());
    remove(&tree, &always).unwrap();
    remove(&tree.join("nothing/here"), &always).unwrap();
}

#[test]
fn wide_directories_and_all_kinds_of_files_go() {
    let (_temp, outside, tree) = beside();
    for i in 0..300 {
        fs::create_dir_all(tree.join(format!("{i}/x/y"))).unwrap();
        fs::create_dir_all(tree.join(format!("wide/{i}/x"))).unwrap();
        fs::write(tree.join(format!("wide/{i}/file")), "x").unwrap();
        fs::write(tree.join(format!("wide/f{i}")), "x").unwrap();
    }
    symlink(&outside, tree.join("link")).unwrap();
    symlink(&outside, tree.join("wide/link")).unwrap();
    symlink("nowhere", tree.join("wide/dangling")).unwrap();
    nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    // Directories that a guest has closed, to its host's user too.
    for name in ["closed", "closed/deep", "closed/deep/er"] {
        fs::DirBuilder::new().mode(0o700).create(tree.join(name)).unwrap();
    }
    fs::write(tree.join("closed/deep/er/file"), "x").unwrap();
    for name in ["closed/deep/er", "closed/deep", "closed"] {
        fs::set_permissions(tree.join(name), fs::Permissions::from_mode(0o000)).unwrap();
    }
    remove(&tree, &always).unwrap();
    assert!(!tree.exists());
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    // The tree itself may be a link or a file.
    symlink(&outside, &tree).unwrap();
    remove(&tree, &always).unwrap();
    assert!(fs::symlink_metadata(&tree).is_err() && outside.join("file").exists());
}

#[test]
fn a_link_that_comes_into_a_directorys_place_is_not_followed() {
    let (_temp, outside, tree) = beside();
    // As it is found by the step after the one that saw a directory there.
    symlink(&outside, tree.join("swapped")).unwrap();
    let mut removal = Removal { top: directory(&tree), next: 0, done: 0, removed: 0, fault: None, goes_on: &always };
    removal.clear(c"swapped").unwrap();
    assert!(removal.fault.is_none() && fs::symlink_metadata(tree.join("swapped")).is_err());
    assert!(outside.join("file").exists());
    // And by somebody who goes on swapping.
    let swaps = AtomicBool::new(true);
    let top = directory(&tree);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while swaps.load(Ordering::Relaxed) {
                let _ = renameat_with(&top, "a", &top, "b", RenameFlags::EXCHANGE);
            }
        });
        for _ in 0..200 {
            let _ = mkdirat(&top, "a", Mode::RWXU);
            let _ = fs::create_dir_all(tree.join("a/x/y"));
            let _ = symlink(&outside, tree.join("b"));
            let mut removal =
                Removal { top: directory(&tree), next: 0, done: 0, removed: 0, fault: None, goes_on: &always };
            for name in [c"a", c"b"] {
                let _ = removal.clear(name);
            }
            let _ = allocated(&tree);
        }
        swaps.store(false, Ordering::Relaxed);
    });
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
    remove(&tree, &always).unwrap();
}

#[test]
fn it_ends_when_it_is_told_and_another_one_goes_on() {
    let (_temp, _, tree) = beside();
    for i in 0..20 {
        fs::create_dir_all(tree.join(format!("{i}/x/y/z"))).unwrap();
    }
    let left = Cell::new(30);
    let stops = || left.replace(left.get() - 1) > 0;
    assert_eq!(remove(&tree, &stops).unwrap_err().kind(), io::ErrorKind::Interrupted);
    assert!(tree.exists());
    remove(&tree, &always).unwrap();
    assert!(!tree.exists());
}

/// Takes away what a test has mounted.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn what_is_mounted_is_neither_removed_nor_counted() {
    if !nix::unistd::geteuid().is_root() {
        return skip(Reason::NotRoot, "only root mounts");
    }
    let (_temp, outside, tree) = beside();
    fs::write(outside.join("large"), vec![b'x'; 1 << 20]).unwrap();
    for name in ["top", "deep/er/mounted", "gone"] {
        fs::create_dir_all(tree.join(name)).unwrap();
    }
    fs::write(tree.join("deep/er/file"), "x").unwrap();
    let mut mounts = Vec::new();
    // The same file system: its device tells nothing.
    for name in ["top", "deep/er/mounted"] {
        let none = None::<&str>;
        if mount(Some(&outside), &tree.join(name), none, MsFlags::MS_BIND, none).is_err() {
            return skip(Reason::NoMounts, "a directory may not be mounted on another");
        }
        mounts.push(Mounted(tree.join(name)));
    }
    assert!(allocated(&tree) < 1 << 20, "{}", allocated(&tree));
    let refused = remove(&tree, &always).unwrap_err();
    assert!(matches!(refused.raw_os_error(), Some(nix::libc::EXDEV | nix::libc::EBUSY)), "{refused}");
    assert!(outside.join("file").exists() && outside.join("large").exists() && !tree.join("gone").exists());
    drop(mounts);
    // A mounted directory is where its own parents were moved to.
    let points = fs::read_to_string("/proc/self/mountinfo").unwrap();
    for point in
        points.lines().filter_map(|line| line.split(' ').nth(4)).filter(|point| Path::new(point).starts_with(&tree))
    {
        umount2(point, MntFlags::MNT_DETACH).unwrap();
    }
    remove(&tree, &always).unwrap();
    assert!(!tree.exists() && outside.join("file").exists());
}

#[test]
fn what_a_tree_takes_is_counted_down_to_a_depth_and_no_further() {
    let (_temp, outside, tree) = beside_in_memory();
    let of = |path: &Path| fs::symlink_metadata(path).unwrap().blocks() * 512;
    fs::write(tree.join("file"), vec![b'x'; 100 << 10]).unwrap();
    fs::write(outside.join("large"), vec![b'x'; 1 << 20]).unwrap();
    symlink(&outside, tree.join("link")).unwrap();
    fs::create_dir(tree.join("a")).unwrap();
    fs::write(tree.join("a/more"), vec![b'x'; 50 << 10]).unwrap();
    let all = ["", "file", "link", "a", "a/more"].map(|name| of(&tree.join(name))).iter().sum::<u64>();
    assert_eq!(allocated(&tree), all);
    assert_eq!(allocated(&tree.join("file")), of(&tree.join("file")));
    assert_eq!((allocated(&tree.join("link")), allocated(&tree.join("nothing"))), (of(&tree.join("link")), 0));
    nest(&tree, 10_000);
    let (counted, one) = (allocated(&tree), of(&tree.join("d")));
    assert_eq!(counted, all + one * u64::try_from(DEPTH_MAX).unwrap());
    remove(&tree, &always).unwrap();
}
