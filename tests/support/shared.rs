//! A shared directory with something beside it, for tests of what a hostile kernel gets out of it.

use std::fs;
use std::path::PathBuf;

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::Uid;

/// What must work, so that the rest proves something.
pub const INSIDE: [&str; 2] = ["read inside", "change the mode inside"];

/// Whether an attempt reached what is outside. What was made or moved by such a name tells by where it is then: a server
/// that has nothing above the share makes it in there.
pub fn leads_out(name: &str, word: &str) -> bool {
    word == "done" && !INSIDE.contains(&name) && !["make a ", "move "].iter().any(|harmless| name.starts_with(harmless))
}

/// A share with something beside it.
pub struct Shared {
    dir: tempfile::TempDir,
}

impl Shared {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shared = Self { dir };
        fs::create_dir(shared.share()).unwrap();
        for name in ["outside", "victim", "share/file"] {
            fs::write(shared.dir.path().join(name), "some bytes of a file").unwrap();
        }
        if Uid::effective().is_root() {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&shared.share().join("null"), SFlag::S_IFCHR, mode, makedev(1, 3)).unwrap();
        }
        shared
    }

    pub fn share(&self) -> PathBuf {
        self.dir.path().join("share")
    }

    /// What is beside the share, by name with its mode, which nobody may have changed.
    pub fn beside(&self) -> Vec<String> {
        use std::os::unix::fs::PermissionsExt as _;
        let entries = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap());
        let mut lines: Vec<_> = entries
            .map(|entry| {
                format!("{} {:o}", entry.file_name().display(), entry.metadata().unwrap().permissions().mode())
            })
            .collect();
        lines.sort();
        lines
    }
}
