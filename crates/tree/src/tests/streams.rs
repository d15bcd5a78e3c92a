//! The stream by itself: entries that are read as they were written, and bytes of any kind.

use proptest::prelude::*;

use super::*;
use crate::{ContentsError, Reader, StreamError};

fn read(tar: &[u8]) -> Result<Vec<Entry>, StreamError> {
    let mut reader = Reader::new(tar);
    let mut entries = Vec::new();
    while let Some(entry) = reader.read()? {
        entries.push(entry);
    }
    Ok(entries)
}

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let part = proptest::collection::vec((1_u8..=255).prop_filter("a part", |byte| *byte != b'/'), 1..90);
    let part = part.prop_map(|part| if matches!(part.as_slice(), b"." | b"..") { b"dot".to_vec() } else { part });
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.join(&b'/'))
}

fn any_kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Directory),
        (0_u64..5000).prop_map(|bytes| Kind::File { bytes, segments: vec![Segment { offset: 0, bytes }] }),
        (1_u64..500, 1_u64..500, 1_u64..500, 1_u64..u64::from(u32::MAX)).prop_map(|(a, b, c, d)| {
            let segments = vec![
                Segment { offset: a, bytes: b },
                Segment { offset: a + b + c, bytes: a },
                Segment { offset: a + b + c + a + d, bytes: 0 },
            ];
            Kind::File { bytes: a + b + c + a + d, segments }
        }),
        any_path().prop_map(Kind::HardLink),
        any_path().prop_map(Kind::SymbolicLink),
        (0_u32..1 << 12, 0_u32..1 << 20).prop_map(|(major, minor)| Kind::CharacterDevice(major, minor)),
        (0_u32..1 << 12, 0_u32..1 << 20).prop_map(|(major, minor)| Kind::BlockDevice(major, minor)),
        Just(Kind::Fifo),
    ]
}

fn any_meta() -> impl Strategy<Value = Meta> {
    let xattrs = proptest::collection::btree_map(
        "user\\.[a-z=%235D\n]{1,20}".prop_map(String::into_bytes),
        proptest::collection::vec(any::<u8>(), 0..600),
        0..3,
    );
    let ids = (0..u32::MAX, 0..u32::MAX);
    (0_u32..0o10000, ids, any::<i32>(), 0_u32..1_000_000_000, xattrs).prop_map(
        |(mode, (uid, gid), seconds, nanos, xattrs)| Meta {
            mode,
            uid,
            gid,
            mtime: (i64::from(seconds) * 1000, nanos),
            xattrs: xattrs.into_iter().collect(),
        },
    )
}

#[test]
fn contents_that_end_early_are_told_and_zeros_make_the_entry_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "0123456789").unwrap();
    let file = fs::File::open(&path).unwrap();
    let segments = vec![Segment { offset: 2, bytes: 3 }, Segment { offset: 8, bytes: 20_000 }];
    let mut writer = Writer::new(Vec::new());
    writer.begin(b"f", &Kind::File { bytes: 30_000, segments: segments.clone() }, &Meta::default()).unwrap();
    let error = writer.file(&file, &segments, &mut [0; 2]).unwrap_err();
    assert!(matches!(&error, ContentsError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof), "{error:?}");
    writer.zeros().unwrap();
    writer.begin(b"next", &Kind::Fifo, &Meta::default()).unwrap();
    let tar = writer.finish().unwrap();

    let mut reader = Reader::new(tar.as_slice());
    reader.read().unwrap().unwrap();
    let mut contents = Vec::new();
    while let chunk @ [_, ..] = reader.chunk().unwrap() {
        contents.extend_from_slice(chunk);
    }
    assert_eq!(contents, [b"23489".to_vec(), vec![0; 19_998]].concat());
    assert_eq!(reader.read().unwrap().unwrap().path, b"next");

    let mut full = Writer::new(io::Cursor::new([0; 514]));
    full.begin(b"f", &Kind::File { bytes: 10, segments: segments[..1].to_vec() }, &Meta::default()).unwrap_err();
    let mut full = Writer::new(io::Cursor::new([0; 514]));
    let whole = [Segment { offset: 0, bytes: 10 }];
    full.begin(b"f", &Kind::File { bytes: 10, segments: whole.to_vec() }, &Meta::default()).unwrap();
    assert!(matches!(full.file(&file, &whole, &mut [0; 4]), Err(ContentsError::Write(_))));
}

proptest! {
    #[test]
    fn entries_are_read_as_they_were_written(entries in proptest::collection::vec((any_path(), any_kind(), any_meta()), 0..6)) {
        let entries: Vec<_> = entries.into_iter().map(|(path, kind, meta)| Entry { path, kind, meta }).collect();
        prop_assert_eq!(read(&tar(&entries)).unwrap(), entries);
    }

    #[test]
    fn whatever_comes_there_is_an_answer(
        entries in proptest::collection::vec((any_path(), any_kind(), any_meta()), 1..4),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..8),
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(path, kind, meta)| Entry { path, kind, meta }).collect();
        let mut bytes = tar(&entries);
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
            // So that not all of them end at the checksum.
            let header = place / 512 * 512;
            let mut block = [0; 512];
            block.copy_from_slice(&bytes[header..header + 512]);
            let sum = format!("{:06o}\0 ", crate::record::checksum(&block));
            if place % 2 == 0 && block[257..262] == *b"ustar" {
                bytes[header + 148..header + 156].copy_from_slice(sum.as_bytes());
            }
        }
        let _ = read(&bytes);
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("inside");
        fs::create_dir(&inside).unwrap();
        let _ = unpack(&*bytes, Destination::Directory(&inside), OPTIONS);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
