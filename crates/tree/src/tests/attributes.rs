//! Extended attributes, and what they have to do with owners, permissions and disks.

use rustix::fs::{XattrFlags, fsetxattr};

use super::changes::Disk;
use super::*;

fn with_note(mut entry: Entry, mode: u32, value: &[u8]) -> Entry {
    entry.meta.mode = mode;
    entry.meta.xattrs = vec![(b"user.note".to_vec(), value.to_vec())];
    entry
}

#[test]
fn what_may_not_be_written_has_its_attributes_whoever_copies_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let tar = tar(&[
        with_note(file("secret", 10), 0o400, b"x"),
        with_note(entry("dir", Kind::Directory), 0o555, b"y"),
        with_note(file("dir/f", 10), 0o444, b"z"),
    ]);
    for owners in [Owners::Caller, Owners::Keep] {
        let to = dir.path().join(format!("{owners:?}"));
        let report = as_ordinary_user(|| {
            fs::create_dir(&to).unwrap();
            unpack(&*tar, Destination::Directory(&to), UnpackOptions { owners, ..OPTIONS }).unwrap()
        });
        assert_eq!(report.problems.to_string(), "");
        let has_any = fsetxattr(fs::File::open(dir.path()).unwrap(), "user.any", b"", XattrFlags::empty()).is_ok();
        for (name, mode, value) in [("secret", 0o400, b"x"), ("dir", 0o555, b"y"), ("dir/f", 0o444, b"z")] {
            let there = as_ordinary_user(|| fs::File::open(to.join(name)).unwrap());
            assert_eq!(there.metadata().unwrap().mode() & 0o7777, mode, "{name}");
            let expected = if has_any { vec![(b"user.note".to_vec(), value.to_vec())] } else { Vec::new() };
            assert_eq!(Attributes::User.read(&there).unwrap(), expected, "{name}");
        }
    }
}

/// An access list has the group's permissions for its mask, and who owns a file takes away what its program may.
#[test]
fn lists_of_access_and_capabilities_arrive_with_owners_and_permissions() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    let nobody = u32::MAX;
    let list: Vec<u8> = [(1_u16, 6_u16, nobody), (2, 6, 123), (4, 4, nobody), (16, 6, nobody), (32, 0, nobody)]
        .into_iter()
        .flat_map(|(tag, may, id)| [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat())
        .collect();
    let list = [&2_u32.to_le_bytes()[..], &list].concat();
    let capability = [0x0200_0001_u32, 1 << 10, 0, 0, 0].map(u32::to_le_bytes).concat();
    for (name, mode, attribute, value) in [
        ("shared", 0o660, "system.posix_acl_access", &list),
        ("closed", 0o460, "system.posix_acl_access", &list),
        ("program", 0o4755, "security.capability", &capability),
    ] {
        fs::write(from.join(name), "x").unwrap();
        let file = fs::File::open(from.join(name)).unwrap();
        if is_root() {
            std::os::unix::fs::fchown(&file, Some(1000), Some(1000)).unwrap();
        }
        // Where a file system has none of them, or the caller may not, there is one fewer to compare.
        let _ = fsetxattr(&file, attribute, value, XattrFlags::empty());
        fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    unpacked(&packed(&from.join(".")), &to);
    assert_eq!(told(&to), told(&from));
}

#[test]
fn an_attribute_without_room_is_its_files_problem_alone() {
    // Inodes are what attributes take their room from.
    let Some(disk) = Disk::new("size=1m,nr_inodes=30") else { return };
    let to = disk.0.path();
    let tar = tar(&[file("before", 10), with_note(file("much", 10), 0o644, &vec![1; 60_000]), file("after", 10)]);
    let report = unpack(&*tar, Destination::Directory(to), OPTIONS).unwrap();
    assert!(to.join("before").exists() && to.join("after").exists());
    // Before Linux 6.6 it keeps none at all.
    if report.notes.count() == 0 {
        let problems = report.problems.to_string();
        assert!(problems.contains("much\": its owner, permissions, time or attributes cannot be set"), "{problems}");
        assert!(!to.join("much").exists());
    }
    assert_no_temporary(to);
}
