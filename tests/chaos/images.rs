//! The store of images while who works on it dies: two daemons of two state directories share one, images that share layers
//! are loaded, imported, named, saved and removed at the same time, and daemons, the processes that read archives for them, and
//! clients are killed at any moment of it. After each round:
//!
//! - what a client was told is so, and what nobody touched is as it was;
//! - new daemons start, and list the same images; the store finds nothing wrong with itself;
//! - no process, draft, lock or temporary file is left;
//! - what is saved has the layers of its image, byte for byte: of one image, in each tenth round of all.
//!
//! At the end everything can be removed, and nothing is left of the store but its skeleton.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use sandpen_images::archive::ImageArchive;
use sandpen_images::platform::Platform;
use sandpen_images::save::ArchiveFormat;
use sandpen_images::store::Store;
use sandpen_types::image::ImageDigest;

use crate::support::dice::Dice;
use crate::support::{Home, explain, finish, output, send_if_there, spawn, until};

mod deed;

use deed::{Deed, IMAGES, IMPORTED, MORE, Victim, name};

/// Layers that images are made of.
const LAYERS: usize = 3 + IMAGES;
/// What the store's directory holds when it is empty.
const SKELETON: [&str; 3] = ["lock", "names.json", "padding"];

/// The two daemons, their store, and what is brought there.
pub struct Images {
    homes: [Home; 2],
    shared: tempfile::TempDir,
    dice: Dice,
    layers: BTreeMap<usize, Vec<usize>>,
    pub counts: BTreeMap<String, u64>,
}

impl Images {
    pub fn new(seed: u64) -> Self {
        let shared = tempfile::Builder::new().prefix("sandpen-test-").tempdir().unwrap();
        let mut dice = Dice::new(seed);
        for directory in ["data", "tmp", "root", "saved"] {
            fs::create_dir(shared.path().join(directory)).unwrap();
        }
        let tar = |number: usize| shared.path().join(format!("layer-{number}.tar"));
        for number in 0..LAYERS {
            write_layer(&tar(number), number, &mut dice);
        }
        for number in 0..40 {
            fs::write(shared.path().join(format!("root/{number}")), random(&mut dice, 50_000)).unwrap();
        }
        let mut layers = BTreeMap::new();
        for number in 0..IMAGES {
            // The lowest one is everybody's, and each has one of its own.
            let of: Vec<_> = [0, 1 + number % 2, 3 + number].into_iter().collect();
            let format = if number % 2 == 0 { ArchiveFormat::Docker } else { ArchiveFormat::Oci };
            let tars: Vec<_> = of.iter().map(|layer| tar(*layer)).collect();
            crate::support::images::archive(&shared.path().join(format!("{number}")), format, &name(number), &tars);
            layers.insert(number, of);
        }
        Self { homes: [Home::new(), Home::new()], shared, dice, layers, counts: BTreeMap::new() }
    }

    fn path(&self, below: &str) -> PathBuf {
        self.shared.path().join(below)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("data").join(Store::DIRECTORY)).unwrap()
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn command(&self, home: usize, args: &[&str]) -> std::process::Command {
        let mut command = self.homes[home].sandpen(args);
        command.env("SANDPEN_DATA_DIR", self.path("data")).env("TMPDIR", self.path("tmp"));
        command
    }

    fn ok(&self, home: usize, args: &[&str]) -> Vec<u8> {
        let output = output(self.command(home, args));
        assert!(output.status.success(), "sandpen {args:?}: {}", explain(&output));
        output.stdout
    }

    /// The processes that read archives, of both daemons.
    fn readers(&self) -> Vec<u32> {
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

    fn kill(&mut self, victim: Victim, home: usize, clients: &[u32]) {
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
                self.count(format!("SIGKILL to a {what}"));
            }
        }
    }

    /// The names that are in the store.
    fn names(&self) -> BTreeMap<String, ImageDigest> {
        let images = self.store().images().unwrap();
        images.iter().flat_map(|image| image.names.iter().map(|name| (name.familiar(), image.digest))).collect()
    }

    pub fn round(&mut self, round: u64) {
        let before = self.names();
        let mut clients = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let home = usize::try_from(self.dice.below(2)).unwrap();
            let deed = Deed::any(&mut self.dice);
            clients.push((spawn(deed.command(|args| self.command(home, args), self.shared.path())), deed));
            self.dice.pause(120);
        }
        let pids: Vec<_> = clients.iter().map(|(child, _)| child.id()).collect();
        let reads = clients.iter().any(|(_, deed)| !matches!(deed, Deed::Tag(_) | Deed::Remove(_)));
        if reads && self.dice.below(4) > 0 {
            // In the middle of it, where it comes so far.
            let end = Instant::now() + Duration::from_secs(1);
            while self.readers().is_empty() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.dice.pause(40);
        } else {
            self.dice.pause(150);
        }
        for _ in 0..=self.dice.below(2) {
            let victim = Victim::any(&mut self.dice);
            let home = usize::try_from(self.dice.below(2)).unwrap();
            self.kill(victim, home, &pids);
            self.dice.pause(60);
        }
        let mut done = Vec::new();
        for (child, deed) in clients {
            let output = finish(child);
            let ended = match output.status.code() {
                Some(0) => "done",
                Some(_) => "refused or broken off",
                None => "killed",
            };
            let kind = format!("{deed:?}");
            self.count(format!("{}: {ended}", kind.split('(').next().unwrap()));
            // One of several may have been written over meanwhile.
            if let Deed::Save(number) = deed
                && output.status.success()
                && pids.len() == 1
            {
                self.check_archive(&self.path("saved/archive.tar"), &BTreeSet::from([number]));
            }
            done.push((deed, output.status.success()));
        }
        self.settle();
        self.check_told(&before, &done);
        if round.is_multiple_of(10) {
            self.check_all();
        } else {
            let there: Vec<_> = (0..IMAGES).filter(|number| self.names().contains_key(&name(*number))).collect();
            if !there.is_empty() {
                let number = there[usize::try_from(self.dice.below(there.len() as u64)).unwrap()];
                self.save_and_check(&[number]);
            }
        }
    }

    /// New daemons, what dead ones left is gone, and all is as it must be.
    fn settle(&mut self) {
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
        for directory in ["tmp", "saved"] {
            let left = names_in(&self.path(directory));
            let left: Vec<_> = left.into_iter().filter(|name| name != "archive.tar").collect();
            // A client that is killed leaves the draft of its file.
            let is_draft = |name: &String| directory == "saved" && name.starts_with(".sandpen-");
            assert!(left.iter().all(is_draft), "{directory}: {left:?}");
            for name in left {
                fs::remove_file(self.path(directory).join(name)).unwrap();
            }
        }
    }

    fn left_below(&self, directories: &[&str]) -> Vec<String> {
        let store = self.store();
        directories.iter().flat_map(|directory| names_in(&store.directory().join(directory))).collect()
    }

    /// What clients were told is so, and what none of them was about has not changed.
    fn check_told(&self, before: &BTreeMap<String, ImageDigest>, done: &[(Deed, bool)]) {
        let after = self.names();
        let removes_all = done.iter().any(|(deed, _)| *deed == Deed::PruneAll);
        let all: Vec<_> = (0..IMAGES).map(name).chain([IMPORTED.to_owned()]).collect();
        for of in &all {
            let (was, is) = (before.contains_key(of), after.contains_key(of));
            let brought = done.iter().filter(|(deed, _)| deed.brings(of)).collect::<Vec<_>>();
            let removed = done.iter().filter(|(deed, _)| deed.removes(of)).collect::<Vec<_>>();
            let succeeded = |deeds: &[&(Deed, bool)]| deeds.iter().any(|(_, succeeded)| *succeeded);
            match (brought.is_empty(), removed.is_empty()) {
                (true, true) => assert_eq!(was, is, "{of}: nobody was about it: {done:?}"),
                (false, true) => assert!(is || !(was || succeeded(&brought)), "{of} is lost: {done:?}"),
                (true, false) => assert!(!(is && succeeded(&removed)), "{of} is still there: {done:?}"),
                (false, false) => {}
            }
        }
        let tagged = done.iter().any(|(deed, _)| matches!(deed, Deed::Tag(_)));
        assert!(tagged || removes_all || before.get(MORE) == after.get(MORE), "{MORE}: {done:?}");
    }

    fn check_all(&mut self) {
        let names = self.names();
        let there: Vec<_> = (0..IMAGES).filter(|number| names.contains_key(&name(*number))).collect();
        if !there.is_empty() {
            self.save_and_check(&there);
        }
    }

    fn save_and_check(&mut self, numbers: &[usize]) {
        let archive = self.path("saved/archive.tar");
        let names: Vec<_> = numbers.iter().map(|number| name(*number)).collect();
        let home = usize::try_from(self.dice.below(2)).unwrap();
        let format = if self.dice.below(2) == 0 { "oci" } else { "docker" };
        let to = archive.to_str().unwrap();
        let args = ["image", "save", "--format", format, "-o", to].into_iter().chain(names.iter().map(String::as_str));
        self.ok(home, &args.collect::<Vec<_>>());
        self.check_archive(&archive, &numbers.iter().copied().collect());
        for _ in numbers {
            self.count("images saved and compared");
        }
    }

    /// Whether an archive has these images with the layers that they were loaded with.
    fn check_archive(&self, path: &Path, numbers: &BTreeSet<usize>) {
        let archive = ImageArchive::open(File::open(path).unwrap()).unwrap();
        let images = archive.images(&Platform::host()).unwrap();
        assert_eq!(images.len(), numbers.len());
        for image in images {
            let names: Vec<_> = image.names.iter().map(sandpen_types::image::ImageReference::familiar).collect();
            let number = numbers.iter().find(|number| names.contains(&name(**number)));
            let number = number.unwrap_or_else(|| panic!("{names:?}"));
            assert_eq!(image.layers.len(), self.layers[number].len());
            for (layer, of) in image.layers.iter().zip(&self.layers[number]) {
                let mut bytes = Vec::new();
                archive.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
                assert!(bytes == fs::read(self.path(&format!("layer-{of}.tar"))).unwrap(), "layer {of} of {names:?}");
            }
        }
    }

    /// Removes everything: nothing is left then.
    pub fn end(&mut self) {
        self.check_all();
        self.ok(0, &["image", "prune", "-f", "-a"]);
        until("layers are gone", || {
            self.ok(1, &["image", "prune", "-f"]);
            self.left_below(&["layers", "images", "drafts", "locks", "leases"]).is_empty()
        });
        let store = self.store();
        let mut files: Vec<_> = names_in(store.directory());
        files.retain(|name| store.directory().join(name).is_file());
        assert!(files.iter().all(|name| SKELETON.contains(&name.as_str())), "{files:?}");
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

fn random(dice: &mut Dice, bytes: u64) -> Vec<u8> {
    (0..bytes / 8).flat_map(|_| dice.next().to_le_bytes()).collect()
}

/// A layer with some files, one of which is large.
fn write_layer(path: &Path, number: usize, dice: &mut Dice) {
    let root = path.with_extension("d");
    fs::create_dir_all(root.join(format!("layer-{number}"))).unwrap();
    for file in 0..30 {
        let bytes = if file == 0 { 1_000_000 + dice.below(6_000_000) } else { dice.below(20_000) };
        fs::write(root.join(format!("layer-{number}/{file}")), random(dice, bytes)).unwrap();
    }
    crate::support::images::tar(&root, path);
}
