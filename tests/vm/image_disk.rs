//! Roots that are images: a file system in several files, which the machine has as one disk that is only read.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use sandpen_images::save::ArchiveFormat;
use sandpen_types::image::ImageDigest;
use serde_json::json;

use crate::support::images::{self, said, start};
use crate::support::{self, Dice, Home, explain, until};

/// An image in the store of a home.
struct Image {
    digest: ImageDigest,
    /// Its files, without the padding.
    files: Vec<PathBuf>,
    padding: PathBuf,
    lease: PathBuf,
}

impl Image {
    /// One that the daemon of a home has brought there.
    fn of(home: &Home, digest: ImageDigest) -> Self {
        let disk = images::store(home).disk(&digest).unwrap();
        let mut files: Vec<_> = disk.extents.into_iter().map(|extent| extent.path).collect();
        let padding = files.pop().unwrap();
        Self { digest, files, padding, lease: home.data().join("images/leases").join(digest.hex()) }
    }
}

/// A small root directory with some files more.
fn root_directory(home: &Home) -> PathBuf {
    let root = home.path().join("image-root");
    support::make_rootfs(&root);
    let mut dice = Dice::new(7);
    for (number, size) in [0, 1, 4095, 4096, 4097, 3_000_000_usize].into_iter().enumerate() {
        let directory = root.join("data").join(number.to_string());
        fs::create_dir_all(&directory).unwrap();
        let bytes: Vec<u8> = (0..size).map(|_| dice.next().to_le_bytes()[0]).collect();
        fs::write(directory.join("file"), bytes).unwrap();
    }
    fs::set_permissions(root.join("data/1/file"), fs::Permissions::from_mode(0o4711)).unwrap();
    std::os::unix::fs::symlink("../data/5/file", root.join("etc/link")).unwrap();
    std::os::unix::fs::chown(root.join("data/2"), Some(1000), Some(70_000)).ok();
    with_attributes(&root);
    root
}

/// An image of that directory, and of so many layers over it with a file each, as an archive for everybody to read.
fn archive_of_layers(home: &Home, layers: usize) -> PathBuf {
    let root = root_directory(home);
    let mut paths = Vec::new();
    for number in 0..=layers {
        let above = if number == 0 { root.clone() } else { home.path().join(format!("layer-{number}")) };
        if number > 0 {
            let (directory, text) = (format!("data/above-{number}"), format!("layer {number}\n"));
            for root in [&above, &root] {
                fs::create_dir_all(root.join(&directory)).unwrap();
                fs::write(root.join(&directory).join("file"), &text).unwrap();
            }
        }
        let path = home.path().join(format!("layer-{number}.tar"));
        images::tar(&above, &path);
        paths.push(path);
    }
    let archive = home.path().join("archive.tar");
    images::archive(&archive, ArchiveFormat::Oci, "test", &paths);
    fs::set_permissions(&archive, fs::Permissions::from_mode(0o644)).unwrap();
    archive
}

/// A program with a capability, which it has of its extended attributes, and a file that its list of access shows to
/// somebody who is neither its owner nor in its group. Nothing where these tests are not root's.
fn with_attributes(root: &Path) {
    if !nix::unistd::Uid::effective().is_root() {
        return;
    }
    let none = rustix::fs::XattrFlags::empty();
    let program = root.join("capable/cat");
    fs::create_dir(root.join("capable")).unwrap();
    fs::copy(root.join("bin/busybox"), &program).unwrap();
    // Version 2 with the effective flag, and CAP_NET_RAW (linux/capability.h).
    let words = [0x0200_0001_u32, 1 << 13, 0, 0, 0];
    let capability: Vec<_> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    rustix::fs::setxattr(&program, "security.capability", &capability, none).unwrap();
    // Owner, the user 1000, group, mask, others (linux/posix_acl_xattr.h).
    let entries = [(1_u16, 6_u16, u32::MAX), (2, 4, 1000), (4, 0, u32::MAX), (16, 4, u32::MAX), (32, 0, u32::MAX)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, rights, id) in entries {
        list.extend(tag.to_le_bytes().into_iter().chain(rights.to_le_bytes()).chain(id.to_le_bytes()));
    }
    fs::write(root.join("listed"), "listed\n").unwrap();
    rustix::fs::setxattr(root.join("listed"), "system.posix_acl_access", &list, none).unwrap();
}

/// Whether somebody uses the image.
fn is_in_use(image: &Image) -> bool {
    match File::open(&image.lease).unwrap().try_lock() {
        Ok(()) => false,
        Err(TryLockError::WouldBlock) => true,
        Err(TryLockError::Error(error)) => panic!("{error}"),
    }
}

/// Sums of all files, by their names.
const SUMS: &str =
    "cd /; find bin data root -type f | sort | xargs sha256sum; stat -c '%n %a %u:%g' data/*/file data/2";

fn sums(home: &Home) -> String {
    let script = SUMS.replace("cd /", &format!("cd {}/image-root", home.path().display()));
    let output = Command::new("/bin/busybox").args(["sh", "-c", &script]).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn is_restored(home: &Home, name: &str) -> bool {
    let command_line = fs::read(format!("/proc/{}/cmdline", home.microvm_pid(name))).unwrap();
    command_line.split(|byte| *byte == 0).any(|argument| argument == b"-incoming")
}

fn templates(home: &Home) -> usize {
    let entries = fs::read_dir(home.state().join("cache/templates")).into_iter().flatten().flatten();
    entries.filter(|entry| !entry.path().to_string_lossy().contains("draft")).count()
}

/// Files that a process has open, as paths.
fn open_files(pid: u32) -> Vec<PathBuf> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    links.filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

#[test]
fn an_image_is_read_whole_is_written_over_and_stays_in_use() {
    if !support::restores("machines are restored under emulation only") {
        return;
    }
    let home = Home::with_data();
    let image = Image::of(&home, images::import(&home, &root_directory(&home), "test"));
    let before: Vec<_> = image.files.iter().map(|file| fs::read(file).unwrap()).collect();
    let expected = sums(&home);
    assert!(expected.lines().count() > 10 && expected.contains("4711 0:0"), "{expected}");

    // Restored: as a machine of nothing but disks is. Booted: with a directory beside.
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let beside = json!({"volumes": [{"host": volume, "guest": "/beside", "read_only": false}]});
    for (name, more, restored) in [("booted", &beside, false), ("restored", &json!({}), true)] {
        let more = [more.clone(), json!({"stdin": true})];
        let more = more.iter().flat_map(|more| more.as_object().unwrap().clone()).collect::<serde_json::Map<_, _>>();
        let script = format!("{SUMS}; cat /sys/block/vd*/serial /sys/block/vd*/ro; exec sleep 1000");
        start(&home, image.digest, name, &script, &more.into());
        until("it has said all", || home.ok(&["logs", name]).matches("sandpen-").count() == 2);
        assert_eq!(is_restored(&home, name), restored, "{name}");
        let text = home.ok(&["logs", name]);
        let found = text.strip_prefix(expected.as_str()).unwrap_or_else(|| panic!("{name}: {text}\n{expected}"));
        let mut disks: Vec<_> = found.lines().collect();
        disks.sort_unstable();
        // Serial numbers have no newline.
        assert_eq!(disks.concat().matches("sandpen-image-0").count(), 1, "{found}");
        home.ok(&["kill", name]);
        home.run(&["wait", name]);
    }
    assert_eq!(templates(&home), 1);
    // The same machine from the directory itself has the same template.
    let rootfs = home.rootfs();
    home.ok(&["run", "-d", "-n", "directory", "--root", "image", &rootfs, "--", "sleep", "1000"]);
    assert!(is_restored(&home, "directory"));
    assert_eq!(templates(&home), 1);
    home.ok(&["kill", "directory"]);
    home.run(&["wait", "directory"]);

    // Nobody writes to the image, and what is written is on the disk of the sandbox.
    start(
        &home,
        image.digest,
        "refused",
        "touch /x 2>&1; rm /etc/link 2>&1; cat /data/1/file | wc -c",
        &json!({"read_only": true}),
    );
    let text = said(&home, "refused");
    assert_eq!(text.matches("Read-only file system").count(), 2, "{text}");
    assert!(text.ends_with("1\n"), "{text}");
    if nix::unistd::Uid::effective().is_root() {
        let script = "cat /listed; /capable/cat /proc/self/status | grep CapEff; cat /proc/self/status | grep CapEff";
        start(&home, image.digest, "somebody", script, &json!({"user": "1000:1000"}));
        let text = said(&home, "somebody");
        assert_eq!(text, "listed\nCapEff:\t0000000000002000\nCapEff:\t0000000000000000\n");
    }
    let script =
        "cat /kept 2>/dev/null; echo round >> /kept; ls -d /data /moved 2>/dev/null; mv /data /moved 2>/dev/null
        rm -f /etc/link; head -c 10 /moved/5/file | wc -c; : > /moved/5/file; sync";
    start(&home, image.digest, "kept", script, &json!({"disk": {"bytes": 64 << 20}}));
    assert_eq!(said(&home, "kept"), "/data\n10\n");
    home.ok(&["start", "kept"]);
    assert_eq!(said(&home, "kept"), "round\n/moved\n0\n");
    // What was moved is on the disk itself, and no word of where it was in the image.
    let disk = home.inspect("kept")["disk"]["path"].as_str().unwrap().to_owned();
    let debugfs = sandpen::driver::mke2fs::find().unwrap().with_file_name("debugfs");
    let looked = Command::new(debugfs).args(["-R", "stat /upper/moved/4/file", &disk]).output().unwrap();
    assert!(String::from_utf8_lossy(&looked.stdout).contains("Type: regular"), "{}", explain(&looked));
    start(&home, image.digest, "other", "ls -d /kept /data; cat /data/5/file | wc -c", &json!({}));
    home.run(&["wait", "other"]);
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "other"]), "/data\n3000000\n");
    home.ok(&["rm", "-f", "other", "kept", "refused", "booted", "restored", "directory"]);

    // In use for as long as something runs from it, whoever watches.
    until("nobody uses it", || !is_in_use(&image));
    start(&home, image.digest, "long", "echo up; exec sleep 1000", &json!({}));
    until("it is up", || home.ok(&["logs", "long"]) == "up\n");
    let waiter = home.waiter("long").unwrap();
    assert!(is_in_use(&image) && open_files(waiter).contains(&image.lease));
    assert!(!open_files(home.daemon_pid()).contains(&image.lease), "the daemon has one of its own");
    let microvm = home.microvm_pid("long");
    home.kill_daemon();
    until("the daemon is gone", || home.lock_holder().is_none_or(|pid| !support::is_there(pid)));
    assert!(is_in_use(&image));
    assert_eq!(home.microvm_pid("long"), microvm, "it was adopted");
    assert_eq!(home.inspect("long")["state"], "RUNNING");
    // A waiter that takes its place uses it too.
    support::send(waiter, Signal::SIGKILL);
    until("there is another waiter", || home.waiter("long").is_some_and(|other| other != waiter));
    until("it is in use again", || is_in_use(&image));
    home.ok(&["kill", "long"]);
    home.run(&["wait", "long"]);
    until("nobody uses it", || !is_in_use(&image));

    for (file, before) in image.files.iter().zip(before) {
        assert!(fs::read(file).unwrap() == before, "{file:?} was written to");
    }
    let mut padding = [0; 1];
    File::open(&image.padding).unwrap().read_exact_at(&mut padding, 0).unwrap();
    assert_eq!(padding, [0]);
}

#[test]
fn an_image_that_is_not_there_or_cannot_be_is_said() {
    if !support::restores("one driver is enough") {
        return;
    }
    let home = Home::with_data();
    let digest: ImageDigest = format!("sha256:{:064x}", 8).parse().unwrap();
    start(&home, digest, "missing", "true", &json!({}));
    home.run(&["wait", "missing"]);
    let told = home.inspect("missing").to_string();
    assert!(told.contains("no image \\\"sha256:") && told.contains(&digest.to_string()), "{told}");
}

/// In the jail of a user who is not root, and with as many files as a disk may have.
#[test]
fn an_ordinary_user_runs_images() {
    if !support::restores("machines are restored under emulation only") {
        return;
    }
    let home = Home::of_ordinary_user();
    if home.uid() == nix::unistd::Uid::effective().as_raw() {
        return;
    }
    let data = home.data().join("images");
    fs::create_dir(&data).unwrap();
    home.own(data.to_str().unwrap());
    let archive = archive_of_layers(&home, 126);
    let image = Image::of(&home, images::load(&home, &archive, "test"));
    assert_eq!(image.files.len(), 128);
    start(&home, image.digest, "a", SUMS, &json!({}));
    assert_eq!(said(&home, "a"), sums(&home));
}
