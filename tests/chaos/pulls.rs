//! Pulling images over a line that resets connections and stands still, while the daemons, the processes that unpack for
//! them and the clients are killed. After each round:
//!
//! - new daemons start and list the same images, the store finds nothing wrong with itself, and no process, draft, lock or
//!   temporary file is left;
//! - what is kept of layers that broke off is the beginning of what the registry has;
//! - a pull to the end brings the image that skopeo sees, whose archive is the one that a pull without any trouble gives,
//!   and keeps nothing of its layers; over a good line it fetches what is missing and no more.
//!
//! At the end everything can be removed, and nothing is left.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::time::{Duration, Instant};

use sandpen_images::archive::ImageArchive;
use sandpen_images::digest::digest_of;
use sandpen_images::platform::Platform;
use sandpen_types::image::ImageDigest;
use serde_json::Value;

use crate::pair::{Pair, Victim};
use crate::support::dice::Dice;
use crate::support::proxy::{Proxy, Way};
use crate::support::registry::{Registry, tool};
use crate::support::{explain, finish, output, spawn, until};

const MIB: u64 = 1 << 20;
/// The most that all but the missing bytes of large layers takes: documents, headers, the small layer, and what a proxy
/// had on its way to a connection that died.
const REST: u64 = MIB;
/// Tries until a pull over a bad line has to have come to its end.
const TRIES: usize = 20;

/// An image of the registry.
struct Image {
    name: String,
    /// That of its configuration, as skopeo sees it.
    digest: ImageDigest,
    /// Digests of its layers, packed and not, and their bytes as they come.
    layers: Vec<(ImageDigest, ImageDigest, u64)>,
    /// What `sandpen image save` wrote of it after a pull without any trouble.
    archive: Vec<u8>,
}

pub struct Pulls {
    // The registry's files are in the pair's directory: it goes first.
    proxy: Proxy,
    registry: Registry,
    pair: Pair,
    dice: Dice,
    images: Vec<Image>,
    counts: BTreeMap<String, u64>,
    /// Bytes of all images that were brought, as far as they were not there.
    wanted: u64,
    /// Bytes that came while they were.
    came: u64,
}

impl Pulls {
    pub fn new(seed: u64) -> Self {
        let pair = Pair::new();
        let mut dice = Dice::new(seed);
        fs::create_dir(pair.path("registry")).unwrap();
        let registry = Registry::start(&pair.path("registry"), false);
        let proxy = Proxy::before(registry.port);
        let mut random = |mib: u64| (0..mib * MIB / 8).flat_map(|_| dice.next().to_le_bytes()).collect::<Vec<_>>();
        let base = random(5);
        registry.put("one:1", &[("base", base.clone()), ("small", vec![b'x'; 3000]), ("a", random(7))]);
        registry.put("two:1", &[("base", base), ("b", random(3)), ("c", random(4)), ("d", random(2))]);
        let counts = BTreeMap::new();
        let mut pulls = Self { proxy, registry, pair, dice, images: Vec::new(), counts, wanted: 0, came: 0 };
        pulls.images = ["one:1", "two:1"].map(|name| pulls.image(name)).into();
        let shared = pulls.images[0].layers.iter().filter(|layer| pulls.images[1].layers.contains(layer)).count();
        assert_eq!(shared, 1, "they have one base");
        pulls
    }

    /// What skopeo and a pull without any trouble say of an image; nothing of it stays in the store.
    fn image(&self, name: &str) -> Image {
        let of = format!("docker://{}", self.registry.reference(name));
        let inspect =
            |how: &[&str]| tool("skopeo", &[&["inspect", "--raw", "--tls-verify=false"], how, &[&of]].concat());
        let (manifest, config) = (inspect(&[]), inspect(&["--config"]));
        let manifest: Value = serde_json::from_slice(&manifest).unwrap();
        let diff_ids: Value = serde_json::from_slice(&config).unwrap();
        let digest = |value: &Value| value.as_str().unwrap().parse::<ImageDigest>().unwrap();
        let layers = manifest["layers"].as_array().unwrap().iter();
        let layers = layers.zip(diff_ids["rootfs"]["diff_ids"].as_array().unwrap());
        let layers =
            layers.map(|(layer, diff_id)| (digest(&layer["digest"]), digest(diff_id), layer["size"].as_u64().unwrap()));
        let mut image =
            Image { name: self.reference(name), digest: digest_of(&config), layers: layers.collect(), archive: vec![] };
        self.pair.ok(0, &["pull", &image.name]);
        image.archive = self.saved(&image);
        let archive = ImageArchive::open(File::open(self.pair.path("archive.tar")).unwrap()).unwrap();
        let images = archive.images(&Platform::host()).unwrap();
        for (layer, (_, diff_id, _)) in images[0].layers.iter().zip(&image.layers) {
            let mut bytes = Vec::new();
            archive.open_layer(layer).unwrap().read_to_end(&mut bytes).unwrap();
            assert_eq!(digest_of(&bytes), *diff_id);
        }
        self.pair.ok(1, &["image", "rm", &image.name]);
        image
    }

    fn reference(&self, name: &str) -> String {
        format!("127.0.0.1:{}/{name}", self.proxy.port)
    }

    /// The archive of an image in the store.
    fn saved(&self, image: &Image) -> Vec<u8> {
        let archive = self.pair.path("archive.tar");
        self.pair.ok(0, &["image", "save", "-o", archive.to_str().unwrap(), &image.name]);
        fs::read(archive).unwrap()
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    fn bad(&mut self) -> Way {
        let average = 2 * MIB + self.dice.below(6 * MIB);
        Way::Bad(Dice::new(self.dice.next()), average)
    }

    pub fn round(&mut self, round: u64) {
        let number = usize::try_from(self.dice.below(self.images.len() as u64)).unwrap();
        let (before, wanted) = (self.proxy.passed(), self.missing(&[0, 1]).0);
        for _ in 0..=self.dice.below(3) {
            self.disturb(number);
            self.pair.settle();
            self.check_kept();
        }
        if round.is_multiple_of(2) {
            let way = self.bad();
            self.proxy.set(way);
            self.finish_somehow(number);
        } else {
            self.proxy.set(Way::Open);
            let (missing, kept) = self.missing(&[number]);
            let before = self.proxy.passed();
            self.pair.ok(Pair::any(&mut self.dice), &["pull", &self.images[number].name]);
            let came = self.proxy.passed() - before;
            assert!(came <= missing - kept + REST, "{came} bytes came, {missing} were missing and {kept} kept");
            self.count(if kept > 0 { "pulls to the end that went on" } else { "pulls to the end with nothing kept" });
        }
        self.pair.settle();
        self.check(number);
        self.came += self.proxy.passed() - before;
        self.wanted += wanted - self.missing(&[0, 1]).0;
        // The next round has to bring something.
        for number in [number, usize::try_from(self.dice.below(2)).unwrap()] {
            if self.pair.names().contains_key(&self.images[number].name) {
                self.pair.ok(0, &["image", "rm", &self.images[number].name]);
            }
        }
    }

    /// Clients pull over a bad line, and somebody is killed meanwhile.
    fn disturb(&mut self, number: usize) {
        let way = self.bad();
        self.proxy.set(way);
        let mut clients = Vec::new();
        for client in 0..=self.dice.below(2) {
            let of = if client == 0 { number } else { usize::try_from(self.dice.below(2)).unwrap() };
            let home = Pair::any(&mut self.dice);
            clients.push((spawn(self.pair.command(home, &["pull", &self.images[of].name])), of));
        }
        let pids: Vec<_> = clients.iter().map(|(child, _)| child.id()).collect();
        // In the middle of it, where it comes so far.
        let end = Instant::now() + Duration::from_secs(2);
        while self.pair.readers().is_empty() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.dice.pause(400);
        for _ in 0..=self.dice.below(2) {
            let victim = Victim::any(&mut self.dice);
            let home = Pair::any(&mut self.dice);
            self.pair.kill(victim, home, &pids, &mut self.counts);
            self.dice.pause(100);
        }
        for (child, of) in clients {
            let output = finish(child);
            let ended = match output.status.code() {
                Some(0) => "done",
                Some(_) => "broken off",
                None => "killed",
            };
            self.count(format!("pulls amid deaths: {ended}"));
            if output.status.success() {
                let name = &self.images[of].name;
                assert_eq!(self.pair.names().get(name), Some(&self.images[of].digest), "{name}");
            }
        }
    }

    /// Pulls until it has succeeded over the bad line.
    fn finish_somehow(&mut self, number: usize) {
        for _ in 0..TRIES {
            let home = Pair::any(&mut self.dice);
            let output = output(self.pair.command(home, &["pull", &self.images[number].name]));
            if output.status.success() {
                self.count("pulls to the end over a bad line");
                return;
            }
            let said = explain(&output);
            assert!(said.contains(&format!("127.0.0.1:{}", self.proxy.port)), "{said}");
            self.count("pulls given up over a bad line");
        }
        panic!("a bad line brings it in no {TRIES} tries");
    }

    /// Bytes of layers of these images that are not in the store, and how many of those are kept.
    fn missing(&self, numbers: &[usize]) -> (u64, u64) {
        let store = self.pair.store();
        let of = numbers.iter().flat_map(|number| &self.images[*number].layers);
        let layers: BTreeMap<_, _> = of.map(|(packed, diff_id, bytes)| (packed, (diff_id, bytes))).collect();
        let mut sum = (0, 0);
        for (packed, (diff_id, bytes)) in layers {
            if !store.has_layer(diff_id).unwrap() {
                sum.0 += bytes;
                sum.1 += fs::metadata(store.partial_path(packed)).map_or(0, |meta| meta.len());
            }
        }
        sum
    }

    /// What is kept is the beginning of what the registry has, and nobody holds it.
    fn check_kept(&mut self) {
        let store = self.pair.store();
        let is_held = || store.partials().unwrap().iter().any(|partial| partial.is_held);
        until("nobody holds what is kept", || !is_held());
        for partial in store.partials().unwrap() {
            let kept = fs::read(store.partial_path(&partial.packed)).unwrap();
            let whole = self.registry.blob(&partial.packed);
            assert!(whole.starts_with(&kept), "{} bytes of {}", kept.len(), partial.packed);
            self.count("layers that broke off and were kept");
        }
    }

    /// It is in the store, and is what it should be; of its layers nothing is kept.
    fn check(&self, number: usize) {
        let image = &self.images[number];
        assert_eq!(self.pair.names().get(&image.name), Some(&image.digest));
        assert!(self.saved(image) == image.archive, "the archive of {} is another one", image.name);
        let partials = self.pair.store().partials().unwrap();
        assert!(
            !partials.iter().any(|of| image.layers.iter().any(|(packed, ..)| *packed == of.packed)),
            "{partials:?}"
        );
    }

    /// Removes everything; the figures, for people.
    pub fn end(self) -> String {
        self.pair.end();
        let mib = |bytes: u64| bytes / MIB;
        let mut report = format!(
            "nothing half, damaged or left\n  {} MiB came for {} MiB of layers; {} connections were broken",
            mib(self.came),
            mib(self.wanted),
            self.proxy.broken()
        );
        for (what, count) in &self.counts {
            let _ = write!(report, "\n  {count:>6} {what}"); // a String takes everything
        }
        report
    }
}
