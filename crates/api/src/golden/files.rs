//! Files.

use super::*;
use crate::file::{FileChange, FileEntry, FileEvent, FileEventLine, FileKind, FileLine, FileRename, FileWritten};

/// The values are the lines.
macro_rules! golden {
    ($file:literal, $values:expr) => {
        golden($file, include_str!($file), $values)
    };
}

fn odd() -> ByteString {
    ByteString::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(vec![b'/', 0xff]))
}

#[test]
fn files() {
    let time = DateTime::from_timestamp(1_769_860_800, 5).unwrap();
    let file = FileEntry {
        name: "a".into(),
        kind: FileKind::File,
        mode: 0o644,
        uid: 1,
        gid: 2,
        size: u64::MAX,
        allocated: 4096,
        links: 1,
        inode: 7,
        device: 8,
        accessed: time,
        modified: time,
        changed: time,
        target: None,
    };
    let link = FileEntry { name: odd(), kind: FileKind::Symlink, target: Some("/a".into()), ..file.clone() };
    let error = ErrorBody { error: ErrorDetail::message(ErrorCode::FileNotFound, "m") };
    let mut lines: Vec<_> = [file.clone(), link].map(FileLine::Entry).into();
    lines.push(FileLine::Error(error.clone()));
    golden!("files.jsonl", &lines);
    let kinds = [
        FileKind::File,
        FileKind::Directory,
        FileKind::Symlink,
        FileKind::Fifo,
        FileKind::Socket,
        FileKind::CharDevice,
        FileKind::BlockDevice,
        FileKind::Unknown,
    ];
    golden!("file_kinds.jsonl", &kinds);
    assert_eq!(serde_json::from_str::<FileKind>("\"of_later\"").unwrap(), FileKind::Unknown);
    let all = FileChange {
        mode: Some(0o600),
        uid: Some(0),
        gid: Some(0),
        size: Some(0),
        accessed: Some(time),
        modified: Some(time),
    };
    golden!("file_change.jsonl", &[FileChange::default(), all]);
    golden!("file_rename.jsonl", &[FileRename { from: "/a".into(), to: odd(), replace: false }]);
    let least: FileRename = serde_json::from_str(r#"{"from":"/a","to":"/b"}"#).unwrap();
    assert!(least.replace);
    golden!("file_written.jsonl", &[FileWritten { bytes: 7 }]);
    let events = [
        FileEvent::Watching {},
        FileEvent::Created { path: odd(), directory: true },
        FileEvent::Modified { path: "/a".into() },
        FileEvent::Closed { path: "/a".into() },
        FileEvent::Attributes { path: "/a".into(), directory: false },
        FileEvent::Removed { path: "/a".into(), directory: false },
        FileEvent::Renamed { from: "/a".into(), to: "/b".into(), directory: false },
        FileEvent::Overflow {},
    ];
    let mut lines: Vec<_> = events.map(FileEventLine::Event).into();
    lines.push(FileEventLine::Error(error));
    golden!("file_events.jsonl", &lines);
}
