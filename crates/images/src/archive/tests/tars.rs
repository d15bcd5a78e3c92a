use proptest::prelude::*;

use super::*;

/// An archive of one image, whose layer is at `layer`.
fn simple(layer: &str) -> Tar {
    let images = json!([{"Config": "c", "RepoTags": ["app:1"], "Layers": [layer]}]);
    Tar::default().file("manifest.json", images.to_string()).file("c", config(&["one"]))
}

fn record(key: &str, value: &str) -> String {
    let rest = format!(" {key}={value}\n");
    let digits = (1..9).find(|digits| (rest.len() + digits).to_string().len() == *digits).unwrap();
    format!("{}{rest}", rest.len() + digits)
}

#[test]
fn first_bytes_tell_what_a_file_is() {
    let tar = simple("one").0;
    for (bytes, expected) in [
        (tar.as_slice(), Outer::Tar),
        (&tar[..512], Outer::Tar),
        (&tar[..511], Outer::Unknown),
        (b"\x1f\x8b\x08", Outer::Gzip),
        (b"\x28\xb5\x2f\xfd\0", Outer::Zstd),
        (b"\x52\x2a\x4d\x18\0", Outer::Zstd),
        (b"\xfd7zXZ\0", Outer::Xz),
        (b"BZh9", Outer::Bzip2),
        (b"<html>", Outer::Unknown),
        (b"", Outer::Unknown),
        (&[0; 1024], Outer::Unknown),
        (&[b' '; 512], Outer::Unknown),
    ] {
        assert_eq!(sniff(bytes), expected, "{:?}", &bytes[..bytes.len().min(8)]);
    }
    let error = ImageArchive::open(file(b"\x1f\x8b\x08")).unwrap_err();
    assert!(matches!(error, ArchiveError::Compressed(Outer::Gzip)), "{error}");
    assert!(matches!(ImageArchive::open(file(b"<html>")).unwrap_err(), ArchiveError::NotTar));
}

#[test]
fn long_names_are_read_in_both_forms() {
    let name = format!("{}/layer.tar", "d".repeat(300));
    let pax = simple(&name).entry(EntryType::XHeader, "x", "", record("path", &name).as_bytes()).file("short", "one");
    assert_eq!(pax.images().unwrap()[0].layers[0].size, 3);
    let gnu = simple(&name).entry(EntryType::GNULongName, "x", "", format!("{name}\0").as_bytes()).file("short", "one");
    assert_eq!(gnu.images().unwrap()[0].layers[0].size, 3);
    let link = simple("a").file("b", "one").entry(EntryType::XHeader, "x", "", record("linkpath", "b").as_bytes());
    assert_eq!(link.link("a", "nowhere").images().unwrap()[0].layers[0].size, 3);
    let comment = Tar::default().entry(EntryType::XGlobalHeader, "g", "", record("comment", "x=\n").as_bytes());
    let images = Tar(comment.0.into_iter().chain(simple("one").file("one", "one").0).collect()).images();
    assert_eq!(images.unwrap().len(), 1);
}

#[test]
fn a_size_in_records_counts() {
    let mut header = Header::new_ustar();
    header.set_path("one").unwrap();
    header.set_entry_type(EntryType::Regular);
    header.set_size(0);
    let sized = |size: &str| simple("one").entry(EntryType::XHeader, "x", "", record("size", size).as_bytes());
    let images = sized("3").header(&mut header.clone(), b"one").images().unwrap();
    assert_eq!(images[0].layers[0].size, 3);
    for (size, expected) in [
        ("-1", "its size is no number"),
        ("+3", "its size is no number"),
        ("18446744073709551615", "but the file ends before"),
        ("99999999999999999999", "its size is no number"),
    ] {
        let error = sized(size).header(&mut header.clone(), b"one").refused();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_readers_differ_in_is_refused() {
    let entry = |kind, bytes: &[u8]| simple("one").entry(kind, "x", "", bytes).file("one", "one").refused();
    let records = |text: &str| entry(EntryType::XHeader, text.as_bytes());
    for (error, expected) in [
        (entry(EntryType::Symlink, b"x"), "its entry is no file but has a size"),
        (entry(EntryType::Directory, b"x"), "its entry is no file but has a size"),
        (entry(EntryType::GNUSparse, b""), "it has sparse files"),
        (entry(EntryType::new(b'M'), b""), "of the unknown type 'M'"),
        (entry(EntryType::XGlobalHeader, record("path", "x").as_bytes()), "for all files that follow"),
        (entry(EntryType::XHeader, &vec![b' '; (1 << 20) + 1]), "bytes of names or records"),
        (entry(EntryType::GNULongName, &[b'a'; 5000]), "bytes of names or records"),
        (records(&record("path", &"x".repeat(5000))), "a name of more than 4096 bytes"),
        (records(&record("GNU.sparse.major", "1")), "it has sparse files"),
        (records("x"), "its records have no form"),
        (records("5 a=b\n"), "its records have no form"),
        (records("99999999 a=b\n"), "its records have no form"),
        (records("1 a=b\n"), "its records have no form"),
    ] {
        assert!(
            error.contains("the tar is damaged or of an unknown kind at byte ") && error.contains(expected),
            "{error}"
        );
    }
    let pending = simple("one").file("one", "one").entry(EntryType::XHeader, "x", "", record("path", "y").as_bytes());
    assert!(pending.refused().contains("it ends before an entry that was begun"));
}

#[test]
fn a_tar_that_is_cut_is_refused_wherever_it_is_cut() {
    let whole = simple("one").file("one", "one".repeat(400)).0;
    let read = |len: usize| ImageArchive::open(file(&whole[..len])).and_then(|a| a.images(&platform("linux/amd64")));
    for len in (0..whole.len() - 512).step_by(61).chain([512, 1024, 1536]) {
        assert!(read(len).is_err(), "{len}");
    }
    assert!(read(whole.len()).is_ok()); // without its last blocks
    let within = read(whole.len() - 600).unwrap_err().to_string();
    assert!(
        within.contains("its entry has 1200 bytes, but the file ends before, so a part of it is missing"),
        "{within}"
    );
    let within = read(1224).unwrap_err().to_string();
    assert!(within.contains("it ends within a header"), "{within}");
}

#[test]
fn too_many_entries_and_names_are_refused() {
    let one = Tar::default().entry(EntryType::Directory, "d", "", &[]).0;
    let many = Tar(one.repeat(100_001));
    assert!(many.refused().contains("it has more than 100000 entries"));
    let name = |n: usize| format!("{n:04}{}", "n".repeat(4000));
    let long = (0..4300)
        .fold(Tar::default(), |tar, n| tar.entry(EntryType::GNULongName, "x", "", name(n).as_bytes()).file("x", ""));
    let error = long.refused();
    assert!(error.contains("its names have more than 16777216 bytes together"), "{error}");
}

#[test]
fn a_file_that_shrinks_is_an_error_and_no_end() {
    let bytes = simple("one").file("one", "one").0;
    let file = file(&bytes);
    let other = file.try_clone().unwrap();
    let archive = ImageArchive::open(file).unwrap();
    let images = archive.images(&platform("linux/amd64")).unwrap();
    let layer = archive.open_layer(&images[0].layers[0]).unwrap();
    other.set_len(600).unwrap();
    assert_eq!(io::read_to_string(layer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn nothing_makes_it_panic(changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..6)) {
        let mut bytes = simple("one").link("l", "one").file("one", "one").0;
        for (at, byte) in changes {
            let (at, len) = (at % bytes.len(), bytes.len());
            bytes[at] = byte;
            // Each header's checksum is right, so that what it covers is looked at.
            for block in (0..len).step_by(512).filter(|at| *at != 512) {
                let mut header = Header::from_byte_slice(&bytes[block..block + 512]).clone();
                header.set_cksum();
                bytes[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        if let Err(error) = Tar(bytes).images() {
            let error = error.to_string();
            prop_assert!(error.chars().all(sandpen_types::visible::is_visible), "{error:?}");
        }
    }
}
