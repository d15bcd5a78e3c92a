//! Files that change while they are read, and disks that take nothing.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;

use super::*;
use crate::pack_to_pipe;

/// Does something once so many bytes have come.
struct After<F> {
    bytes: Vec<u8>,
    at: usize,
    then: Option<F>,
}

impl<F: FnOnce()> Write for After<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() >= self.at
            && let Some(then) = self.then.take()
        {
            then();
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What is packed into a pipe.
fn through_pipe(from: &Path, mut taken: impl Write) -> crate::Report {
    let options = PackOptions { follow: false, attributes: Attributes::User };
    let (mut read, write) = io::pipe().unwrap();
    std::thread::scope(|scope| {
        let packing = scope.spawn(|| pack_to_pipe(from, options, fs::File::from(OwnedFd::from(write))).unwrap());
        io::copy(&mut read, &mut taken).unwrap();
        packing.join().unwrap()
    })
}

/// Packs a directory with a file of a mebibyte, with which something happens in the middle.
fn changed(then: impl Fn(&Path)) -> (String, u64) {
    let pack_with = |pack: &dyn Fn(&Path, &mut dyn Write) -> crate::Report| changed_while(pack, &then);
    let plainly =
        pack_with(&|from, out| pack(from, PackOptions { follow: false, attributes: Attributes::User }, out).unwrap());
    assert_eq!(pack_with(&|from, out| through_pipe(from, out)), plainly, "into a pipe");
    plainly
}

fn changed_while(pack: &dyn Fn(&Path, &mut dyn Write) -> crate::Report, then: impl Fn(&Path)) -> (String, u64) {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    let path = from.join("f");
    fs::write(&path, vec![b'x'; 1 << 20]).unwrap();
    let mut out = After { bytes: Vec::new(), at: 300_000, then: Some(|| then(&path)) };
    let report = pack(&from, &mut out);
    fs::create_dir(&to).unwrap();
    // Another one may come behind it, and all is well-formed.
    unpacked(&out.bytes, &to);
    (report.problems.to_string(), fs::metadata(to.join("from/f")).unwrap().len())
}

#[test]
fn a_file_that_changes_has_the_size_that_was_said() {
    let shrink = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(400_000).unwrap();
    let (problems, bytes) = changed(shrink);
    assert!(problems.contains("\"from/f\": it became shorter while it was read"), "{problems}");
    assert_eq!(bytes, 1 << 20);
    let grow = |path: &Path| fs::File::options().write(true).open(path).unwrap().set_len(2 << 20).unwrap();
    let (problems, bytes) = changed(grow);
    assert!(problems.contains("\"from/f\": it became longer while it was read"), "{problems}");
    assert_eq!(bytes, 1 << 20);
    let remove = |path: &Path| fs::remove_file(path).unwrap();
    assert_eq!(changed(remove), (String::new(), 1 << 20));
}

#[test]
fn a_pipe_is_given_the_same_and_may_break() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir(&from).unwrap();
    let pattern: Vec<u8> = (0..1_000_003_u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(from.join("large"), &pattern).unwrap();
    fs::write(from.join("small"), &pattern[..70]).unwrap();
    let sparse = fs::File::create(from.join("sparse")).unwrap();
    for (at, bytes) in [(0, 200_000), (1 << 20, 100), (2 << 20, 65_537)] {
        sparse.write_all_at(&pattern[..bytes], at).unwrap();
    }
    sparse.set_len(3 << 20).unwrap();
    let mut taken = Vec::new();
    assert_eq!(through_pipe(&from, &mut taken).problems.count(), 0);
    assert!(taken == packed_with(&from, false).0);

    let (read, write) = io::pipe().unwrap();
    drop(read);
    let options = PackOptions { follow: false, attributes: Attributes::User };
    let error = pack_to_pipe(&from, options, OwnedFd::from(write).into()).unwrap_err();
    assert!(matches!(error, crate::PackError::Write(_)), "{error}");
}

#[test]
fn what_cannot_be_read_is_told_and_the_rest_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    fs::create_dir_all(from.join("closed")).unwrap();
    for name in ["closed/x", "secret", "open"] {
        fs::write(from.join(name), "x").unwrap();
    }
    let close = |name: &str, mode| fs::set_permissions(from.join(name), fs::Permissions::from_mode(mode)).unwrap();
    close("secret", 0);
    close("closed", 0);
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let (tar, report) = as_ordinary_user(|| packed_with(&from, false));
    close("closed", 0o700);
    assert_eq!(report.problems.count(), 2, "{}", report.problems);
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    unpacked(&tar, &to);
    assert!(to.join("from/open").exists() && !to.join("from/secret").exists());
}

#[test]
fn what_is_not_there_cannot_be_packed() {
    let options = PackOptions { follow: false, attributes: Attributes::User };
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for name in ["no", "no/such", "no/.", "file/", "file/.", "file/x"] {
        let mut out = Vec::new();
        let error = pack(&dir.path().join(name), options, &mut out).unwrap_err();
        assert!(matches!(error, crate::PackError::Source { .. }), "{name}: {error}");
        assert_eq!(out, b"", "nobody takes it for a tar");
    }
}

/// A disk of so many bytes, gone at the end; `None` where none may be mounted.
pub(super) struct Disk(pub(super) tempfile::TempDir);

impl Disk {
    pub(super) fn new(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        if !status.is_ok_and(|status| status.success()) {
            sandpen_skip::skip(sandpen_skip::Reason::NoMounts, "a small disk");
            return None;
        }
        Some(Self(dir))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_ends_the_copy_and_has_whole_files_only() {
    let Some(disk) = Disk::new("size=1m") else { return };
    let to = disk.0.path();
    fs::write(to.join("old"), "old").unwrap();
    let tar = tar(&[file("small", 1000), file("old", 2 << 20), file("never", 1)]);
    let error = unpack(&*tar, Destination::Directory(to), OPTIONS).unwrap_err();
    let text = crate::report::chain(&error);
    assert!(text.contains("old\" cannot be written") && text.contains("No space left"), "{text}");
    assert_eq!(fs::read(to.join("old")).unwrap(), b"old");
    assert!(!to.join("never").exists());
    assert_no_temporary(to);
}

#[test]
fn a_read_only_disk_ends_the_copy() {
    let Some(disk) = Disk::new("size=1m,ro") else { return };
    let tar = tar(&[file("a", 10), file("b", 10)]);
    let error = unpack(&*tar, Destination::Directory(disk.0.path()), OPTIONS).unwrap_err();
    let text = crate::report::chain(&error);
    assert!(text.contains("a\" cannot be written") && text.contains("Read-only file system"), "{text}");
}
