//! What is kept from one end to the other.

use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, fsetxattr, utimensat};

use super::*;

fn set_time(path: &Path, seconds: i64, nanos: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// A tree with something of everything that is kept.
pub(super) fn tree(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("dir/deep/er")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("file"), "hello").unwrap();
    fs::write(at("dir/nothing"), "").unwrap();
    fs::write(at("dir/deep/large"), vec![7; 1_000_001]).unwrap();
    fs::write(root.join(std::ffi::OsStr::from_bytes(b"odd \x1b[31m\n\xff name")), "odd").unwrap();
    let long = "n".repeat(255);
    fs::create_dir_all(at(&format!("{long}/{long}"))).unwrap();
    fs::write(at(&format!("{long}/{long}/{long}")), "long").unwrap();
    fs::hard_link(at("file"), at("dir/same")).unwrap();
    fs::hard_link(at("file"), at("dir/deep/same too")).unwrap();
    symlink("file", at("link")).unwrap();
    symlink("/no/where", at("dir/dangling")).unwrap();
    symlink("x/".repeat(100), at("dir/to far")).unwrap();
    let sparse = fs::File::create(at("sparse")).unwrap();
    sparse.set_len(64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"in the middle", 32 << 20).unwrap();
    fs::File::create(at("hole")).unwrap().set_len(1 << 20).unwrap();
    fs::set_permissions(at("file"), fs::Permissions::from_mode(0o4751)).unwrap();
    fs::set_permissions(at("empty"), fs::Permissions::from_mode(0o2550)).unwrap();
    fs::set_permissions(at("dir"), fs::Permissions::from_mode(0o1777)).unwrap();
    if fsetxattr(fs::File::open(at("file")).unwrap(), "user.note", b"a\0b=\n", XattrFlags::empty()).is_ok() {
        fsetxattr(fs::File::open(at("dir/deep")).unwrap(), "user.d", &vec![1; 3000], XattrFlags::empty()).unwrap();
        if is_root() {
            fsetxattr(fs::File::open(at("file")).unwrap(), "trusted.t", b"t", XattrFlags::empty()).unwrap();
            std::os::unix::fs::chown(at("dir/nothing"), Some(12_345), Some(3_000_000_000)).unwrap();
            std::os::unix::fs::lchown(at("link"), Some(1), Some(2)).unwrap();
        }
    }
    set_time(&at("dir/nothing"), -1, 999_999_999);
    set_time(&at("dir/deep/er"), -86_400 * 365 * 10, 1);
    set_time(&at("link"), 1_234_567_890, 123_456_789);
    set_time(&at("file"), 1, 1);
    set_time(&at("dir/deep"), 2, 200);
    set_time(&at("dir"), 1_700_000_000, 0);
    set_time(&at("empty"), 4_294_967_296, 5);
}

#[test]
fn everything_arrives_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    tree(&from);
    let tar = packed(&from.join("."));
    for wait in [Wait::ForFew, Wait::ForAll] {
        let report = unpack(&*tar, Destination::Directory(&to), UnpackOptions { wait, ..OPTIONS }).unwrap();
        assert_eq!((report.problems.to_string(), report.notes.to_string()), (String::new(), String::new()));
        // The second time over what is there.
        assert_eq!(told(&to), told(&from));
    }
    assert_no_temporary(&to);
    let blocks = |path: &Path| fs::metadata(path).unwrap().blocks();
    assert!(blocks(&to.join("sparse")) <= blocks(&from.join("sparse")).max(1024), "holes are holes");
    assert_eq!(blocks(&to.join("hole")), 0);
    // And by its name, whatever the options are.
    let tar = packed(&from);
    let options = UnpackOptions {
        owners: Owners::Caller,
        attributes: Attributes::User,
        special: Special::Make,
        wait: Wait::ForAll,
    };
    let report = unpack(&*tar, Destination::Path { path: &to, name: Some(b"from") }, options).unwrap();
    assert_eq!(report.problems.to_string(), "");
    let there = told(&to.join("from"));
    assert_eq!(there.len(), told(&from).len());
    let file = fs::metadata(to.join("from/file")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o751, rustix::process::geteuid().as_raw()));
    assert!(!there.iter().any(|line| line.contains("trusted.t")) && !there.iter().any(|line| line.contains("12345:")));
}

#[test]
fn a_terabyte_of_nothing_is_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("vast"), dir.path().join("copy"));
    let vast = fs::File::create(&from).unwrap();
    vast.set_len(1 << 40).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&vast, b"far", (1 << 40) - 3).unwrap();
    let tar = packed(&from);
    assert!(tar.len() < 64 << 10, "{}", tar.len());
    unpack(&*tar, Destination::Path { path: &to, name: None }, OPTIONS).unwrap();
    let copy = fs::metadata(&to).unwrap();
    assert_eq!(copy.len(), 1 << 40);
    assert!(copy.blocks() < 1024, "{}", copy.blocks());
    let mut end = [0; 3];
    std::os::unix::fs::FileExt::read_exact_at(&fs::File::open(&to).unwrap(), &mut end, (1 << 40) - 3).unwrap();
    assert_eq!(&end, b"far");
}

#[test]
fn a_file_of_many_parts_is_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    let file = fs::File::create(&from).unwrap();
    for part in 0..3000_u64 {
        std::os::unix::fs::FileExt::write_all_at(&file, &part.to_le_bytes(), part * 8192).unwrap();
    }
    file.set_len(3000 * 8192 + 5).unwrap();
    let to = dir.path().join("to");
    unpack(&*packed(&from), Destination::Path { path: &to, name: None }, OPTIONS).unwrap();
    // Where each part is costs some as well.
    assert!(fs::metadata(&to).unwrap().blocks() * 10 < file.metadata().unwrap().blocks() * 11);
    let to = fs::File::open(&to).unwrap();
    assert_eq!(to.metadata().unwrap().len(), 3000 * 8192 + 5);
    for part in (0..3000_u64).step_by(99) {
        let mut bytes = [1; 16];
        std::os::unix::fs::FileExt::read_exact_at(&to, &mut bytes, part * 8192).unwrap();
        assert_eq!(bytes[..8], part.to_le_bytes());
        assert_eq!(bytes[8..], [0; 8]);
    }
}

#[test]
fn sockets_are_left_out_and_devices_refused_where_none_are_made() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(from.join("socket")).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o640);
    rustix::fs::mknodat(CWD, from.join("fifo"), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (tar, report) = packed_with(&from, false);
    assert_eq!(report.problems.count(), 0);
    assert!(report.notes.to_string().contains("\"from/socket\": it is a socket"), "{}", report.notes);
    let report = unpack(&*tar, Destination::Path { path: &to, name: None }, OPTIONS).unwrap();
    assert!(report.problems.to_string().contains("to/fifo\": it is a device or a FIFO"), "{}", report.problems);
    assert_eq!(fs::read_dir(&to).unwrap().count(), 0);
    let options = UnpackOptions { special: Special::Make, ..OPTIONS };
    let report = unpack(&*tar, Destination::Path { path: &to, name: None }, options).unwrap();
    assert_eq!(report.problems.count(), 0, "{}", report.problems);
    let fifo = fs::metadata(to.join("from/fifo")).unwrap();
    assert_eq!(fifo.mode(), fs::metadata(from.join("fifo")).unwrap().mode() & !0o022);
}

#[test]
fn files_of_proc_have_what_is_in_them() {
    let (tar, report) = packed_with(Path::new("/proc/self/status"), false);
    assert_eq!(report.problems.to_string(), "");
    let dir = tempfile::tempdir().unwrap();
    unpacked(&tar, dir.path());
    assert!(fs::read_to_string(dir.path().join("status")).unwrap().starts_with("Name:"));
    // Sizes that are none, and files that have no end.
    if Path::new("/proc/kcore").exists() {
        let (_, report) = packed_with(Path::new("/proc/kcore"), false);
        let problems = report.problems.to_string();
        assert!(problems.contains("the kernel makes it up") || problems.contains("cannot be read"), "{problems}");
    }
}

/// Names in a directory, in which there is hardly anything but what is difficult.
fn any_name() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'a'), Just(b'\n'), Just(b'='), Just(b' '), Just(0xff), Just(0x1b), 1_u8..=255];
    proptest::collection::vec(byte, 1..120).prop_map(|mut name| {
        name.iter_mut().filter(|byte| **byte == b'/').for_each(|byte| *byte = b'_');
        if matches!(name.as_slice(), b"." | b"..") { b"dot".to_vec() } else { name }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn any_tree_arrives(
        files in proptest::collection::vec((any_name(), any_name(), 0_usize..3000, -5_000_000_000_i64..5_000_000_000, 0_u32..1_000_000_000), 0..12),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        fs::create_dir(&from).unwrap();
        fs::create_dir(&to).unwrap();
        for (above, name, bytes, seconds, nanos) in files {
            let above = from.join(std::ffi::OsStr::from_bytes(&above));
            // A file of this name may be there.
            if fs::create_dir_all(&above).is_err() {
                continue;
            }
            let path = above.join(std::ffi::OsStr::from_bytes(&name));
            if fs::write(&path, vec![name[0]; bytes]).is_ok() {
                set_time(&path, seconds, nanos.into());
            }
        }
        unpacked(&packed(&from.join(".")), &to);
        prop_assert_eq!(told(&to), told(&from));
    }
}

#[test]
fn the_clock_says_nothing_of_what_was_kept() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("old");
    fs::write(&from, "x").unwrap();
    let old: SystemTime = UNIX_EPOCH + Duration::new(77, 7);
    fs::File::open(&from).unwrap().set_modified(old).unwrap();
    let to = dir.path().join("new");
    unpack(&*packed(&from), Destination::Path { path: &to, name: Some(b"old") }, OPTIONS).unwrap();
    assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), old);
}
