//! What can be asked of a real file system, through the server alone.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;
use crate::answer::{Entry, FileKind, Time};
use crate::request::{Change, OpenFlags};
use crate::{DATA_MAX, HANDLES_MAX, PATH_MAX};

struct Root {
    dir: TempDir,
    server: Server,
}

impl Root {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), server: Server::default() }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn path(&self, name: &str) -> Vec<u8> {
        self.at(name).into_os_string().into_encoded_bytes()
    }

    fn ask(&mut self, request: Request) -> Result<Answer, FileErrorKind> {
        self.server.perform(request).map_err(|error| error.kind)
    }

    fn open(&mut self, request: Request) -> u32 {
        match self.ask(request) {
            Ok(Answer::Opened { handle }) => handle,
            answer => panic!("{answer:?}"),
        }
    }

    fn read(&mut self, handle: u32, offset: u64, length: u32) -> Result<Vec<u8>, FileErrorKind> {
        match self.ask(Request::ReadAt { handle, offset, length })? {
            Answer::Data(data) => Ok(data),
            answer => panic!("{answer:?}"),
        }
    }

    fn write(&mut self, handle: u32, offset: u64, data: &[u8]) -> Result<(), FileErrorKind> {
        self.ask(Request::WriteAt { handle, offset, data: data.to_vec() })
            .map(|answer| assert_eq!(answer, Answer::Done))
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort_unstable();
        names
    }

    fn replace(&mut self, name: &str) -> Result<u32, FileErrorKind> {
        let request = Request::Replace { path: self.path(name), mode: None, new_mode: 0o640 };
        match self.ask(request)? {
            Answer::Opened { handle } => Ok(handle),
            answer => panic!("{answer:?}"),
        }
    }

    fn replace_whole(&mut self, name: &str, data: &[u8]) {
        let handle = self.replace(name).unwrap();
        self.write(handle, 0, data).unwrap();
        assert_eq!(self.ask(Request::Commit { handle }), Ok(Answer::Done));
    }
}

const WRITE_NEW: OpenFlags = OpenFlags { write: true, create: true, ..OpenFlags::READ };

#[test]
fn files_are_read_and_written_where_one_wants() {
    let mut root = Root::new();
    let handle = root.open(Request::Open { path: root.path("a"), flags: WRITE_NEW, mode: 0o600 });
    root.write(handle, 3, b"def").unwrap();
    root.write(handle, 0, b"abc").unwrap();
    assert_eq!(root.read(handle, 1, 3).unwrap(), b"bcd");
    assert_eq!(root.read(handle, 4, 100).unwrap(), b"ef");
    assert_eq!(root.read(handle, 6, 100).unwrap(), b"");
    assert_eq!(root.read(handle, 1 << 40, 100).unwrap(), b"", "far beyond its end");
    assert_eq!(root.read(handle, 0, u32::MAX).unwrap(), b"abcdef", "more than can be asked for");
    for offset in [u64::MAX, 1 << 63, i64::MAX as u64] {
        assert_eq!(root.read(handle, offset, 100), Err(FileErrorKind::TooLarge));
        assert_eq!(root.write(handle, offset, b"x"), Err(FileErrorKind::TooLarge));
    }
    let too_much = root.write(handle, 0, &vec![0; DATA_MAX + 1]);
    assert_eq!(too_much, Err(FileErrorKind::TooLarge));
    let Ok(Answer::Stat(stat)) = root.ask(Request::StatOpen { handle }) else { panic!() };
    assert_eq!((stat.kind, stat.size, stat.mode), (FileKind::File, 6, 0o600));
    assert_eq!(root.ask(Request::Sync { handle }), Ok(Answer::Done));
    // One that was shrunk has an end there.
    fs::write(root.at("a"), "x").unwrap();
    assert_eq!(root.read(handle, 1, 100).unwrap(), b"");
    assert_eq!(root.ask(Request::Close { handle }), Ok(Answer::Done));
    for request in [
        Request::Close { handle },
        Request::ReadAt { handle, offset: 0, length: 1 },
        Request::StatOpen { handle: 12345 },
        Request::Commit { handle },
    ] {
        assert_eq!(root.ask(request), Err(FileErrorKind::NotOpen));
    }
    // At the end, wherever somebody says.
    let flags = OpenFlags { append: true, read: true, ..OpenFlags::default() };
    let handle = root.open(Request::Open { path: root.path("a"), flags, mode: 0 });
    root.write(handle, 0, b"y").unwrap();
    root.write(handle, 0, b"z").unwrap();
    assert_eq!(fs::read(root.at("a")).unwrap(), b"xyz");
    assert_eq!(root.ask(Request::Commit { handle }), Err(FileErrorKind::NotOpen), "nothing of it was begun");
}

#[test]
fn what_is_no_file_is_not_opened() {
    let mut root = Root::new();
    fs::create_dir(root.at("dir")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.at("fifo"), files::mode(0o600)).unwrap();
    let _socket = UnixListener::bind(root.at("socket")).unwrap();
    symlink("loop", root.at("loop")).unwrap();
    let dir = root.dir.path().to_owned();
    let at = |name: &str| dir.join(name).into_os_string().into_encoded_bytes();
    let mut open = |path: Vec<u8>, flags| root.ask(Request::Open { path, flags, mode: 0o600 });
    for flags in [OpenFlags::READ, WRITE_NEW] {
        assert_eq!(open(at("dir"), flags), Err(FileErrorKind::IsDirectory));
        assert_eq!(open(at("fifo"), flags), Err(FileErrorKind::NotFile));
        assert_eq!(open(at("socket"), flags), Err(FileErrorKind::NotFile));
        assert_eq!(open(at("loop"), flags), Err(FileErrorKind::Other(40)));
    }
    assert_eq!(open(at("none"), OpenFlags::READ), Err(FileErrorKind::NotFound));
    assert_eq!(open(at("none/none"), WRITE_NEW), Err(FileErrorKind::NotFound));
    assert_eq!(open(b"/dev/null/x".to_vec(), WRITE_NEW), Err(FileErrorKind::NotDirectory));
    assert!(matches!(open(b"/dev/null".to_vec(), OpenFlags::READ), Ok(Answer::Opened { .. })));
    for path in [b"".to_vec(), b"a".to_vec(), b"/a\0b".to_vec(), vec![b'/'; PATH_MAX + 1], at(&"x".repeat(256))] {
        assert_eq!(open(path, OpenFlags::READ), Err(FileErrorKind::InvalidName));
    }
}

#[test]
fn no_more_is_open_than_can_be() {
    let mut root = Root::new();
    fs::write(root.at("a"), "").unwrap();
    let open = Request::Open { path: root.path("a"), flags: OpenFlags::READ, mode: 0 };
    let handles: Vec<_> = (0..HANDLES_MAX).map(|_| root.open(open.clone())).collect();
    assert_eq!(handles.iter().collect::<std::collections::BTreeSet<_>>().len(), HANDLES_MAX);
    assert_eq!(root.ask(open.clone()), Err(FileErrorKind::TooManyOpen));
    assert_eq!(root.ask(Request::OpenDirectory { path: b"/".to_vec() }), Err(FileErrorKind::TooManyOpen));
    assert_eq!(root.replace("b"), Err(FileErrorKind::TooManyOpen));
    root.ask(Request::Close { handle: handles[7] }).unwrap();
    let next = root.open(open);
    assert!(!handles.contains(&next));
}

#[test]
fn a_file_takes_the_place_of_another_one_whole_or_not_at_all() {
    let mut root = Root::new();
    fs::write(root.at("a"), "old").unwrap();
    fs::set_permissions(root.at("a"), fs::Permissions::from_mode(0o4751)).unwrap();
    let handle = root.replace("a").unwrap();
    root.write(handle, 0, b"half of").unwrap();
    assert_eq!(fs::read(root.at("a")).unwrap(), b"old", "nobody sees it");
    root.ask(Request::Close { handle }).unwrap();
    assert_eq!(root.names(), ["a"], "nothing is left of what was given up");
    root.replace_whole("a", b"new");
    assert_eq!(fs::read(root.at("a")).unwrap(), b"new");
    assert_eq!(fs::metadata(root.at("a")).unwrap().mode() & 0o7777, 0o4751, "as it was");
    root.replace_whole("b", b"");
    assert_eq!(fs::metadata(root.at("b")).unwrap().mode() & 0o7777, 0o640);
    assert_eq!(root.names(), ["a", "b"]);
    let path = root.path("b");
    let handle = root.open(Request::Replace { path, mode: Some(0o600), new_mode: 0 });
    assert_eq!(root.ask(Request::Commit { handle }), Ok(Answer::Done));
    assert_eq!(fs::metadata(root.at("b")).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(root.ask(Request::Commit { handle }), Err(FileErrorKind::NotOpen), "once");
    // Through links, one of which leads to what is not there yet.
    fs::create_dir(root.at("dir")).unwrap();
    symlink("dir/new", root.at("link")).unwrap();
    symlink(root.at("link"), root.at("dir/link")).unwrap();
    root.replace_whole("dir/link", b"linked");
    root.replace_whole("link", b"linked again");
    assert_eq!(fs::read(root.at("dir/new")).unwrap(), b"linked again");
    assert!(fs::symlink_metadata(root.at("link")).unwrap().is_symlink());
    symlink("loop", root.at("loop")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, root.at("fifo"), files::mode(0o600)).unwrap();
    for (name, kind) in [
        ("dir", FileErrorKind::IsDirectory),
        ("dir/", FileErrorKind::IsDirectory),
        ("dir/..", FileErrorKind::IsDirectory),
        ("c/", FileErrorKind::IsDirectory),
        ("a/", FileErrorKind::NotDirectory),
        ("a/b", FileErrorKind::NotDirectory),
        ("none/b", FileErrorKind::NotFound),
        ("loop", FileErrorKind::Other(40)),
        ("fifo", FileErrorKind::NotFile),
    ] {
        assert_eq!(root.replace(name), Err(kind), "{name}");
    }
    assert_eq!(
        root.ask(Request::Replace { path: b"/".to_vec(), mode: None, new_mode: 0 }),
        Err(FileErrorKind::IsDirectory)
    );
    // What it should take the place of became a directory.
    let handle = root.replace("d").unwrap();
    fs::create_dir(root.at("d")).unwrap();
    assert_eq!(root.ask(Request::Commit { handle }), Err(FileErrorKind::IsDirectory));
    root.ask(Request::Close { handle }).unwrap();
    assert!(root.names().iter().all(|name| !name.starts_with(".sandpen")), "{:?}", root.names());
}

#[test]
fn a_temporary_name_goes_with_its_file() {
    let root = Root::new();
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
    let directory = rustix::fs::open(root.dir.path(), flags, rustix::fs::Mode::empty()).unwrap();
    // As on a file system that has no files without a name.
    let begun = replace::Replacement::begin_named(directory, b"a").unwrap();
    assert_eq!(root.names().len(), 1);
    drop(begun);
    assert_eq!(root.names().len(), 0);
    let directory = rustix::fs::open(root.dir.path(), flags, rustix::fs::Mode::empty()).unwrap();
    let mut begun = replace::Replacement::begin_named(directory, b"a").unwrap();
    begun.commit().unwrap();
    drop(begun);
    assert_eq!(root.names(), ["a"]);
}

#[test]
fn attributes_change() {
    let mut root = Root::new();
    fs::write(root.at("a"), "0123456789").unwrap();
    symlink("a", root.at("link")).unwrap();
    let modified = Some(Time { seconds: -5, nanos: 7 });
    let change = Change { size: Some(4), mode: Some(0o600), modified, ..Change::default() };
    root.ask(Request::Change { path: root.path("link"), follow: true, change }).unwrap();
    let Ok(Answer::Stat(stat)) = root.ask(Request::Stat { path: root.path("link"), follow: true }) else { panic!() };
    assert_eq!((stat.size, stat.mode, Some(stat.modified)), (4, 0o600, modified));
    let Ok(Answer::Stat(link)) = root.ask(Request::Stat { path: root.path("link"), follow: false }) else { panic!() };
    assert_eq!((link.kind, link.size), (FileKind::Symlink, 1));
    let handle = root.open(Request::Open { path: root.path("a"), flags: WRITE_NEW, mode: 0 });
    let (uid, gid) = (Some(stat.uid), Some(stat.gid));
    let change = Change { size: Some(6), uid, gid, accessed: modified, ..Change::default() };
    root.ask(Request::ChangeOpen { handle, change }).unwrap();
    let Ok(Answer::Stat(stat)) = root.ask(Request::StatOpen { handle }) else { panic!() };
    assert_eq!((stat.size, Some(stat.accessed)), (6, modified));
    let mut refused = |name: &str, follow, change| {
        let path = root.path(name);
        root.ask(Request::Change { path, follow, change }).unwrap_err()
    };
    let mode = Change { mode: Some(0o600), ..Change::default() };
    assert_eq!(refused("link", false, mode), FileErrorKind::Unsupported);
    assert_eq!(refused("none", true, mode), FileErrorKind::NotFound);
    assert_eq!(refused("", true, Change { size: Some(0), ..Change::default() }), FileErrorKind::IsDirectory);
    assert_eq!(refused("a", true, Change { size: Some(1 << 63), ..Change::default() }), FileErrorKind::TooLarge);
    let odd = Some(Time { seconds: 0, nanos: 1_000_000_000 });
    for change in [
        Change { uid: Some(u32::MAX), ..Change::default() },
        Change { gid: Some(u32::MAX), ..Change::default() },
        Change { modified: odd, ..Change::default() },
    ] {
        assert_eq!(refused("a", true, change), FileErrorKind::Other(22));
    }
}

#[test]
fn a_directory_is_listed_in_pages() {
    let mut root = Root::new();
    fs::create_dir(root.at("dir")).unwrap();
    let names: Vec<_> = (0..1500).map(|number| format!("dir/{number:04}-{}", "x".repeat(100))).collect();
    for name in &names {
        fs::write(root.at(name), "").unwrap();
    }
    symlink("\n\x1b[31m", root.at("dir/link")).unwrap();
    let handle = root.open(Request::OpenDirectory { path: root.path("dir") });
    let (mut entries, mut pages) = (Vec::<Entry>::new(), 0);
    loop {
        let answer = root.ask(Request::ReadDirectory { handle }).unwrap();
        assert!(frame::encode(0, &answer).is_ok());
        let Answer::Entries(page) = answer else { panic!() };
        if page.is_empty() {
            break;
        }
        pages += 1;
        entries.extend(page);
    }
    assert!(pages > 1);
    assert_eq!(entries.len(), names.len() + 1);
    let link = entries.iter().find(|entry| entry.name == b"link").unwrap();
    assert_eq!(link.target.as_ref().unwrap().as_slice(), b"\n\x1b[31m");
    assert_eq!(root.ask(Request::ReadAt { handle, offset: 0, length: 1 }), Err(FileErrorKind::IsDirectory));
    assert_eq!(root.write(handle, 0, b"x"), Err(FileErrorKind::IsDirectory));
    let file = root.path(&names[0]);
    assert_eq!(root.ask(Request::OpenDirectory { path: file.clone() }), Err(FileErrorKind::NotDirectory));
    let handle = root.open(Request::Open { path: file, flags: OpenFlags::READ, mode: 0 });
    assert_eq!(root.ask(Request::ReadDirectory { handle }), Err(FileErrorKind::NotDirectory));
}

#[test]
fn directories_come_and_go() {
    let mut root = Root::new();
    let make = |path, parents| Request::MakeDirectory { path, mode: 0o700, parents };
    assert_eq!(root.ask(make(root.path("a/b/c"), false)), Err(FileErrorKind::NotFound));
    for path in ["a/b/c", "a/b/c", "a//b/./c/"] {
        assert_eq!(root.ask(make(root.path(path), true)), Ok(Answer::Done), "{path}");
    }
    assert_eq!(root.ask(make(b"/".to_vec(), true)), Ok(Answer::Done));
    assert_eq!(root.ask(make(root.path("a"), false)), Err(FileErrorKind::Exists));
    assert_eq!(fs::metadata(root.at("a/b/c")).unwrap().mode() & 0o777, 0o700);
    fs::write(root.at("a/file"), "").unwrap();
    assert_eq!(root.ask(make(root.path("a/file"), true)), Err(FileErrorKind::NotDirectory));
    assert_eq!(root.ask(make(root.path("a/file/b"), true)), Err(FileErrorKind::NotDirectory));
    let path = root.path("a");
    assert_eq!(root.ask(Request::RemoveDirectory { path: path.clone() }), Err(FileErrorKind::NotEmpty));
    assert_eq!(root.ask(Request::Remove { path: path.clone() }), Err(FileErrorKind::IsDirectory));
    // Links are removed, and not what they lead to.
    fs::create_dir(root.at("kept")).unwrap();
    fs::write(root.at("kept/file"), "").unwrap();
    symlink("../kept", root.at("a/link")).unwrap();
    assert_eq!(root.ask(Request::RemoveTree { path: path.clone() }), Ok(Answer::Done));
    assert_eq!(root.names(), ["kept"]);
    assert!(root.at("kept/file").exists());
    assert_eq!(root.ask(Request::RemoveTree { path }), Err(FileErrorKind::NotFound));
    assert_eq!(root.ask(Request::RemoveTree { path: root.path("kept/file") }), Ok(Answer::Done));
    for path in [&b"/"[..], b"//", b"/.", b"/usr/.."] {
        assert_eq!(root.ask(Request::RemoveTree { path: path.to_vec() }), Err(FileErrorKind::Other(16)));
    }
}

#[test]
fn names_change() {
    let mut root = Root::new();
    fs::write(root.at("a"), "a").unwrap();
    fs::write(root.at("b"), "b").unwrap();
    let (a, b) = (root.path("a"), root.path("b"));
    let rename =
        |from: &Vec<u8>, to: &Vec<u8>, replace| Request::Rename { from: from.clone(), to: to.clone(), replace };
    assert_eq!(root.ask(rename(&a, &b, false)), Err(FileErrorKind::Exists));
    assert_eq!(root.ask(rename(&a, &b, true)), Ok(Answer::Done));
    assert_eq!(fs::read(root.at("b")).unwrap(), b"a");
    let error = root.server.perform(rename(&a, &b, true)).unwrap_err();
    assert_eq!(error, FileError { kind: FileErrorKind::NotFound, path: a.clone() });
    let nowhere = root.path("none/b");
    let error = root.server.perform(rename(&b, &nowhere, true)).unwrap_err();
    assert_eq!(error, FileError { kind: FileErrorKind::NotFound, path: nowhere });
    let link = Request::Link { from: b.clone(), to: a.clone() };
    assert_eq!(root.ask(link.clone()), Ok(Answer::Done));
    assert_eq!(root.ask(link), Err(FileErrorKind::Exists));
    assert_eq!(fs::metadata(root.at("a")).unwrap().nlink(), 2);
    let symlink = Request::Symlink { target: b"./b".to_vec(), path: root.path("link") };
    assert_eq!(root.ask(symlink.clone()), Ok(Answer::Done));
    assert_eq!(root.ask(symlink), Err(FileErrorKind::Exists));
    assert_eq!(root.ask(Request::ReadLink { path: root.path("link") }), Ok(Answer::Path(b"./b".to_vec())));
    assert_eq!(root.ask(Request::ReadLink { path: a.clone() }), Err(FileErrorKind::Other(22)), "it is none");
    let real = fs::canonicalize(root.at("b")).unwrap().into_os_string().into_encoded_bytes();
    assert_eq!(
        root.ask(Request::RealPath { path: root.path("../../tmp/../").clone() }).is_ok(),
        Path::new("/tmp").exists()
    );
    assert_eq!(root.ask(Request::RealPath { path: root.path("link") }), Ok(Answer::Path(real)));
    let Ok(Answer::Space(space)) = root.ask(Request::Space { path: a }) else { panic!() };
    assert!(space.block > 0 && space.blocks >= space.free && space.free >= space.available);
}

#[test]
fn a_stream_is_served_to_its_end() {
    let mut asked = Vec::new();
    asked.extend(frame::encode(7, &Request::Stat { path: b"/".to_vec(), follow: true }).unwrap());
    asked.extend(frame::encode(9, &Request::Stat { path: b"".to_vec(), follow: true }).unwrap());
    // Of the future.
    asked.extend([1, 0, 0, 0, 8, 0, 0, 0, 99]);
    let mut answers = Vec::new();
    serve(asked.as_slice(), &mut answers).unwrap();
    let mut reader = frame::FrameReader::default();
    reader.push(&answers);
    let mut next = || {
        let frame = reader.next_frame().unwrap().unwrap();
        (frame.number, frame.message::<Answer>().unwrap())
    };
    assert!(matches!(next(), (7, Answer::Stat(stat)) if stat.kind == FileKind::Directory));
    let error = |kind| Answer::Error(FileError { kind, path: Vec::new() });
    assert_eq!(next(), (9, error(FileErrorKind::InvalidName)));
    assert_eq!(next(), (8, error(FileErrorKind::Unsupported)));
    // Half a frame, and one that is too long.
    let cut = serve(&asked[..asked.len() - 1], &mut Vec::new());
    assert!(matches!(cut, Err(ServeError::Stream(error)) if error.kind() == io::ErrorKind::UnexpectedEof));
    let long = serve(&[0xff; 100][..], &mut Vec::new());
    assert!(matches!(long, Err(ServeError::Frame(FrameError::TooLong(_)))));
}
