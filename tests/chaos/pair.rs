//! Two daemons of two state directories that share one store of images, and whoever works on it for them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use sandpen_images::store::Store;
use sandpen_types::image::ImageDigest;

use crate::support::dice::Dice;
use crate::support::{Home, explain, output, send_if_there, until};

/// What may be killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    Daemon,
    Reader,
    Both,
    Client,
    Nobody,
}

impl Victim {
    pub fn any(dice: &mut Dice) -> Self {
        match dice.below(9) {
            0..=2 => Self::Daemon,
            3..=4 => Self::Reader,
            5..=6 => Self::Both,
            7 => Self::Client,
            _ => Self::Nobody,
        }
    }
}

/// What the store's directory holds when it is empty.
const SKELETON: [&str; 3] = ["lock", "names.json", "padding"];

pub struct Pair {
    homes: [Home; 2],
    shared: tempfile::TempDir,
}

impl Pair {
    pub fn new() -> Self {
        let shared = tempfile::Builder::new().prefix("sandpen-test-").tempdir().unwrap();
        for directory in ["data", "tmp"] {
            fs::create_dir(shared.path().join(directory)).unwrap();
        }
        Self { homes: [Home::new(), Home::new()], shared }
    }

    /// One of the two.
    pub fn any(dice: &mut Dice) -> usize {
        usize::try_from(dice.below(2)).unwrap()
    }

    pub fn root(&self) -> &Path {
        self.shared.path()
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.root().join(below)
    }

    pub fn store(&self) -> Store {
        Store::open(&self.path("data").join(Store::DIRECTORY)).unwrap()
    }

    pub fn command(&self, home: usize, args: &[&str]) -> Command {
        let mut command = self.homes[home].sandpen(args);
        command.env("SANDPEN_DATA_DIR", self.path("data")).env("TMPDIR", self.path("tmp"));
        command
    }

    pub fn ok(&self, home: usize, args: &[&str]) -> Vec<u8> {
        let output = output(self.command(home, args));
        assert!(output.status.success(), "sandpen {args:?}: {}", explain(&output));
        output.stdout
    }

    /// The processes that read archives and layers, of both daemons.
    pub fn readers(&self) -> Vec<u32> {
        let store = self.path("data").to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains("__image") && line.contains(&store) {
                found.push(pid);
            }
        }
        found
    }

    /// Kills whoever is there of a kind, and counts that.
    pub fn kill(&self, victim: Victim, home: usize, clients: &[u32], counts: &mut BTreeMap<String, u64>) {
        let daemon = self.homes[home].lock_holder();
        let readers = self.readers();
        let mut killed = Vec::new();
        if matches!(victim, Victim::Daemon | Victim::Both) {
            killed.extend(daemon.map(|pid| (pid, "daemon")));
        }
        if matches!(victim, Victim::Reader | Victim::Both) {
            killed.extend(readers.into_iter().map(|pid| (pid, "reader of archives")));
        }
        if victim == Victim::Client {
            killed.extend(clients.first().map(|pid| (*pid, "client")));
        }
        for (pid, what) in killed {
            if crate::support::is_there(pid) {
                send_if_there(pid, Signal::SIGKILL);
                *counts.entry(format!("SIGKILL to a {what}")).or_default() += 1;
            }
        }
    }

    /// The names that are in the store.
    pub fn names(&self) -> BTreeMap<String, ImageDigest> {
        let images = self.store().images().unwrap();
        images.iter().flat_map(|image| image.names.iter().map(|name| (name.familiar(), image.digest))).collect()
    }

    /// New daemons, what dead ones left is gone, and the store is as it must be.
    pub fn settle(&self) {
        until("the processes that read archives have ended", || self.readers().is_empty());
        let listed = [0, 1].map(|home| {
            let text = self.ok(home, &["image", "ls", "--json"]);
            let images: Vec<sandpen_api::ImageEntry> = serde_json::from_slice(&text).unwrap();
            images.into_iter().map(|image| (image.digest, image.names)).collect::<Vec<_>>()
        });
        assert_eq!(listed[0], listed[1]);
        let store = self.store();
        until("nothing is left of what was not finished", || {
            store.sweep().unwrap();
            !store.is_being_made().unwrap() && self.left_below(&["drafts", "locks"]).is_empty()
        });
        assert_eq!(store.images().unwrap().len(), listed[0].len());
        assert_eq!(store.verify().unwrap(), Vec::<String>::new());
        let unwritten: Vec<_> = names_in(store.directory()).into_iter().filter(|name| name.starts_with('.')).collect();
        assert_eq!(unwritten, Vec::<String>::new());
        assert_eq!(names_in(&self.path("tmp")), Vec::<String>::new());
    }

    pub fn left_below(&self, directories: &[&str]) -> Vec<String> {
        let store = self.store();
        directories.iter().flat_map(|directory| names_in(&store.directory().join(directory))).collect()
    }

    /// Removes everything: nothing is left then.
    pub fn end(&self) {
        self.ok(0, &["image", "prune", "-f", "-a"]);
        until("layers are gone", || {
            self.ok(1, &["image", "prune", "-f"]);
            self.left_below(&["layers", "images", "drafts", "partial", "locks", "leases", "manifests"]).is_empty()
        });
        let store = self.store();
        let mut files: Vec<_> = names_in(store.directory());
        files.retain(|name| store.directory().join(name).is_file());
        assert!(files.iter().all(|name| SKELETON.contains(&name.as_str())), "{files:?}");
    }
}

/// What is in a directory, sorted.
pub fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}
