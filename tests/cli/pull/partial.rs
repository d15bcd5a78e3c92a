//! Layers that broke off: the next pull fetches the rest, whoever was killed, and begins anew where what was kept is of no
//! use. What came is counted by a proxy before the registry.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use sandpen::images::digest::digest_of;
use sandpen::images::store::StoredPartial;
use serde_json::json;

use super::Place;
use crate::support::proxy::{Proxy, Way};
use crate::support::registry::{has_all, tool};
use crate::support::{Home, output, send, succeeds, until};

const MIB: u64 = 1 << 20;
/// The large layer's bytes.
const SIZE: u64 = 24 * MIB;
/// Where it is broken off, in bytes from the registry.
const BREAK: u64 = 9 * MIB;
/// The most that all else takes: manifests, configurations, the small layer, headers.
const REST: u64 = MIB / 8;

/// A place whose registry is behind a proxy.
struct Far {
    proxy: Proxy,
    place: Place,
}

impl Far {
    fn new() -> Self {
        let place = Place::new(false);
        place.put("app:1", usize::try_from(SIZE).unwrap());
        let proxy = Proxy::before(place.registry.port);
        Self { proxy, place }
    }

    fn name(&self) -> String {
        format!("127.0.0.1:{}/app:1", self.proxy.port)
    }

    fn pull(&self) -> Command {
        self.place.sandpen(&["pull", &self.name()])
    }

    /// Pulls until the proxy lets nothing more through, and all of that is kept.
    fn begin(&self, home: &Home) -> Child {
        self.proxy.set(Way::HeldAt(BREAK));
        let before = self.kept();
        home.ok(&["ps"]);
        let mut client = of(home, &self.place.home, &["pull", &self.name()]);
        let client = client.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        until("it stands still", || self.kept() > before + BREAK - REST);
        client
    }

    fn partials(&self) -> Vec<StoredPartial> {
        self.place.store().partials().unwrap()
    }

    /// How many bytes are kept. Nothing is locked for it: whoever begins must find it free.
    fn kept(&self) -> u64 {
        let directory = self.place.store().directory().join("partial");
        let entries = fs::read_dir(directory).unwrap().flatten();
        entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).sum()
    }

    /// Pulls until the client is killed in the middle; how many bytes are kept then.
    fn break_off(&self) -> u64 {
        let mut client = self.begin(&self.place.home);
        client.kill().unwrap();
        client.wait().unwrap();
        self.nothing_runs(&self.place.home);
        self.proxy.set(Way::Open);
        self.kept()
    }

    fn nothing_runs(&self, home: &Home) {
        let is_helper = |line: &str| line.contains("__image");
        until("nobody pulls", || {
            !home.processes().iter().any(|(_, line)| is_helper(line)) && !self.partials().iter().any(|of| of.is_held)
        });
    }

    /// Pulls to the end; how many bytes came.
    fn finish(&self) -> u64 {
        let before = self.proxy.passed();
        succeeds(self.pull());
        self.is_whole();
        self.proxy.passed() - before
    }

    fn is_whole(&self) {
        assert_eq!(self.partials(), []);
        assert!(!self.place.has_drafts());
        assert_eq!(self.place.store().verify().unwrap(), Vec::<String>::new());
        let of = format!("docker://{}", self.place.reference("app:1"));
        let config = tool("skopeo", &["inspect", "--config", "--raw", "--tls-verify=false", &of]);
        assert_eq!(self.place.images()[0]["digest"], json!(digest_of(&config)));
    }
}

/// A command of a home that has the data of another one.
fn of(home: &Home, data: &Home, args: &[&str]) -> Command {
    let mut command = home.sandpen(args);
    command.env("SANDPEN_DATA_DIR", data.data()).env("REGISTRY_AUTH_FILE", data.path().join("no-credentials.json"));
    command
}

#[test]
fn what_broke_off_goes_on_whoever_was_killed() {
    if !has_all() {
        return;
    }
    let far = Far::new();
    let home = &far.place.home;
    let kept = far.break_off();
    assert!((BREAK - REST..BREAK).contains(&kept), "{kept}");

    // It is shown, and taken by a prune.
    let usage = far.place.ok(&["df", "-v"]);
    let path = far.place.store().partial_path(&far.partials()[0].packed);
    assert!(usage.contains(path.to_str().unwrap()), "{usage}");
    let would = far.place.ok(&["image", "prune", "--dry-run"]);
    assert_eq!(would, "9.0M would be freed\n");
    assert_eq!(far.kept(), kept);

    // A daemon that is killed, and goes further.
    let mut client = far.begin(home);
    home.kill_daemon();
    client.wait().unwrap();
    far.nothing_runs(home);
    far.proxy.set(Way::Open);
    let kept = far.kept();
    assert!((2 * (BREAK - REST)..2 * BREAK).contains(&kept), "{kept}");
    let came = far.finish();
    assert!((SIZE - kept..SIZE - kept + REST).contains(&came), "{came} after {kept}");
    assert!(far.place.registry.fetched().iter().any(|line| line.contains(" 206 ")));

    // Nothing of what is there by other ways is kept.
    let archive = home.path().join("app.tar");
    let archive = archive.to_str().unwrap();
    far.place.ok(&["image", "save", "-o", archive, &far.name()]);
    far.place.ok(&["image", "rm", &far.name()]);
    far.break_off();
    far.place.ok(&["image", "load", archive]);
    assert_eq!(far.partials().len(), 1);
    assert!(far.finish() < REST);
    // And a prune takes what nobody holds.
    far.place.ok(&["image", "rm", &far.name()]);
    let kept = far.break_off();
    let freed = far.place.ok(&["image", "prune", "-f"]);
    assert!(kept > 0 && !freed.starts_with('0') && far.partials().is_empty(), "{freed}");
}

#[test]
fn what_was_kept_and_is_damaged_is_fetched_anew() {
    if !has_all() {
        return;
    }
    let far = Far::new();
    let path = || far.place.store().partial_path(&far.partials()[0].packed);
    let again = || {
        far.place.ok(&["image", "rm", &far.name()]);
        far.break_off()
    };
    // As a power failure leaves it.
    let kept = far.break_off();
    let bytes = fs::read(path()).unwrap();
    let zeros = usize::try_from(4 * MIB).unwrap();
    fs::write(path(), [&bytes[..zeros], &vec![0; bytes.len() - zeros]].concat()).unwrap();
    let came = far.finish();
    assert!(came >= SIZE && came < 2 * SIZE - kept + REST, "{came}");
    // A bit near the end of it, which only the digest of all tells.
    let kept = again();
    let mut bytes = fs::read(path()).unwrap();
    let end = bytes.len() - 1;
    bytes[end] ^= 1;
    fs::write(path(), bytes).unwrap();
    let came = far.finish();
    assert!(came >= 2 * SIZE - kept - REST && came < 2 * SIZE - kept + REST, "{came}");
    // More than there is of it.
    again();
    File::options().append(true).open(path()).unwrap().write_all(&vec![7; usize::try_from(SIZE).unwrap()]).unwrap();
    let came = far.finish();
    assert!((SIZE..SIZE + REST).contains(&came), "{came}");
    // A way to a file that is not ours to read or write.
    again();
    let other = far.place.home.path().join("other");
    fs::write(&other, "other").unwrap();
    let link = path();
    fs::remove_file(&link).unwrap();
    symlink(&other, &link).unwrap();
    let came = far.finish();
    assert!((SIZE..SIZE + REST).contains(&came), "{came}");
    assert_eq!(fs::read(&other).unwrap(), b"other");
    // What nobody has asked for in a week goes with the next draft.
    again();
    let file = File::options().write(true).open(path()).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(8 * 24 * 3600)).unwrap();
    far.place.store().draft().unwrap();
    assert_eq!(far.partials(), []);
}

#[test]
fn a_registry_without_ranges_sends_all_and_one_that_is_gone_is_gone_on_with() {
    if !has_all() {
        return;
    }
    let far = Far::new();
    far.proxy.hide_ranges();
    let kept = far.break_off();
    let came = far.finish();
    assert!((SIZE..SIZE + REST).contains(&came), "{came} after {kept}");
    assert!(!far.place.registry.fetched().iter().any(|line| line.contains(" 206 ")));

    // Of a registry that is gone for too long, the error is told; the next one goes on.
    far.place.ok(&["image", "rm", &far.name()]);
    let mut far = far;
    let mut client = far.begin(&far.place.home);
    let kept = far.kept();
    send(far.place.registry.process.id(), Signal::SIGKILL);
    far.place.registry.process.wait().unwrap();
    far.proxy.set(Way::Open);
    assert!(!client.wait().unwrap().success());
    far.nothing_runs(&far.place.home);
    assert!(far.kept() >= kept);
    let port = far.place.registry.port;
    far.place.registry.restart();
    assert_eq!(far.place.registry.port, port);
    let before = far.proxy.passed();
    succeeds(far.pull());
    far.is_whole();
    // It sends all without ranges.
    assert!(far.proxy.passed() - before >= SIZE);
}

/// Two daemons of one data directory: the second one waits, and goes on where the first one was.
#[test]
fn another_daemon_goes_on_where_a_killed_one_was() {
    if !has_all() {
        return;
    }
    let far = Far::new();
    let home = &far.place.home;
    let other = Home::new();
    succeeds(of(&other, home, &["ps"]));
    let mut first = far.begin(home);
    let mut second = of(&other, home, &["pull", &far.name()]);
    second.stdout(Stdio::null()).stderr(Stdio::piped());
    let second = second.spawn().unwrap();
    // Both have the store of this home.
    let waits = || home.processes().iter().filter(|(_, line)| line.contains("__image")).count() > 1;
    until("the second one waits", waits);
    assert!(far.partials().iter().all(|partial| partial.is_held));
    home.kill_daemon();
    first.wait().unwrap();
    far.proxy.set(Way::Open);
    let ended = second.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(output(of(&other, home, &["images", "-q"])).stdout, output(far.place.sandpen(&["images", "-q"])).stdout);
    far.is_whole();
    let came = far.proxy.passed();
    assert!(came < SIZE + 4 * REST, "{came}");
}

/// A client says that it goes on, and where.
#[test]
fn how_far_it_is_counts_what_was_kept() {
    if !has_all() {
        return;
    }
    let far = Far::new();
    far.break_off();
    // What was kept is read no further than a pipe takes it: the line is not missed.
    let said = String::from_utf8(succeeds(far.pull()).stderr).unwrap();
    assert!(said.contains("  goes on at 9.0M of 24M\n"), "{said}");
    far.is_whole();
}
