//! Copies into a microVM and out of it, and commits of it, while the daemon and the clients are killed. After each round no
//! file has half of its contents under its own name, on either side, an image is whole or not there, and what a client called
//! done is all there.
//!
//! Each file of a version is that version's line again and again, so a file tells by itself what it is.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::daemon;
use crate::support::dice::Dice;
use crate::support::{Home, images, until};

const NAME: &str = "a";
const IMAGE: &str = "committed:1";
/// Small files of a tree, and lines of each and of the large one.
const FILES: usize = 30;
const LINES: usize = 1 << 10;
const LARGE_LINES: usize = 32 << 10;
/// Bytes of a line.
const LINE: usize = 64;
/// Names of what is being written, see docs/copying.md.
const DRAFT: &str = ".sandpen-cp-";
/// Name, bytes, first line and how many different lines each file in a directory of the sandbox has.
const SURVEY: &str = "cd \"$1\" 2>/dev/null || exit 0; for f in *; do [ -e \"$f\" ] && echo \"$f $(wc -c <\"$f\") $(head -c 14 \"$f\") $(uniq \"$f\" | wc -l)\"; done";

/// Files by name: the version that each is of.
type Versions = BTreeMap<String, u64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    In,
    Out,
    Commit,
}

pub struct Copies {
    home: Home,
    dice: Dice,
    counts: BTreeMap<&'static str, u64>,
}

fn line(version: u64) -> String {
    format!("version {version:06}{:>width$}\n", "", width = LINE - 15)
}

fn lines(name: &str) -> usize {
    if name == "large" { LARGE_LINES } else { LINES }
}

/// Makes the tree of a version.
fn make_tree(dir: &Path, version: u64) {
    fs::create_dir_all(dir).unwrap();
    for name in (0..FILES).map(|number| format!("file-{number}")).chain(["large".to_owned()]) {
        fs::write(dir.join(&name), line(version).repeat(lines(&name))).unwrap();
    }
}

/// What a file is, of so many bytes, that begins like this and has so many different lines.
fn version(name: &str, bytes: usize, begin: &str, different: usize) -> u64 {
    assert_eq!((bytes, different), (lines(name) * LINE, 1), "half a file: {name:?}, which begins {begin:?}");
    begin.strip_prefix("version ").unwrap().parse().unwrap()
}

fn versions_on_host(dir: &Path) -> Versions {
    let mut versions = Versions::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if !name.starts_with(DRAFT) {
            let text = fs::read_to_string(entry.path()).unwrap();
            let mut different: Vec<_> = text.lines().collect();
            different.dedup();
            let version = version(&name, text.len(), text.get(..14).unwrap_or_default(), different.len());
            versions.insert(name, version);
        }
    }
    versions
}

impl Copies {
    pub fn new(seed: u64) -> Self {
        let home = Home::with_data();
        images::import(&home, Path::new(&home.rootfs()), "base:1");
        home.ok(&["run", "-d", "--idle", "-n", NAME, "base:1"]);
        let mut copies = Self { home, dice: Dice::new(seed), counts: BTreeMap::new() };
        make_tree(&copies.path("source"), 0);
        let source = copies.source();
        copies.home.ok(&["cp", &source, &format!("{NAME}:/in")]);
        copies.home.ok(&["exec", NAME, "--", "cp", "-r", "/in", "/out"]);
        copies.count("rounds prepared");
        copies
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    fn source(&self) -> String {
        format!("{}/.", self.path("source").display())
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn in_sandbox(&self, directory: &str) -> Versions {
        let text = self.home.ok(&["exec", NAME, "--", "sh", "-c", SURVEY, "sh", directory]);
        versions_of(&text)
    }

    pub fn round(&mut self, round: u64) {
        let action = [Action::In, Action::Out, Action::Commit][usize::try_from(round % 3).unwrap()];
        let is_done = match action {
            Action::In => {
                make_tree(&self.path("source"), round);
                let to = format!("{NAME}:/in");
                self.disturbed(&["cp", &self.source(), &to])
            }
            Action::Out => {
                let script =
                    "cd /out; for f in file-*; do yes \"$1\" | head -n $2 > $f; done; yes \"$1\" | head -n $3 > large";
                let line = line(round);
                let (small, large) = (LINES.to_string(), LARGE_LINES.to_string());
                self.home.ok(&[
                    "exec",
                    NAME,
                    "--",
                    "sh",
                    "-c",
                    script,
                    "sh",
                    line.trim_end_matches('\n'),
                    &small,
                    &large,
                ]);
                let to = self.path("host").display().to_string();
                self.disturbed(&["cp", &format!("{NAME}:/out/."), &to])
            }
            Action::Commit => self.disturbed(&["commit", NAME, IMAGE]),
        };
        if is_done {
            self.count(["copies in done", "copies out done", "commits done"][action as usize]);
        }
        self.check(action, is_done, round);
    }

    /// Runs a client, and kills what there is in between; whether the client called it done.
    fn disturbed(&mut self, arguments: &[&str]) -> bool {
        let mut client = self.home.sandpen(arguments);
        let mut client = client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        self.dice.pause(1000);
        let what = self.dice.below(8);
        if (3..=6).contains(&what)
            && let Some(outage) = daemon::kill_daemon(&self.home)
        {
            self.count("daemons killed");
            outage.time();
        }
        if what <= 3 && is_there(&mut client) {
            client.kill().unwrap();
            self.count("clients killed");
        }
        client.wait().unwrap().success()
    }

    fn check(&mut self, action: Action, is_done: bool, version: u64) {
        let all_of = |versions: &Versions| {
            assert_eq!(versions.len(), FILES + 1, "{versions:?}");
            assert!(!is_done || versions.values().all(|of| *of == version), "done is done: {versions:?}");
        };
        match action {
            Action::In => all_of(&self.in_sandbox("/in")),
            Action::Out if is_done => all_of(&versions_on_host(&self.path("host"))),
            Action::Out => drop(versions_on_host(&self.path("host"))),
            Action::Commit => {
                let wrong = images::store(&self.home).verify().unwrap();
                assert_eq!(wrong, Vec::<String>::new(), "images that are not whole");
                if is_done {
                    let survey = ["run", "--rm", IMAGE, "--", "sh", "-c", SURVEY, "sh", "/in"];
                    let committed = versions_of(&self.home.ok(&survey));
                    assert_eq!(committed, self.in_sandbox("/in"), "what was committed is what there was");
                }
                // Nobody waits for ever, however it went.
                self.home.ok(&["exec", NAME, "--", "touch", "/touched"]);
            }
        }
    }

    /// Nothing is left; sums up.
    pub fn end(self) -> String {
        until("all sessions are forgotten", || {
            let sessions = self.home.ok(&["sessions", NAME, "--json"]);
            serde_json::from_str::<Vec<serde_json::Value>>(&sessions).unwrap().is_empty()
        });
        self.home.ok(&["stop", NAME]);
        let row = self.home.inspect(NAME);
        assert_eq!((&row["state"], &row["generation"]), (&"STOPPED".into(), &1.into()), "{row:#}");
        self.home.ok(&["rm", NAME]);
        self.home.ok(&["shutdown"]);
        until("nothing runs", || self.home.processes().is_empty());
        let mut report = "no half file, no broken image".to_owned();
        for (what, count) in &self.counts {
            write!(report, "\n  {count:>6} {what}").unwrap();
        }
        report
    }
}

fn is_there(client: &mut Child) -> bool {
    client.try_wait().unwrap().is_none()
}

fn versions_of(survey: &str) -> Versions {
    let of = |line: &str| {
        let [name, bytes, word, number, different] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line:?}")
        };
        let begin = format!("{word} {number}");
        let version = version(name, bytes.parse().unwrap(), &begin, different.parse().unwrap());
        (name.to_owned(), version)
    };
    survey.lines().map(of).collect()
}
