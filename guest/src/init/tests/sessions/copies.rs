//! Trees that go out of a sandbox and come in.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use sandpen_guest::protocol::session::Tool;

use super::*;

fn pack(path: &Path) -> RunSession {
    let path = Bytes::from(path.as_os_str().as_bytes());
    session(SessionProgram::Tool(Tool::Pack { path, follow: false, archive: true }))
}

fn unpack(path: &Path, directory: bool) -> RunSession {
    let path = Bytes::from(path.as_os_str().as_bytes());
    RunSession { stdin: true, ..session(SessionProgram::Tool(Tool::Unpack { path, directory, archive: true })) }
}

/// Feeds it a stream, to its end.
fn copied(link: &mut Link, id: u64, asked: RunSession, tar: &[u8]) -> (SessionEnd, String) {
    link.open(id, asked);
    link.feed(id, tar);
    link.tell(id, SessionCommand::EndInput { total: tar.len() as u64 });
    let (end, stdout, stderr) = link.end(id);
    assert_eq!(stdout, b"");
    (end, String::from_utf8(stderr).unwrap())
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_tree_goes_out_and_comes_in() {
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    fs::create_dir(&from).unwrap();
    fs::create_dir(&to).unwrap();
    let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n % 251).to_le_bytes()[0]).collect();
    fs::write(from.join("large"), &bytes).unwrap();
    fs::set_permissions(from.join("large"), fs::Permissions::from_mode(0o640)).unwrap();
    symlink("large", from.join("link")).unwrap();
    fs::File::create(from.join("vast")).unwrap().set_len(1 << 33).unwrap();
    let host = Host::with_workload();
    let mut link = host.link(1);
    let (end, tar, stderr) = link.run(1, pack(&from));
    assert_eq!((end, stderr), (code(0), vec![]));
    assert_eq!(copied(&mut link, 2, unpack(&to, false), &tar), (code(0), String::new()));
    assert_eq!(copied(&mut link, 3, unpack(&to.join("new"), false), &tar), (code(0), String::new()));
    assert_eq!(copied(&mut link, 4, unpack(&to, true), &tar), (code(0), String::new()));
    assert_eq!(names(&to), ["from", "new"]);
    for name in ["from", "new"] {
        let to = to.join(name);
        assert!(fs::read(to.join("large")).unwrap() == bytes);
        assert_eq!(fs::metadata(to.join("large")).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::read_link(to.join("link")).unwrap(), Path::new("large"));
        let vast = fs::metadata(to.join("vast")).unwrap();
        assert_eq!((vast.len(), vast.blocks()), (1 << 33, 0));
    }
    host.done();
}

#[test]
fn what_is_wrong_is_said_in_a_line_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("to");
    fs::create_dir(&to).unwrap();
    fs::write(dir.path().join("file"), vec![b'x'; 100_000]).unwrap();
    let host = Host::with_workload();
    let mut link = host.link(1);
    let (end, tar, stderr) = link.run(1, pack(&dir.path().join("no\nsuch")));
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!((end, tar), (code(1), vec![]));
    assert!(said.contains("no\\nsuch\" cannot be read: No such file") && said.lines().count() == 1, "{said}");
    let (_, tar, _) = link.run(2, pack(&dir.path().join("file")));
    for (id, asked, tar, expected) in [
        (3, unpack(&to, false), &tar[..50_000], "it ends in the middle"),
        (4, unpack(&to, false), &b"no tar"[..], "there is nothing in it"),
        (5, unpack(&to.join("no/such"), false), &tar[..], "make it first"),
        (6, unpack(&dir.path().join("file"), true), &tar[..], "it is no directory"),
    ] {
        let (end, said) = copied(&mut link, id, asked, tar);
        assert_eq!(end, code(1), "{said}");
        assert!(said.contains(expected) && said.lines().count() == 1, "{said}");
        assert_eq!(names(&to), Vec::<String>::new());
    }
    // Hung up in the middle of a file.
    link.open(7, unpack(&to, false));
    link.feed(7, &tar[..50_000]);
    link.until(|link| link.seen[&7].window.is_some_and(|(received, _)| received == 50_000));
    link.tell(7, SessionCommand::HangUp);
    let (end, _, stderr) = link.end(7);
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(end, code(1), "{said}");
    assert!(said.contains("the copy was given up"), "{said}");
    assert_eq!(names(&to), Vec::<String>::new());
    host.done();
}
