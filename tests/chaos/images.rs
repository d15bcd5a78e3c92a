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
use std::path::Path;
use std::time::{Duration, Instant};

use sandpen_images::archive::ImageArchive;
use sandpen_images::platform::Platform;
use sandpen_images::save::ArchiveFormat;
use sandpen_types::image::ImageDigest;

use crate::pair::{Pair, Victim, names_in};
use crate::support::dice::Dice;
use crate::support::{finish, spawn};

mod deed;

use deed::{Deed, IMAGES, IMPORTED, MORE, name};

/// Layers that images are made of.
const LAYERS: usize = 3 + IMAGES;
/// The two daemons, their store, and what is brought there.
pub struct Images {
    pair: Pair,
    dice: Dice,
    layers: BTreeMap<usize, Vec<usize>>,
    pub counts: BTreeMap<String, u64>,
}

impl Images {
    pub fn new(seed: u64) -> Self {
        let pair = Pair::new();
        let mut dice = Dice::new(seed);
        for directory in ["root", "saved"] {
            fs::create_dir(pair.path(directory)).unwrap();
        }
        let tar = |number: usize| pair.path(&format!("layer-{number}.tar"));
        for number in 0..LAYERS {
            write_layer(&tar(number), number, &mut dice);
        }
        for number in 0..40 {
            fs::write(pair.path(&format!("root/{number}")), random(&mut dice, 50_000)).unwrap();
        }
        let mut layers = BTreeMap::new();
        for number in 0..IMAGES {
            // The lowest one is everybody's, and each has one of its own.
            let of: Vec<_> = [0, 1 + number % 2, 3 + number].into_iter().collect();
            let format = if number % 2 == 0 { ArchiveFormat::Docker } else { ArchiveFormat::Oci };
            let tars: Vec<_> = of.iter().map(|layer| tar(*layer)).collect();
            crate::support::images::archive(&pair.path(&format!("{number}")), format, &name(number), &tars);
            layers.insert(number, of);
        }
        Self { pair, dice, layers, counts: BTreeMap::new() }
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    pub fn round(&mut self, round: u64) {
        let before = self.pair.names();
        let mut clients = Vec::new();
        for _ in 0..=self.dice.below(3) {
            let home = Pair::any(&mut self.dice);
            let deed = Deed::any(&mut self.dice);
            clients.push((spawn(deed.command(|args| self.pair.command(home, args), self.pair.root())), deed));
            self.dice.pause(120);
        }
        let pids: Vec<_> = clients.iter().map(|(child, _)| child.id()).collect();
        let reads = clients.iter().any(|(_, deed)| !matches!(deed, Deed::Tag(_) | Deed::Remove(_)));
        if reads && self.dice.below(4) > 0 {
            // In the middle of it, where it comes so far.
            let end = Instant::now() + Duration::from_secs(1);
            while self.pair.readers().is_empty() && Instant::now() < end {
                std::thread::sleep(Duration::from_millis(1));
            }
            self.dice.pause(40);
        } else {
            self.dice.pause(150);
        }
        for _ in 0..=self.dice.below(2) {
            let victim = Victim::any(&mut self.dice);
            let home = Pair::any(&mut self.dice);
            self.pair.kill(victim, home, &pids, &mut self.counts);
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
                self.check_archive(&self.pair.path("saved/archive.tar"), &BTreeSet::from([number]));
            }
            done.push((deed, output.status.success()));
        }
        self.settle();
        self.check_told(&before, &done);
        if round.is_multiple_of(10) {
            self.check_all();
        } else {
            let there: Vec<_> = (0..IMAGES).filter(|number| self.pair.names().contains_key(&name(*number))).collect();
            if !there.is_empty() {
                let number = there[usize::try_from(self.dice.below(there.len() as u64)).unwrap()];
                self.save_and_check(&[number]);
            }
        }
    }

    fn settle(&mut self) {
        self.pair.settle();
        for name in names_in(&self.pair.path("saved")).into_iter().filter(|name| name != "archive.tar") {
            // A client that is killed leaves the draft of its file.
            assert!(name.starts_with(".sandpen-"), "{name}");
            fs::remove_file(self.pair.path("saved").join(name)).unwrap();
        }
    }

    /// What clients were told is so, and what none of them was about has not changed.
    fn check_told(&self, before: &BTreeMap<String, ImageDigest>, done: &[(Deed, bool)]) {
        let after = self.pair.names();
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
        let names = self.pair.names();
        let there: Vec<_> = (0..IMAGES).filter(|number| names.contains_key(&name(*number))).collect();
        if !there.is_empty() {
            self.save_and_check(&there);
        }
    }

    fn save_and_check(&mut self, numbers: &[usize]) {
        let archive = self.pair.path("saved/archive.tar");
        let names: Vec<_> = numbers.iter().map(|number| name(*number)).collect();
        let home = Pair::any(&mut self.dice);
        let format = if self.dice.below(2) == 0 { "oci" } else { "docker" };
        let to = archive.to_str().unwrap();
        let args = ["image", "save", "--format", format, "-o", to].into_iter().chain(names.iter().map(String::as_str));
        self.pair.ok(home, &args.collect::<Vec<_>>());
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
                assert!(
                    bytes == fs::read(self.pair.path(&format!("layer-{of}.tar"))).unwrap(),
                    "layer {of} of {names:?}"
                );
            }
        }
    }

    /// Removes everything: nothing is left then.
    pub fn end(&mut self) {
        self.check_all();
        self.pair.end();
    }
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
