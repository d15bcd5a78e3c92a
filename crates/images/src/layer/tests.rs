//! Archives made by hand, most of them as nobody but an attacker makes them.

use std::io::Write as _;

use ::tar::Header;
use proptest::prelude::*;
use sandpen_tree::SparseProblem as P;

use super::archive_reader::TarProblem;
use super::entry::{Entry, Kind};
use super::*;
use crate::tree::TreeProblem;

mod archive;
mod merged;

use archive::{Archive, problem, tree_problem, unpacked};

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let archive = Archive::default;
    for (name, what) in [
        ("../a", NameProblem::Parent),
        ("a/../../b", NameProblem::Parent),
        ("/etc/passwd", NameProblem::Absolute),
        ("", NameProblem::Empty),
    ] {
        assert_eq!(problem(archive().file("ok", b"x").file(name, b"x")), (name.to_owned(), TarProblem::Name(what)));
    }
    let nul = archive().pax(&[("SCHILY.xattr.user.a", b"v")]).header(b'L', b"L", 4, |_| {}).data(b"a\0b\0");
    assert_eq!(problem(nul.file("x", b"")).1, TarProblem::Name(NameProblem::Nul));
    let long = "d/".repeat(3000);
    let too_long = archive().header(b'L', b"L", long.len() as u64, |_| {}).data(long.as_bytes()).file("x", b"");
    assert_eq!(problem(too_long).1, TarProblem::Name(NameProblem::TooLong));
    assert_eq!(problem(archive().link(b'1', "a", "../b")).1, TarProblem::Target(NameProblem::Parent));
    assert_eq!(problem(archive().link(b'1', "a", "/x/../../b")).1, TarProblem::Target(NameProblem::Parent));
    assert_eq!(problem(archive().link(b'1', "a", "")).1, TarProblem::NoTarget);
    assert!(archive().file("b", b"x").link(b'1', "a", "/b").unpack().is_ok(), "some write targets absolute");
    assert_eq!(problem(archive().link(b'2', "a", "")).1, TarProblem::NoTarget);
}

#[test]
fn entries_that_cannot_be_together_are_refused() {
    let archive = Archive::default;
    let twice = archive().file("a", b"1").file("./a", b"2");
    assert_eq!(tree_problem(twice), ("a".to_owned(), TreeProblem::Twice));
    for conflict in [
        archive().directory("a/").file("a", b""),
        archive().file("a/b", b"").file("a", b""),
        archive().file("a", b"").directory("a/"),
        archive().link(b'2', "a", "b").file("a", b""),
    ] {
        assert_eq!(tree_problem(conflict), ("a".to_owned(), TreeProblem::Twice));
    }
    let below = archive().file("a", b"").file("a/b", b"");
    assert_eq!(tree_problem(below), ("a/b".to_owned(), TreeProblem::BelowFile));
    let looped = archive().link(b'2', "a", "b").link(b'2', "b", "a").file("a/c", b"");
    assert_eq!(tree_problem(looped), ("a/c".to_owned(), TreeProblem::LinkLoop));
    let itself = archive().link(b'2', "a", "a/x").file("a/c", b"");
    assert_eq!(tree_problem(itself).1, TreeProblem::LinkLoop);
    let root = archive().header(b'0', b".", 0, |_| {});
    assert_eq!(tree_problem(root).1, TreeProblem::Root);
    let directory = archive().directory("d/").link(b'1', "a", "d");
    assert_eq!(tree_problem(directory).1, TreeProblem::LinkToDirectory);
    // What many tools write: a directory twice, the last attributes hold.
    let again = archive().directory("d/").file("d/f", b"x").header(b'5', b"d/", 0, |header| header.set_mode(0o700));
    let again = again.unpack().unwrap();
    assert_eq!((again.info.entries, again.contents("d/f")), (3, b"x".to_vec()));
}

#[test]
fn devices_and_attributes_of_overlays_are_refused() {
    let device = |major: u32, minor: u32| {
        Archive::default().header(b'3', b"dev", 0, |header| {
            header.set_device_major(major).unwrap();
            header.set_device_minor(minor).unwrap();
        })
    };
    assert_eq!(problem(device(0, 0)), ("dev".to_owned(), TarProblem::WhiteoutDevice));
    assert_eq!(problem(device(1 << 12, 0)).1, TarProblem::Range);
    assert_eq!(problem(device(0, 1 << 20)).1, TarProblem::Range);
    assert_eq!(device(1, 3).unpack().unwrap().entries()[0].kind, Kind::CharacterDevice(1, 3));
    let overlay = Archive::default().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).directory("d/");
    assert_eq!(problem(overlay), ("d/".to_owned(), TarProblem::OverlayXattr("trusted.overlay.opaque".to_owned())));
    let large = vec![b'v'; 61 << 10];
    let large = Archive::default().pax(&[("SCHILY.xattr.user.large", &large)]).file("f", b"");
    assert_eq!(problem(large).1, TarProblem::Xattrs);
    let foreign = [("SCHILY.xattr.com.apple.x", &b"v"[..]), ("SCHILY.xattr.user.k", b"a\nb"), ("mtime", b"-0.25")];
    let foreign = Archive::default().pax(&foreign).file("f", b"").unpack().unwrap().entries().remove(0);
    assert_eq!(foreign.meta.xattrs, [(b"user.k".to_vec(), b"a\nb".to_vec())]);
    assert_eq!((foreign.meta.mtime, foreign.meta.mtime_nanos), (-1, 750_000_000));
    assert_eq!((foreign.meta.uid, foreign.meta.gid, foreign.meta.mode), (1, 2, 0o644));
}

#[test]
fn headers_that_lie_are_refused() {
    let archive = Archive::default;
    let huge = archive().header(b'x', b"pax", 1 << 40, |_| {});
    assert_eq!(problem(huge).1, TarProblem::HeaderTooLong);
    let huge = archive().header(b'L', b"name", (1 << 20) + 1, |_| {});
    assert_eq!(problem(huge).1, TarProblem::HeaderTooLong);
    let nested = archive().header(b'L', b"L", 2, |_| {}).data(b"a\0").header(b'L', b"L", 2, |_| {}).data(b"b\0");
    assert_eq!(problem(nested.file("x", b"")).1, TarProblem::NestedLongName);
    let alone = archive().header(b'L', b"L", 2, |_| {}).data(b"a\0");
    assert_eq!(problem(alone).1, TarProblem::LongNameAlone);
    let large = archive().header(b'0', b"hole", 100 << 30, |_| {});
    assert_eq!(problem(large), ("hole".to_owned(), TarProblem::FileTooLarge));
    let disagree = archive().pax(&[("size", b"99999")]).header(b'0', b"f", 3, |_| {}).data(b"abc");
    assert_eq!(problem(disagree), ("f".to_owned(), TarProblem::Truncated));
    assert!(matches!(problem(archive().pax(&[("size", b"x")]).file("f", b"")).1, TarProblem::Pax(_)));
    let unknown = archive().header(b'Z', b"f", 0, |_| {});
    assert_eq!(problem(unknown), ("f".to_owned(), TarProblem::Type('Z')));
    let owner = archive().pax(&[("uid", b"4294967296")]).file("f", b"");
    assert_eq!(problem(owner).1, TarProblem::Range);
    let mut damaged = archive().file("f", b"x").end();
    damaged[0] = b'g';
    let damaged = unpacked(&damaged, &Expected::default()).err();
    assert!(matches!(damaged, Some(LayerError::Archive { problem: TarProblem::Checksum, .. })), "{damaged:?}");
    for garbage in [&b"<html>no such layer</html>"[..], &[7; 4096]] {
        assert!(unpacked(garbage, &Expected::default()).is_err());
    }
    // Archives without an end, or with more behind it, are read everywhere.
    let open = archive().file("f", b"x").0;
    assert_eq!(unpacked(&open, &Expected::default()).unwrap().info.entries, 1);
    assert_eq!(unpacked(&open[..513], &Expected::default()).unwrap().contents("f"), b"x");
    let trailing = [archive().file("f", b"x").end(), vec![9; 5000]].concat();
    assert_eq!(unpacked(&trailing, &Expected::default()).unwrap().info.tar_bytes, 1024 + 1024 + 5000);
    assert_eq!(unpacked(&[], &Expected::default()).unwrap().info.entries, 0);
}

#[test]
fn sparse_files_are_read_in_each_format_and_their_maps_checked() {
    let old = |parts: &[(u64, u64)], real: u64, stored: &[u8]| {
        Archive::default()
            .header(b'S', b"s", stored.len() as u64, |header| {
                let gnu = header.as_gnu_mut().unwrap();
                for (place, (offset, bytes)) in gnu.sparse.iter_mut().zip(parts) {
                    place.set_offset(*offset);
                    place.set_length(*bytes);
                }
                gnu.set_real_size(real);
            })
            .data(stored)
    };
    let expected = [vec![0; 10], b"abc".to_vec(), vec![0; 200_000 - 13]].concat();
    assert_eq!(old(&[(10, 3)], 200_000, b"abc").unpack().unwrap().contents("s"), expected);
    let pax = |records: &[(&str, &[u8])], stored: &[u8]| {
        Archive::default().pax(records).header(b'0', b"GNUSparseFile.0/s", stored.len() as u64, |_| {}).data(stored)
    };
    let first = [
        ("GNU.sparse.size", &b"200000"[..]),
        ("GNU.sparse.numblocks", b"1"),
        ("GNU.sparse.offset", b"10"),
        ("GNU.sparse.numbytes", b"3"),
        ("GNU.sparse.name", b"s"),
    ];
    assert_eq!(pax(&first, b"abc").unpack().unwrap().contents("s"), expected);
    let second = [("GNU.sparse.size", &b"200000"[..]), ("GNU.sparse.map", b"10,3"), ("GNU.sparse.name", b"s")];
    assert_eq!(pax(&second, b"abc").unpack().unwrap().contents("s"), expected);
    let third = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"200000"),
    ];
    let mut stored = b"1\n10\n3\n".to_vec();
    stored.resize(512, 0);
    stored.extend_from_slice(b"abc");
    assert_eq!(pax(&third, &stored).unpack().unwrap().contents("s"), expected);
    for (archive, what) in [
        (old(&[(10, 3), (12, 3)], 100, b"abcdef"), P::Order),
        (old(&[(20, 3), (10, 3)], 100, b"abcdef"), P::Order),
        (old(&[(99, 3)], 100, b"abc"), P::Beyond),
        (old(&[(u64::MAX, 3)], 100, b"abc"), P::Beyond),
        (old(&[(10, 4)], 100, b"abc"), P::Stored),
        (pax(&[("GNU.sparse.map", b"1,2,3"), ("GNU.sparse.size", b"9")], b"abc"), P::Map),
        (pax(&[("GNU.sparse.map", b"1,3")], b"abc"), P::NoSize),
        (pax(&third, b"1\n10\n"), P::Map),
        (pax(&third, &[b'9'; 512]), P::Number),
        (pax(&third, &[b"99999999\n".to_vec(), vec![0; 503]].concat()), P::TooMany(1 << 20)),
    ] {
        assert_eq!(problem(archive).1, TarProblem::Sparse(what));
    }
    let hole = old(&[(0, 3)], 100 << 30, b"abc");
    assert_eq!(problem(hole), ("s".to_owned(), TarProblem::FileTooLarge));
}

#[test]
fn what_is_told_of_a_layer_is_held_against_it() {
    let tar = Archive::default().file("f", b"contents").end();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&tar).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(&tar[..], 3).unwrap();
    let right = unpacked(&tar, &Expected::default()).unwrap().info;
    let other = ImageDigest::new([1; 32]);
    for packed in [&tar, &gzip, &zstd] {
        let digest = ImageDigest::new(<[u8; 32]>::from(<sha2::Sha256 as sha2::Digest>::digest(packed)));
        let told =
            Expected { diff_id: Some(right.diff_id), packed: Some(digest), packed_bytes: Some(packed.len() as u64) };
        assert_eq!(unpacked(packed, &told).unwrap().info, right);
        for lie in [
            Expected { diff_id: Some(other), ..told },
            Expected { packed: Some(other), ..told },
            Expected { packed_bytes: Some(1), ..told },
        ] {
            let error = unpacked(packed, &lie).err();
            assert!(matches!(error, Some(LayerError::Digest { .. } | LayerError::Size { .. })), "{error:?}");
        }
    }
    for packed in [&gzip, &zstd] {
        let mut damaged = packed.clone();
        let last = damaged.len() - 6;
        damaged.truncate(last);
        assert!(matches!(
            unpacked(&damaged, &Expected::default()),
            Err(LayerError::Unpack { .. } | LayerError::Archive { .. })
        ));
    }
}

/// So many megabytes of this byte as the contents of a file, packed.
fn packed(byte: u8, times: u64) -> Vec<u8> {
    let megabyte = vec![byte; 1 << 20];
    let mut packed = zstd::Encoder::new(Vec::new(), 1).unwrap();
    packed.write_all(&Archive::default().header(b'0', b"f", times << 20, |_| {}).0).unwrap();
    for _ in 0..times {
        packed.write_all(&megabyte).unwrap();
    }
    packed.finish().unwrap()
}

#[test]
fn a_bomb_is_given_up() {
    let too_much = |packed: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        let error = unpack(packed, &Expected::default(), directory.path(), &|_| {}).unwrap_err();
        assert!(matches!(error, LayerError::Ratio(_)), "{error:?}");
        let written = [BLOB, ENTRIES, TAR].map(|name| std::fs::metadata(directory.path().join(name)).unwrap().len());
        assert!(written.iter().sum::<u64>() < 64 << 20, "{written:?}");
    };
    too_much(&packed(7, 100));
    // What is read for ever, though nothing is written.
    too_much(&packed(0, 200));
    // A byte of each 64 KiB of a sparse file.
    let segments = 100_000_u64;
    let mut stored = format!("{segments}\n").into_bytes();
    for segment in 0..segments {
        writeln!(stored, "{}\n1", segment << 16).unwrap();
    }
    stored.resize(stored.len().next_multiple_of(512), 0);
    stored.resize(stored.len() + usize::try_from(segments).unwrap(), 7);
    let sparse = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", b"6553600000"),
    ];
    let sparse = Archive::default().pax(&sparse).header(b'0', b"s", stored.len() as u64, |_| {}).data(&stored).end();
    too_much(&zstd::encode_all(&sparse[..], 19).unwrap());
}

/// Zeros take nothing, so as many of them as there are make no bomb; nor do small files of nothing else.
#[test]
fn zeros_are_no_bomb() {
    let directory = tempfile::tempdir().unwrap();
    let zeros = packed(0, 100);
    assert!(zeros.len() < 1 << 15);
    let info = unpack(&zeros[..], &Expected::default(), directory.path(), &|_| {}).unwrap();
    assert_eq!((info.blob_bytes, info.content_bytes), (0, 100 << 20));
    let small = (0..1000).fold(Archive::default(), |archive, n| archive.file(&format!("f{n}"), &[0; 5000]));
    assert_eq!(small.unpack().unwrap().info.blob_bytes, 0);
}

#[test]
fn whiteouts_are_marks_and_no_files() {
    let layer = Archive::default()
        .directory("d/")
        .file("d/.wh.gone", b"")
        .file("d/.wh..wh..opq", b"")
        .file(".wh..wh.plnk", b"aufs")
        .file(".wh.top", b"")
        .unpack()
        .unwrap();
    let kinds: Vec<_> = layer.entries().into_iter().map(|entry| (entry.path, entry.kind)).collect();
    let mark = |path: &str, kind| (path.as_bytes().to_vec(), kind);
    let marks = [
        mark("d", Kind::Directory),
        mark("d/gone", Kind::Whiteout),
        mark("d", Kind::Opaque),
        mark("top", Kind::Whiteout),
    ];
    assert_eq!(kinds, marks);
    assert!(matches!(problem(Archive::default().file(".wh.", b"")).1, TarProblem::Name(_)));
    assert!(matches!(problem(Archive::default().file("a/.wh...", b"")).1, TarProblem::Name(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever bytes come, there is an answer; and what is taken comes back as it was.
    #[test]
    fn any_bytes_have_an_answer(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        let _ = unpacked(&bytes, &Expected::default());
    }

    /// The same of an archive with bytes changed.
    #[test]
    fn a_changed_archive_has_an_answer(changes in proptest::collection::vec((0usize..6000, any::<u8>()), 1..8), fix in any::<bool>()) {
        let mut bytes = Archive::default()
            .directory("d/")
            .pax(&[("path", b"d/file"), ("mtime", b"1.5"), ("SCHILY.xattr.user.k", b"v")])
            .file("x", &[7; 700])
            .link(b'1', "d/hard", "d/file")
            .header(b'S', b"sparse", 3, |header| {
                let gnu = header.as_gnu_mut().unwrap();
                gnu.sparse[0].set_offset(10);
                gnu.sparse[0].set_length(3);
                gnu.set_real_size(5000);
            })
            .data(b"abc")
            .end();
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if fix {
            for header in bytes.chunks_exact_mut(512) {
                let mut fixed = Header::from_byte_slice(header).clone();
                fixed.set_cksum();
                header.copy_from_slice(fixed.as_bytes());
            }
        }
        let _ = unpacked(&bytes, &Expected::default());
    }
}
