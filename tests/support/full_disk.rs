//! A small disk of the test's own that can be filled up.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sandpen_skip::{Reason, skip};

/// Room for the logs of all sandboxes that a run has at one time.
const OPTIONS: &str = "size=1g,mode=0700";

/// A directory, with a tmpfs where we may mount one; gone with its content at the end.
pub struct Disk {
    dir: tempfile::TempDir,
    mounted: bool,
}

impl Disk {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("sandpen-chaos-").tempdir().unwrap();
        let mounted = mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), Some(OPTIONS));
        if let Err(error) = mounted {
            skip(Reason::NoMounts, format_args!("no disk is filled: a tmpfs: {error}"));
        }
        Self { dir, mounted: mounted.is_ok() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }

    /// Takes all room that is left; `false` where making the disk was skipped already.
    pub fn fill(&self) -> bool {
        if !self.mounted {
            return false;
        }
        let mut file = File::options().append(true).create(true).open(self.filler()).unwrap();
        let block = vec![0; 1 << 20];
        let mut length = block.len();
        // The logs take the last pages meanwhile; what is left after that is not worth a page.
        while length >= 4096 {
            match file.write(&block[..length]) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => length /= 4,
                Err(error) => panic!("filling the disk: {error}"),
            }
        }
        true
    }

    pub fn free(&self) {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("freeing the disk: {error}"),
            _ => {}
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            // Detached: a process that a failed test left must not keep it.
            let _ = umount2(self.dir.path(), MntFlags::MNT_DETACH);
        }
    }
}
