//! What happens to a real directory is told.

use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::client::EventReader;

const LIMIT: Duration = Duration::from_secs(20);

struct Watched {
    stream: UnixStream,
    reader: EventReader,
    thread: JoinHandle<Result<(), WatchError>>,
}

fn bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_encoded_bytes().to_vec()
}

impl Watched {
    fn new(path: &Path, recursive: bool) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        let path = bytes(path);
        let thread = thread::spawn(move || watch(&path, recursive, theirs));
        Self { stream: ours, reader: EventReader::default(), thread }
    }

    fn begun(path: &Path, recursive: bool) -> Self {
        let mut watched = Self::new(path, recursive);
        assert_eq!(watched.next(), WatchEvent::Watching);
        watched
    }

    fn next(&mut self) -> WatchEvent {
        loop {
            if let Some(event) = self.reader.next_event().unwrap() {
                return event;
            }
            let mut buffer = [0; 4096];
            let count = self.stream.read(&mut buffer).unwrap();
            assert_ne!(count, 0, "more events are waited for");
            self.reader.push(&buffer[..count]);
        }
    }

    fn until(&mut self, wanted: &WatchEvent) -> Vec<WatchEvent> {
        let (mut seen, begin) = (Vec::new(), Instant::now());
        while begin.elapsed() < LIMIT {
            seen.push(self.next());
            if seen.last() == Some(wanted) {
                return seen;
            }
        }
        panic!("{wanted:?} does not come: {seen:?}");
    }

    /// Its last event.
    fn failed(mut self) -> FileErrorKind {
        let kind = loop {
            if let WatchEvent::Failed(error) = self.next() {
                break error.kind;
            }
        };
        let ended = self.thread.join().unwrap();
        assert!(matches!(ended, Err(WatchError::Failed(error)) if error.kind == kind));
        kind
    }
}

#[test]
fn what_happens_in_a_directory_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = |name: &str| bytes(&at(name));
    let mut watched = Watched::begun(dir.path(), false);
    fs::write(at("a\n"), "x").unwrap();
    assert_eq!(watched.next(), WatchEvent::Created { path: path("a\n"), is_directory: false });
    assert_eq!(watched.next(), WatchEvent::Modified { path: path("a\n") });
    assert_eq!(watched.next(), WatchEvent::Closed { path: path("a\n") });
    fs::rename(at("a\n"), at("b")).unwrap();
    assert_eq!(watched.next(), WatchEvent::Renamed { from: path("a\n"), to: path("b"), is_directory: false });
    fs::set_permissions(at("b"), fs::metadata(at("b")).unwrap().permissions()).unwrap();
    assert_eq!(watched.next(), WatchEvent::Attributes { path: path("b"), is_directory: false });
    // Away to where nobody looks.
    let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    fs::rename(at("b"), elsewhere.path().join("b")).unwrap();
    assert_eq!(watched.next(), WatchEvent::Removed { path: path("b"), is_directory: false });
    fs::rename(elsewhere.path().join("b"), at("c")).unwrap();
    assert_eq!(watched.next(), WatchEvent::Created { path: path("c"), is_directory: false });
    fs::create_dir(at("dir")).unwrap();
    assert_eq!(watched.next(), WatchEvent::Created { path: path("dir"), is_directory: true });
    fs::write(at("dir/a"), "not told").unwrap();
    fs::remove_file(at("c")).unwrap();
    assert_eq!(watched.next(), WatchEvent::Removed { path: path("c"), is_directory: false });
    drop(dir);
    assert_eq!(watched.failed(), FileErrorKind::NotFound);
}

#[test]
fn directories_below_are_watched_whatever_they_are_called() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let path = |name: &str| bytes(&at(name));
    fs::create_dir_all(at("a/b")).unwrap();
    let mut watched = Watched::begun(dir.path(), true);
    fs::write(at("a/b/file"), "").unwrap();
    watched.until(&WatchEvent::Closed { path: path("a/b/file") });
    fs::create_dir_all(at("new/deep/deeper")).unwrap();
    fs::write(at("new/deep/deeper/file"), "x").unwrap();
    // Some of it perhaps only as what was there when it was looked at.
    watched.until(&WatchEvent::Created { path: path("new/deep/deeper/file"), is_directory: false });
    fs::rename(at("a"), at("c")).unwrap();
    watched.until(&WatchEvent::Renamed { from: path("a"), to: path("c"), is_directory: true });
    fs::write(at("c/b/again"), "").unwrap();
    watched.until(&WatchEvent::Created { path: path("c/b/again"), is_directory: false });
    // What went is not told of any more.
    let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    fs::rename(at("c"), elsewhere.path().join("c")).unwrap();
    watched.until(&WatchEvent::Removed { path: path("c"), is_directory: true });
    fs::write(elsewhere.path().join("c/b/unseen"), "").unwrap();
    fs::write(at("last"), "").unwrap();
    let seen = watched.until(&WatchEvent::Created { path: path("last"), is_directory: false });
    assert_eq!(seen.len(), 1, "{seen:?}");
    fs::remove_dir_all(at("new")).unwrap();
    watched.until(&WatchEvent::Removed { path: path("new"), is_directory: true });
}

#[test]
fn a_file_is_watched_until_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let mut watched = Watched::begun(&file, true);
    fs::write(&file, "x").unwrap();
    watched.until(&WatchEvent::Closed { path: bytes(&file) });
    fs::remove_file(&file).unwrap();
    assert_eq!(watched.failed(), FileErrorKind::NotFound);
}

#[test]
fn what_is_not_there_cannot_be_watched() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(Watched::new(&dir.path().join("none"), true).failed(), FileErrorKind::NotFound);
    for path in ["", "relative", "/a\0b"] {
        assert_eq!(Watched::new(Path::new(path), false).failed(), FileErrorKind::InvalidName);
    }
}

/// Nothing is kept for who does not read: the system drops, which is told.
#[test]
fn who_does_not_read_hears_that_something_is_missing() {
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap().trim().parse().unwrap();
    assert!(limit <= 1 << 20, "this test makes more events than the system keeps: {limit}");
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let mut watched = Watched::begun(dir.path(), true);
    // Two events each, which are never the same one twice in a row, and more than streams and buffers have room for.
    for _ in 0..limit / 2 + 20_000 {
        fs::File::create(at("a")).unwrap();
        fs::remove_file(at("a")).unwrap();
    }
    fs::create_dir(at("unseen")).unwrap();
    watched.until(&WatchEvent::Overflow);
    // It goes on, also in what came unseen.
    fs::write(at("unseen/file"), "").unwrap();
    watched.until(&WatchEvent::Closed { path: bytes(&at("unseen/file")) });
}

/// What is watched, with all that happened looked at only when it is asked for.
struct Late {
    inotify: Inotify,
    tree: Tree,
}

impl Late {
    fn new(path: &Path) -> Self {
        let (inotify, mut tree) = (Inotify::new().unwrap(), Tree::new(&bytes(path), true));
        tree.begin(&inotify).unwrap();
        Self { inotify, tree }
    }

    fn apply(&mut self, happened: Vec<Happening>) -> Vec<WatchEvent> {
        let mut teller = Teller { output: Vec::new(), number: 0, batch: Vec::new() };
        for happening in happened {
            let failed = |errno| FileError { kind: kind(errno), path: Vec::new() };
            apply(happening, &mut self.tree, &self.inotify, &mut teller, &failed).unwrap();
        }
        teller.flush().unwrap();
        let mut reader = EventReader::default();
        reader.push(&teller.output);
        std::iter::from_fn(|| reader.next_event().unwrap()).collect()
    }

    /// What is told of all that happened until something happens that says so.
    fn told(&mut self, root: &Path) -> Vec<WatchEvent> {
        fs::write(root.join("until"), "").unwrap();
        let until = WatchEvent::Closed { path: bytes(&root.join("until")) };
        let mut told = Vec::new();
        while !told.contains(&until) {
            let happened = self.inotify.next_batch().unwrap();
            told.extend(self.apply(happened));
        }
        told
    }
}

#[test]
fn a_directory_that_is_renamed_before_it_is_looked_at_is_watched() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let created = |name: &str, is_directory| WatchEvent::Created { path: bytes(&at(name)), is_directory };
    fs::create_dir(at("old")).unwrap();
    let mut late = Late::new(dir.path());
    // It itself; one in a directory that is; and one whose name another one has by then.
    fs::create_dir(at("a")).unwrap();
    fs::write(at("a/before"), "").unwrap();
    fs::rename(at("a"), at("b")).unwrap();
    fs::create_dir(at("old/below")).unwrap();
    fs::rename(at("old"), at("new")).unwrap();
    fs::create_dir(at("x")).unwrap();
    fs::rename(at("x"), at("y")).unwrap();
    fs::create_dir(at("x")).unwrap();
    let told = late.told(dir.path());
    assert!(told.contains(&created("b/before", false)), "{told:?}");
    let places = ["b", "new", "new/below", "x", "y"];
    for place in places {
        fs::write(at(place).join("file"), "").unwrap();
    }
    let told = late.told(dir.path());
    for place in places {
        assert!(told.contains(&created(&format!("{place}/file"), false)), "{place}: {told:?}");
    }
}

#[test]
fn what_moved_away_unseen_is_watched_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir_in(dir.path().parent().unwrap()).unwrap();
    for name in ["gone/below", "kept"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    let mut late = Late::new(dir.path());
    fs::rename(dir.path().join("gone"), elsewhere.path().join("gone")).unwrap();
    // That was dropped.
    assert!(late.inotify.next_batch().unwrap().len() > 1);
    assert_eq!(late.apply(vec![Happening::Overflow]), [WatchEvent::Overflow]);
    fs::write(elsewhere.path().join("gone/below/file"), "").unwrap();
    fs::write(dir.path().join("kept/file"), "").unwrap();
    let told = late.told(dir.path());
    assert!(told.contains(&WatchEvent::Closed { path: bytes(&dir.path().join("kept/file")) }));
    assert!(!format!("{told:?}").contains(&format!("{:?}", b"gone").replace(['[', ']'], "")), "{told:?}");
}
