//! Streams and directories of somebody who means harm.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::record::{BLOCK_LEN, checksum};

/// A directory to unpack into, beside one that nobody may touch.
struct Ground {
    dir: tempfile::TempDir,
    before: Vec<String>,
}

impl Ground {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "s3cret").unwrap();
        fs::create_dir(dir.path().join("inside")).unwrap();
        let before = told(&dir.path().join("outside"));
        Self { dir, before }
    }

    fn inside(&self) -> std::path::PathBuf {
        self.dir.path().join("inside")
    }

    fn outside(&self, name: &str) -> String {
        self.dir.path().join("outside").join(name).to_str().unwrap().to_owned()
    }

    /// Unpacks; nothing outside may be changed.
    fn unpack(&self, tar: &[u8]) -> Result<Report, UnpackError> {
        let done = unpack(tar, Destination::Directory(&self.inside()), OPTIONS);
        assert_eq!(told(&self.dir.path().join("outside")), self.before);
        let names: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        assert_no_temporary(&self.inside());
        done
    }

    fn problems(&self, entries: &[Entry]) -> String {
        self.unpack(&tar(entries)).unwrap().problems.to_string()
    }

    fn refused(&self, tar: &[u8]) -> String {
        crate::report::chain(&self.unpack(tar).unwrap_err())
    }
}

fn link(path: &str, target: &str) -> Entry {
    entry(path, Kind::SymbolicLink(target.as_bytes().to_owned()))
}

fn hard(path: &str, target: &str) -> Entry {
    entry(path, Kind::HardLink(target.as_bytes().to_owned()))
}

#[test]
fn names_that_lead_away_are_refused() {
    let ground = Ground::new();
    let absolute = ground.outside("new");
    for name in ["../outside/new", "a/../../outside/new", "..", &absolute, "a/..", "a\0b"] {
        // A NUL ends the name in a header, and is refused in a pax header.
        let mut long = entry(name, Kind::File { bytes: 0, segments: vec![] });
        if name.contains('\0') {
            long.path.splice(0..0, [b'd'; 200]);
        }
        let error = ground.refused(&tar(&[long]));
        assert!(error.contains("its name") || error.contains("NUL"), "{name:?}: {error}");
    }
    for target in ["../outside/secret", &ground.outside("secret"), "/"] {
        let error = ground.refused(&tar(&[file("a", 1), hard("b", target)]));
        assert!(error.contains("links to"), "{target}: {error}");
    }
}

#[test]
fn links_are_made_and_never_followed() {
    let ground = Ground::new();
    let outside = ground.outside("");
    let secret = ground.outside("secret");
    let problems = ground.problems(&[
        link("way", &outside),
        file("way/new", 5),
        file("way/secret", 5),
        entry("way/dir", Kind::Directory),
        link("way/link", "x"),
        hard("way/hard", "way"),
        hard("stolen", "way/secret"),
    ]);
    assert!(problems.contains("symbolic links are not followed"), "{problems}");
    assert_eq!(fs::read_link(ground.inside().join("way")).unwrap(), Path::new(&outside));
    assert!(!ground.inside().join("stolen").exists());
    // Over a link to a file, which stays as it is; and with a link that is a hard link's target.
    let problems = ground.problems(&[link("a", &secret), hard("b", "a"), file("a", 3), file("b", 4)]);
    assert_eq!(problems, "");
    assert_eq!(fs::read(ground.inside().join("a")).unwrap(), b"xxx");
    assert_eq!(fs::read(ground.inside().join("b")).unwrap(), b"xxxx");
    // What was there before leads nowhere either.
    symlink(&outside, ground.inside().join("old")).unwrap();
    let problems = ground.problems(&[entry("old", Kind::Directory), file("old/new", 1)]);
    assert!(problems.contains("no directory, and a directory cannot take its place"), "{problems}");
    assert!(problems.contains("symbolic links are not followed"), "{problems}");
}

#[test]
fn hard_links_lead_to_files_of_the_copy_only() {
    let ground = Ground::new();
    fs::write(ground.inside().join("mine"), "mine").unwrap();
    let problems = ground.problems(&[hard("stolen", "mine"), hard("none", "no/such"), hard("self", "self")]);
    assert_eq!(problems.matches("which is no file of this copy").count(), 3, "{problems}");
    assert_eq!(fs::metadata(ground.inside().join("mine")).unwrap().nlink(), 1);
    assert!(!ground.inside().join("stolen").exists());
    // Several names of one file, over names of it that are there already.
    for _ in 0..2 {
        assert_eq!(ground.problems(&[file("one", 9), hard("two", "one"), hard("d/three", "two")]), "");
        assert_eq!(fs::metadata(ground.inside().join("d/three")).unwrap().nlink(), 3);
    }
    let problems = ground.problems(&[entry("dir", Kind::Directory), hard("to dir", "dir")]);
    assert!(problems.contains("no file of this copy"), "{problems}");
}

#[test]
fn a_kind_does_not_take_the_place_of_another_one() {
    let ground = Ground::new();
    let problems = ground.problems(&[
        entry("d", Kind::Directory),
        file("d/kept", 1),
        file("d", 5),
        link("d", "x"),
        hard("d", "d/kept"),
        file("f", 1),
        file("f/below", 1),
        file("twice", 1),
        file("twice", 2),
        file("twice", 3),
    ]);
    assert_eq!(problems.matches("a directory is there").count(), 3, "{problems}");
    assert_eq!(fs::read(ground.inside().join("twice")).unwrap(), b"xxx", "the last one counts");
    assert!(ground.inside().join("d/kept").exists());
    assert!(problems.contains("inside/f/below\": something on its way is no directory"), "{problems}");
}

#[test]
fn many_problems_are_counted() {
    let ground = Ground::new();
    let entries: Vec<_> = (0..50).map(|n| entry(&format!("pipe {n}\n\u{1b}"), Kind::Fifo)).collect();
    let problems = ground.problems(&entries);
    assert!(
        problems.contains("pipe 0\\n\\u{1b}\": it is a device") && problems.ends_with("\nand 42 more"),
        "{problems}"
    );
    assert_eq!(problems.lines().count(), 9);
}

#[test]
fn a_stream_that_breaks_off_leaves_whole_files_only() {
    let ground = Ground::new();
    let whole = tar(&[file("first", 1000), file("dir/second", 5000), link("l", "x")]);
    for end in (0..whole.len() - 1024).step_by(97).chain([whole.len() - 1024, whole.len() - 600]) {
        let error = ground.refused(&whole[..end]);
        assert!(error.contains("it ends in the middle") || error.contains("there is nothing in it"), "{end}: {error}");
        for (name, bytes) in [("first", 1000), ("dir/second", 5000)] {
            let there = fs::metadata(ground.inside().join(name));
            assert!(there.is_err() || there.unwrap().len() == bytes);
        }
    }
    assert_eq!(ground.unpack(&whole[..whole.len() - 512]).unwrap().problems.count(), 0, "one record of zeros will do");
    let broken = whole[..2000].chain(Broken);
    let error = unpack(broken, Destination::Directory(&ground.inside()), OPTIONS).unwrap_err();
    assert!(crate::report::chain(&error).contains("the stream broke: connection reset"), "{error}");
    assert_no_temporary(&ground.inside());
}

/// What breaks.
struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ConnectionReset.into())
    }
}

/// Changes bytes of the first header, and makes it a header again.
fn forged(tar: &[u8], place: usize, bytes: &[u8]) -> Vec<u8> {
    let mut tar = tar.to_owned();
    tar[place..place + bytes.len()].copy_from_slice(bytes);
    let mut header = [0; BLOCK_LEN];
    header.copy_from_slice(&tar[..BLOCK_LEN]);
    let sum = format!("{:06o}\0 ", checksum(&header));
    tar[148..156].copy_from_slice(sum.as_bytes());
    tar
}

#[test]
fn headers_that_lie_are_refused() {
    let ground = Ground::new();
    let good = tar(&[file("a", 10)]);
    let largest = [&[0x80, 0, 0, 0][..], &i64::MAX.to_be_bytes()].concat();
    let negative = [0xff; 12];
    let cases: [(usize, &[u8], &str); 9] = [
        (124, b"77777777777\0", "it ends in the middle"),
        (124, &largest, "it ends in the middle"),
        (124, &negative, "the size of an entry is no number"),
        (124, b"9", "the size of an entry is no number"),
        (108, &[0xff; 8], "the owner of an entry is no number"),
        (108, &[0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff], "the owner of an entry is no number"),
        (136, &[0x81; 12], "the time of an entry is no number"),
        (156, b"Q", "its kind is 'Q'"),
        (156, b"S", "its map of holes"),
    ];
    for (place, bytes, expected) in cases {
        let error = ground.refused(&forged(&good, place, bytes));
        assert!(error.contains(expected), "{place}: {error}");
    }
    let mut other = good.clone();
    other[0] ^= 1;
    assert!(ground.refused(&other).contains("checksum"));
    assert!(ground.refused(b"\x1f\x8bzip").contains("nothing in it"));
    // A size that is more than an extended header may have, and a row of them without an entry.
    for kind in [b"x", b"g", b"L", b"K"] {
        let error = ground.refused(&forged(&forged(&good, 156, kind), 124, b"00100000000\0"));
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }
    let empty = &forged(&tar(&[file("a", 0)]), 156, b"x")[..BLOCK_LEN];
    assert!(ground.refused(&empty.repeat(70)).contains("more than 64 extended headers"));
    let error = ground.refused(&[empty, &[0; 1024]].concat());
    assert!(error.contains("no entry behind it"), "{error}");
}

#[test]
fn maps_of_holes_that_lie_are_refused() {
    let ground = Ground::new();
    let sparse = |segments: &[(u64, u64)], bytes| {
        let segments = segments.iter().map(|(offset, bytes)| Segment { offset: *offset, bytes: *bytes }).collect();
        entry("s", Kind::File { bytes, segments })
    };
    for segments in [&[(5, 5), (0, 5)][..], &[(0, 10), (5, 10)], &[(90, 20)], &[(u64::MAX - 30, 20)]] {
        let error = ground.refused(&tar(&[sparse(segments, 100)]));
        assert!(error.contains("its map of holes"), "{segments:?}: {error}");
    }
    // More than any file system has is the entry's problem alone; what comes behind it is made.
    let problems = ground.problems(&[sparse(&[(0, 10)], i64::MAX as u64), file("next", 3)]);
    assert!(problems.contains("s\": it cannot be made: "), "{problems}");
    assert!(ground.inside().join("next").exists());
}

#[test]
fn a_copy_of_one_thing_makes_nothing_else() {
    let ground = Ground::new();
    let at = |name: &'static str| Destination::Path { path: Path::new(name), name: Some(b"asked") };
    let inside = ground.inside();
    for first in [file(".bashrc", 1), entry("other", Kind::Directory), entry("", Kind::Directory), file("asked/x", 1)] {
        let destination = Destination::Path { path: &inside, name: Some(b"asked") };
        let error = unpack(&*tar(&[first]), destination, OPTIONS).unwrap_err();
        assert!(matches!(error, UnpackError::Outside { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 0);
    let more = tar(&[entry("asked", Kind::Directory), file("asked/x", 1), file("y", 1)]);
    let destination = Destination::Path { path: &inside, name: Some(b"asked") };
    assert!(matches!(unpack(&*more, destination, OPTIONS), Err(UnpackError::Outside { .. })));
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
    // Without entries, or to where nothing can be.
    assert!(matches!(unpack(&*tar(&[]), at("/no/where"), OPTIONS), Err(UnpackError::NoEntries)));
    let nowhere = unpack(&*tar(&[file("asked", 1)]), at("/no/such/dir"), OPTIONS).unwrap_err();
    assert!(crate::report::chain(&nowhere).contains("make it first"), "{nowhere}");
    let device = unpack(&*tar(&[file("asked", 1)]), at("/dev/null"), OPTIONS).unwrap_err();
    assert!(crate::report::chain(&device).contains("neither a file nor a directory"), "{device}");
}

/// Somebody swaps a directory for a link to the outside, over and over.
#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let ground = Ground::new();
    let (inside, outside) = (ground.inside(), ground.outside(""));
    fs::create_dir(inside.join("d")).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let _ = fs::rename(inside.join("d"), inside.join("aside"));
                let _ = symlink(&outside, inside.join("d"));
                let _ = fs::remove_file(inside.join("d"));
                let _ = fs::rename(inside.join("aside"), inside.join("d"));
            }
        });
        let entries: Vec<_> =
            (0..40).flat_map(|n| [entry("d", Kind::Directory), file(&format!("d/{n}"), 10), file("e", 1)]).collect();
        let tar = tar(&entries);
        for _ in 0..50 {
            let _ = unpack(&*tar, Destination::Directory(&inside), OPTIONS);
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert_eq!(told(&ground.dir.path().join("outside")), ground.before);
}

/// A tar that is made while it is read.
struct Made<F> {
    entry: F,
    number: u64,
    count: u64,
    rest: io::Cursor<Vec<u8>>,
}

impl<F: Fn(u64) -> Entry> Read for Made<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.rest.read(buffer)?;
            if read > 0 || self.number == self.count {
                return Ok(read);
            }
            let mut piece = tar(&[(self.entry)(self.number)]);
            self.number += 1;
            if self.number < self.count {
                piece.truncate(piece.len() - 2 * BLOCK_LEN);
            }
            self.rest = io::Cursor::new(piece);
        }
    }
}

/// Most memory that this process ever had, in KiB.
fn memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// `ENTRIES=10000000` in its environment: as many as anybody has patience for.
#[test]
fn very_many_entries_take_time_and_little_memory() {
    let count = std::env::var("ENTRIES").map_or(40_000, |count| count.parse().unwrap());
    let entry = |number: u64| match number % 4 {
        0 => entry("d", Kind::Directory),
        1 => file(&format!("d/{number}"), 0),
        2 => file(&format!("d/{}/x", number - 1), 0),
        _ => hard("x", "d/no such"),
    };
    let ground = Ground::new();
    let before = memory();
    let made = Made { entry, number: 0, count, rest: io::Cursor::default() };
    let report = unpack(made, Destination::Directory(&ground.inside()), OPTIONS).unwrap();
    let more = memory() - before;
    assert_eq!(report.problems.count() as u64, count / 2);
    assert_eq!(fs::read_dir(ground.inside().join("d")).unwrap().count() as u64, count / 4);
    assert!(more < 32 << 10, "{more} KiB more");
    println!("{count} entries: {more} KiB more");
}
