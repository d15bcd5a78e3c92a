//! Whatever entries layers have, in whatever order, they make a file system or are refused.
#![no_main]

use std::fs::File;
use std::io::Seek as _;

use libfuzzer_sys::fuzz_target;
use sandpen_images::erofs::{self, Placement};
use sandpen_images::layer::entry::{Entry, EntryWriter, Kind, Meta};
use sandpen_images::tree::Tree;

/// A path of few names, so that entries meet.
fn path(bytes: &mut impl Iterator<Item = u8>) -> Vec<u8> {
    let parts = usize::from(bytes.next().unwrap_or(0) % 4);
    let names: [&[u8]; 4] = [b"a", b"b", b"c", b"long-name"];
    let parts: Vec<_> = (0..parts).map(|_| names[usize::from(bytes.next().unwrap_or(0) % 4)]).collect();
    parts.join(&b'/')
}

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.iter().copied();
    let mut tree = Tree::new();
    let mut blobs = Vec::new();
    for _ in 0..bytes.next().unwrap_or(0) % 5 {
        let mut list = EntryWriter::new(tempfile::tempfile().unwrap());
        for _ in 0..bytes.next().unwrap_or(0) % 40 {
            let kind = match bytes.next().unwrap_or(0) % 8 {
                0 => Kind::Directory,
                1 => Kind::File { bytes: u64::from(bytes.next().unwrap_or(0)) << 12, runs: Vec::new() },
                2 => Kind::HardLink(path(&mut bytes)),
                3 => Kind::SymbolicLink([b"../".as_slice(), &path(&mut bytes)].concat()),
                4 => Kind::SymbolicLink([b"/".as_slice(), &path(&mut bytes)].concat()),
                5 => Kind::Whiteout,
                6 => Kind::Opaque,
                _ => Kind::Fifo,
            };
            let value = vec![7; usize::from(bytes.next().unwrap_or(0))];
            let meta = Meta { xattrs: vec![(b"user.x".to_vec(), value)], ..Meta::default() };
            list.push(&Entry { path: path(&mut bytes), kind, meta }).unwrap();
        }
        let mut list = list.finish().unwrap();
        list.rewind().unwrap();
        if tree.apply(&list).is_err() {
            return;
        }
        blobs.push(u32::from(bytes.next().unwrap_or(0)));
    }
    let file: File = tempfile::tempfile().unwrap();
    let bytes = erofs::write(&mut tree, &blobs, Placement::Before, &file).unwrap();
    assert_eq!(bytes % 4096, 0);
});
