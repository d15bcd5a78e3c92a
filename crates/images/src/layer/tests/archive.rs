//! An archive that is made by hand, and what is kept of it.

use std::fs::{self, File};
use std::io::Read as _;

use ::tar::{EntryType, Header};
use sandpen_tree::record::push_record;

use super::*;
use crate::layer::blob::{Piece, pieces};
use crate::layer::entry::EntryReader;

/// An archive in the making.
#[derive(Default, Clone)]
pub struct Archive(pub Vec<u8>);

impl Archive {
    pub fn header(mut self, kind: u8, name: &[u8], size: u64, change: impl FnOnce(&mut Header)) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        header.set_entry_type(EntryType::new(kind));
        header.set_mode(0o644);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(3);
        header.set_size(size);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self
    }

    pub fn data(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub fn file(self, name: &str, contents: &[u8]) -> Self {
        self.header(b'0', name.as_bytes(), contents.len() as u64, |_| {}).data(contents)
    }

    pub fn directory(self, name: &str) -> Self {
        self.header(b'5', name.as_bytes(), 0, |header| header.set_mode(0o755))
    }

    pub fn link(self, kind: u8, name: &str, target: &str) -> Self {
        self.header(kind, name.as_bytes(), 0, |header| {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        })
    }

    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            push_record(&mut text, key.as_bytes(), value);
        }
        self.header(b'x', b"pax", text.len() as u64, |_| {}).data(&text)
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }

    pub fn unpack(self) -> Result<Unpacked, LayerError> {
        unpacked(&self.end(), &Expected::default())
    }
}

pub struct Unpacked {
    pub directory: tempfile::TempDir,
    pub info: LayerInfo,
}

pub fn unpacked(bytes: &[u8], expected: &Expected) -> Result<Unpacked, LayerError> {
    let directory = tempfile::tempdir().unwrap();
    let info = unpack(bytes, expected, directory.path(), &|_| {})?;
    let mut again = Vec::new();
    LayerInfo::tar_split(directory.path()).open().unwrap().read_to_end(&mut again).unwrap();
    if Compression::of(bytes) == Compression::None {
        assert!(again == bytes, "the archive comes back byte for byte");
    }
    Ok(Unpacked { directory, info })
}

impl Unpacked {
    pub fn list(&self) -> File {
        File::open(self.directory.path().join(ENTRIES)).unwrap()
    }

    pub fn entries(&self) -> Vec<Entry> {
        let mut reader = EntryReader::new(self.list());
        std::iter::from_fn(|| reader.read().unwrap().map(|(_, entry)| entry)).collect()
    }

    /// The contents of the file at `path`.
    pub fn contents(&self, path: &str) -> Vec<u8> {
        let entry = self.entries().into_iter().find(|entry| entry.path == path.as_bytes()).unwrap();
        let Kind::File { bytes, runs } = entry.kind else { panic!("{path} is a file") };
        let blob = fs::read(self.directory.path().join(BLOB)).unwrap();
        let mut contents = Vec::new();
        for piece in pieces(&runs, 0, bytes) {
            match piece {
                Piece::Zeros(count) => contents.resize(contents.len() + usize::try_from(count).unwrap(), 0),
                Piece::Blob { offset, bytes } => {
                    let offset = usize::try_from(offset).unwrap();
                    contents.extend_from_slice(&blob[offset..offset + usize::try_from(bytes).unwrap()]);
                }
            }
        }
        contents
    }
}

pub fn problem(archive: Archive) -> (String, TarProblem) {
    match archive.unpack().map(|unpacked| unpacked.info) {
        Err(LayerError::Archive { entry, problem }) => (entry, problem),
        other => panic!("{other:?}"),
    }
}

pub fn tree_problem(archive: Archive) -> (String, TreeProblem) {
    match archive.unpack().map(|unpacked| unpacked.info) {
        Err(LayerError::Tree { entry, problem }) => (entry, problem),
        other => panic!("{other:?}"),
    }
}
