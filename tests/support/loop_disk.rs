//! An ext4 file system on a loop device, which can be made read-only as an error does it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use sandpen_skip::{Reason, skip};

/// A mounted file system in an image file; both are gone at the end.
pub struct LoopDisk {
    dir: tempfile::TempDir,
    device: String,
}

impl LoopDisk {
    /// `None`, which counts as a skip, where such a file system cannot be mounted.
    pub fn new(mib: u64) -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("sandpen-loop-").tempdir().unwrap();
        let image = dir.path().join("image");
        fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mount = dir.path().join("mount");
        fs::create_dir(&mount).unwrap();
        let steps = [
            Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&image).output(),
            Command::new("mount").args(["-o", "loop,errors=remount-ro"]).args([&image, &mount]).output(),
        ];
        for step in steps {
            match step {
                Ok(output) if output.status.success() => {}
                other => {
                    skip(Reason::NoMounts, format_args!("ext4 on a loop device: {other:?}"));
                    return None;
                }
            }
        }
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        let mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let device = mounted.into_iter().find(|fields| Path::new(fields[1]) == mount).unwrap()[0].to_owned();
        let disk = Self { dir, device };
        if !disk.trigger().exists() {
            skip(Reason::NoDiskErrors, "this kernel's ext4 has no trigger_fs_error");
            return None;
        }
        Some(disk)
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mount")
    }

    fn trigger(&self) -> PathBuf {
        let device = Path::new(&self.device).file_name().unwrap();
        assert!(device.to_str().unwrap().starts_with("loop"));
        Path::new("/sys/fs/ext4").join(device).join("trigger_fs_error")
    }

    /// The kernel finds an error and writes nothing to the file system any more.
    pub fn make_read_only(&self) {
        // Everything is on the disk: also pages that a process has mapped will have to be written anew.
        let synced = Command::new("sync").arg("-f").arg(self.path()).status().unwrap();
        assert!(synced.success());
        fs::write(self.trigger(), "a test").unwrap();
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        // Detached: a process that a failed test left must not keep it. The loop device goes with it.
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}
