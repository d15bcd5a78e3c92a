//! Trees through a stream, from here to here, and what others do with one end of it.

mod attributes;
mod changes;
mod closing;
mod foreign;
mod hostile;
mod round_trip;
mod rules;
mod streams;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use crate::{
    Attributes, Destination, Entry, Kind, Meta, Owners, PackOptions, Report, Segment, Special, UnpackError,
    UnpackOptions, Wait, Writer, pack, unpack,
};

/// What most tests have: as on a host, with owners kept.
const OPTIONS: UnpackOptions =
    UnpackOptions { owners: Owners::Keep, special: Special::Refuse, attributes: Attributes::All, wait: Wait::ForFew };

fn packed_with(source: &Path, follow: bool) -> (Vec<u8>, Report) {
    let mut tar = Vec::new();
    let report = pack(source, PackOptions { follow, attributes: Attributes::All }, &mut tar).unwrap();
    (tar, report)
}

/// The tar of a path that has nothing wrong with it.
fn packed(source: &Path) -> Vec<u8> {
    let (tar, report) = packed_with(source, false);
    assert_eq!(report.problems.to_string(), "");
    tar
}

fn unpacked(tar: &[u8], into: &Path) -> Report {
    let report = unpack(tar, Destination::Directory(into), OPTIONS).unwrap();
    assert_eq!(report.problems.to_string(), "");
    report
}

/// All below a directory, a line each: what it is and all that is kept of it. Files with several names are told by the
/// first one.
fn told(root: &Path) -> Vec<String> {
    fn walk(root: &Path, at: &Path, lines: &mut Vec<String>, names: &mut Vec<((u64, u64), String)>) {
        let mut entries: Vec<_> = fs::read_dir(at).unwrap().map(|entry| entry.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            let meta = fs::symlink_metadata(&path).unwrap();
            let name = format!("{:?}", path.strip_prefix(root).unwrap());
            let identity = (meta.dev(), meta.ino());
            let first = names.iter().find(|(known, _)| !meta.is_dir() && *known == identity);
            let first = first.map_or_else(|| name.clone(), |(_, first)| first.clone());
            names.push((identity, first.clone()));
            let what = if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(&path).unwrap())
            } else if meta.is_file() {
                let mut hash = std::hash::DefaultHasher::new();
                std::hash::Hasher::write(&mut hash, &fs::read(&path).unwrap());
                format!("{} bytes {:x}", meta.len(), std::hash::Hasher::finish(&hash))
            } else {
                String::new()
            };
            let open = fs::File::open(&path).ok().filter(|_| !meta.is_symlink());
            let xattrs = open.map(|file| Attributes::All.read(file).unwrap()).unwrap_or_default();
            lines.push(format!(
                "{name} {:o} {}:{} {}.{:09} {what} {xattrs:?} {first}",
                meta.mode(),
                meta.uid(),
                meta.gid(),
                meta.mtime(),
                meta.mtime_nsec()
            ));
            if meta.is_dir() {
                walk(root, &path, lines, names);
            }
        }
    }
    let mut lines = Vec::new();
    walk(root, root, &mut lines, &mut Vec::new());
    lines
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Root may do everything; a thread may be somebody else.
fn as_ordinary_user<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let become_and_act = || {
        if is_root() {
            let nobody = rustix::fs::Uid::from_raw(65_534);
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        act()
    };
    std::thread::scope(|scope| scope.spawn(become_and_act).join().unwrap())
}

fn entry(path: &str, kind: Kind) -> Entry {
    let meta = Meta { mode: 0o644, mtime: (1_000_000_000, 0), uid: 0, gid: 0, xattrs: Vec::new() };
    Entry { path: path.as_bytes().to_owned(), kind, meta }
}

fn file(path: &str, bytes: u64) -> Entry {
    let segments = if bytes == 0 { vec![] } else { vec![Segment { offset: 0, bytes }] };
    entry(path, Kind::File { bytes, segments })
}

/// A tar of these entries; all files are full of `x`.
fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    for Entry { path, kind, meta } in entries {
        writer.begin(path, kind, meta).unwrap();
        if let Kind::File { segments, .. } = kind {
            for segment in segments {
                writer.contents(&vec![b'x'; usize::try_from(segment.bytes).unwrap()]).unwrap();
            }
        }
    }
    writer.finish().unwrap()
}

/// No name that is nobody's is left.
fn assert_no_temporary(at: &Path) {
    let lines = told(at);
    assert!(!lines.iter().any(|line| line.contains(".sandpen-cp-")), "{lines:#?}");
}
