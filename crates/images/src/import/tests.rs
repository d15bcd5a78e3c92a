//! Archives made by our own writer, which go into a store and come out again.

use std::fs;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::UNIX_EPOCH;

use serde_json::json;

use super::*;
use crate::archive::ImageArchive;
use crate::digest::digest_of;
use crate::layer::tar_writer::TarWriter;
use crate::layer::{self, LayerInfo};
use crate::platform::Platform;
use crate::save::{ArchiveFormat, SavedImage, SavedLayer, save};
use crate::store::Store;
use crate::walk::{Owners, walk};

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn name(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn options() -> LoadOptions {
    LoadOptions { platform: Platform::host(), name: None }
}

/// The tar of a directory with these files.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    for (path, contents) in files {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        fs::File::open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let mut writer = TarWriter::new(Vec::new());
    walk(fs::File::open(dir.path()).unwrap(), dir.path(), Owners::Same, true, &mut writer).unwrap();
    writer.finish().unwrap()
}

/// An archive of one image with these layers.
fn archive(layers: &[Vec<u8>], names: &[&str], format: ArchiveFormat) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    let config = json!({
        "architecture": Platform::host().architecture(), "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let saved =
        layers.iter().zip(&diff_ids).map(|(layer, diff_id)| SavedLayer { diff_id: *diff_id, size: layer.len() as u64 });
    let image =
        SavedImage { names: names.iter().map(|text| name(text)).collect(), config: &config, layers: saved.collect() };
    let mut out = Vec::new();
    let layers = layers.to_vec();
    let mut open = move |wanted: &SavedLayer| -> std::io::Result<Box<dyn std::io::Read>> {
        let layer = layers.iter().find(|layer| digest_of(layer) == wanted.diff_id).unwrap().clone();
        Ok(Box::new(std::io::Cursor::new(layer)))
    };
    save(&[image], format, &mut open, &mut out).unwrap();
    out
}

fn file(bytes: &[u8]) -> LoadSource {
    let mut file = tempfile::tempfile().unwrap();
    std::io::Write::write_all(&mut file, bytes).unwrap();
    LoadSource::File(file)
}

fn loaded(store: &Store, bytes: &[u8]) -> Result<Vec<ImageDigest>, ImportError> {
    load(store, file(bytes), &options(), &|_| {})
}

fn two_layers() -> Vec<Vec<u8>> {
    vec![tar(&[("etc/name", "base\n"), ("gone", "x")]), tar(&[("etc/name", "top\n"), (".wh.gone", "")])]
}

#[test]
fn an_archive_goes_in_once_and_its_layers_come_out_as_they_were() {
    let (_dir, store) = store();
    let layers = two_layers();
    let bytes = archive(&layers, &["app:1"], ArchiveFormat::Docker);
    let events = std::sync::Mutex::new(Vec::new());
    let digests = load(&store, file(&bytes), &options(), &|event| events.lock().unwrap().push(event)).unwrap();
    let events = events.into_inner().unwrap();
    let ready = |was_there| move |event: &&Progress| matches!(event, Progress::LayerReady { was_there: is, .. } if *is == was_there);
    assert_eq!((digests.len(), events.iter().filter(ready(false)).count()), (1, 2));
    assert_eq!(events.last(), Some(&Progress::ImageReady { digest: digests[0], names: vec![name("app:1")] }));
    assert_eq!(store.find("app:1").unwrap(), digests[0]);
    assert!(store.verify().unwrap().is_empty());
    for layer in &layers {
        let mut again = Vec::new();
        LayerInfo::tar_split(&store.layer_path(&digest_of(layer))).open().unwrap().read_to_end(&mut again).unwrap();
        assert!(again == *layer);
    }
    // The same in another form and by another name: nothing is unpacked again.
    let oci = archive(&layers, &["other"], ArchiveFormat::Oci);
    let gzip = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut encoder, &oci).unwrap();
        encoder.finish().unwrap()
    };
    for bytes in [oci, gzip] {
        let events = std::sync::Mutex::new(Vec::new());
        let again = load(&store, file(&bytes), &options(), &|event| events.lock().unwrap().push(event)).unwrap();
        let events = events.into_inner().unwrap();
        assert_eq!((again, events.iter().filter(ready(true)).count(), events.len()), (digests.clone(), 2, 3));
    }
    assert_eq!(store.image(&digests[0]).unwrap().names, [name("app:1"), name("other")]);
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn a_stream_is_an_archive_too_and_a_name_is_given() {
    let (_dir, store) = store();
    let bytes = archive(&two_layers(), &[], ArchiveFormat::Oci);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let written = std::thread::spawn(move || std::io::Write::write_all(&mut writer, &bytes));
    let source = LoadSource::File(OwnedFd::from(reader).into());
    let named = LoadOptions { name: Some(name("given")), ..options() };
    let digests = load(&store, source, &named, &|_| {}).unwrap();
    written.join().unwrap().unwrap();
    assert_eq!(store.find("given").unwrap(), digests[0]);
}

/// What an image is called by its digest goes, as after a pull: it is found by that.
#[test]
fn names_with_digests_are_names_by_their_tags() {
    let (dir, store) = store();
    // Ours are written by their tags: these stand for others.
    let (alone, both) = (format!("app:{}", "a".repeat(71)), format!("app:1{}", "b".repeat(72)));
    let layers = two_layers();
    let bytes = |names: &[&str]| archive(&layers, names, ArchiveFormat::Oci);
    let path = dir.path().join("tar");
    fs::write(&path, bytes(&["app:1"])).unwrap();
    let read = ImageArchive::open(fs::File::open(&path).unwrap()).unwrap().images(&Platform::host()).unwrap();
    let by_digest = format!("app@{}", read[0].manifest.as_ref().unwrap().0);
    let with_digests = |mut bytes: Vec<u8>| {
        for (stands, name) in [(&alone, &by_digest), (&both, &by_digest.replace('@', ":1@"))] {
            while let Some(at) = bytes.windows(stands.len()).position(|part| part == stands.as_bytes()) {
                bytes[at..][..stands.len()].copy_from_slice(name.as_bytes());
            }
        }
        bytes
    };
    for (names, expected) in [(&[alone.as_str()][..], vec![]), (&[&alone, &both, "app:1"], vec![name("app:1")])] {
        let loaded = loaded(&store, &with_digests(bytes(names))).unwrap();
        assert_eq!(store.image(&loaded[0]).unwrap().names, expected);
    }
    assert!(store.find(&by_digest).is_ok());
    // One that is asked for is refused before anything is unpacked.
    let events = std::sync::Mutex::new(0);
    let tell = |_| *events.lock().unwrap() += 1;
    let named = LoadOptions { name: Some(name(&by_digest)), ..options() };
    let bytes = archive(&[tar(&[("new", "x")])], &[], ArchiveFormat::Oci);
    for error in [
        load(&store, file(&bytes), &named, &tell).unwrap_err(),
        import_tar(&store, &tar(&[("new", "y")])[..], &name(&by_digest), &tell).unwrap_err(),
    ] {
        assert!(matches!(error, ImportError::Store(StoreError::TagHasDigest(_))), "{error:?}");
    }
    assert_eq!(events.into_inner().unwrap(), 0);
}

#[test]
fn a_layer_that_is_refused_is_named_and_leaves_nothing() {
    let (_dir, store) = store();
    let mut bad = tar(&[("a", "x")]);
    // A second entry of the same name.
    let entry = bad[bad.len() - 2048..bad.len() - 1024].to_vec();
    let end = bad.len() - 1024;
    bad.splice(end..end, entry);
    let bytes = archive(&[tar(&[("ok", "x")]), bad], &["bad"], ArchiveFormat::Docker);
    let error = loaded(&store, &bytes).unwrap_err();
    let told = sandpen_types::error_chain::error_chain(&error);
    assert!(told.starts_with("the layer 2 of 2 (sha256:"), "{told}");
    assert!(told.ends_with("its entry \"a\": the layer has its path twice"), "{told}");
    assert!(store.images().unwrap().is_empty());
    assert_eq!(fs::read_dir(store.directory().join("drafts")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(store.directory().join("locks")).unwrap().count(), 0);
    // A link in the upper layer to what the lower has not.
    let mut header = ::tar::Header::new_ustar();
    header.set_path("hard").unwrap();
    header.set_entry_type(::tar::EntryType::Link);
    header.set_link_name("nothing").unwrap();
    header.set_size(0);
    header.set_cksum();
    let link = [header.as_bytes().to_vec(), vec![0; 1024]].concat();
    let error = loaded(&store, &archive(&[tar(&[("a", "x")]), link], &["bad"], ArchiveFormat::Oci)).unwrap_err();
    let told = sandpen_types::error_chain::error_chain(&error);
    assert!(told.contains("the layer 2 of 2") && told.contains("the entry hard: it links to nothing"), "{told}");
    assert!(store.images().unwrap().is_empty());
    let two = LoadOptions { name: Some(name("x")), ..options() };
    assert!(load(&store, file(b"<html>"), &two, &|_| {}).is_err());
}

#[test]
fn two_at_once_do_the_work_once() {
    let (_dir, store) = store();
    let many: Vec<_> = (0..6).map(|number| tar(&[(&format!("file-{number}"), &"x".repeat(300_000))])).collect();
    let bytes = archive(&many, &["app"], ArchiveFormat::Oci);
    let unpacked = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                load(&store, file(&bytes), &options(), &|event| {
                    if matches!(event, Progress::LayerReady { was_there: false, .. }) {
                        unpacked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                })
                .unwrap();
            });
        }
    });
    assert_eq!(unpacked.into_inner(), 6);
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn a_root_directory_and_its_tar_are_images() {
    let (dir, store) = store();
    let root = dir.path().join("root");
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::write(root.join("etc/hostname"), "box\n").unwrap();
    let open = || OwnedFd::from(fs::File::open(&root).unwrap());
    let import = |as_name: &str| import_directory(&store, &open(), Path::new("/shown"), &name(as_name), &|_| {});
    let first = import("one").unwrap();
    assert_eq!(import("two").unwrap(), first, "the same files are the same image");
    let mut writer = TarWriter::new(Vec::new());
    walk(open(), &root, Owners::of_this_user(), true, &mut writer).unwrap();
    let tar = writer.finish().unwrap();
    // Who reads no pax headers has the second at least.
    let seconds = fs::metadata(&root).unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let mut theirs = ::tar::Archive::new(&tar[..]);
    let first_entry = theirs.entries().unwrap().next().unwrap().unwrap();
    assert_eq!(first_entry.header().mtime().unwrap(), seconds);
    assert_eq!(import_tar(&store, &tar[..], &name("three"), &|_| {}).unwrap(), first);
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    assert_eq!(import_tar(&store, &packed[..], &name("four"), &|_| {}).unwrap(), first);
    assert_eq!(store.image(&first).unwrap().names.len(), 4);
    let error = import_tar(&store, &b"no tar at all"[..], &name("five"), &|_| {}).unwrap_err();
    assert!(matches!(error, ImportError::Root(_)), "{error:?}");
    let mut config = Vec::new();
    fs::File::open(store.image_path(&first).join("config.json")).unwrap().read_to_end(&mut config).unwrap();
    assert_eq!(digest_of(&config), first);
    assert!(store.image_path(&first).join("metadata").exists() && !store.image_path(&first).join(layer::BLOB).exists());
    assert!(store.verify().unwrap().is_empty());
}

#[test]
fn an_image_comes_in_parts() {
    let (_dir, store) = store();
    let layers = two_layers();
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = config.to_string().into_bytes();
    let compose = || compose(&store, &config, Some(b"{}"), &[name("parts")], &|_| {});
    let error = compose().unwrap_err().to_string();
    assert!(error.contains(&diff_ids[0].to_string()), "{error}");
    // Held as whoever brings the parts does it, so that no layer goes meanwhile.
    let held = store.draft().unwrap();
    for (number, (layer, diff_id)) in (1..).zip(layers.iter().zip(&diff_ids)) {
        let packed = zstd::encode_all(&layer[..], 1).unwrap();
        let told = NewLayer {
            diff_id: *diff_id,
            packed: Some(digest_of(&packed)),
            packed_bytes: packed.len() as u64,
            number,
            of: 2,
        };
        let lie = NewLayer { packed: Some(digest_of(b"other")), ..told };
        let add = |layer: &NewLayer| add_layer(&store, layer, || Ok(&packed[..]), &|_| {});
        assert!(matches!(add(&lie), Err(ImportError::Layer { number: failed, of: 2, .. }) if failed == number));
        add(&told).unwrap();
        // Nothing is opened once it is there.
        let open = || -> Result<std::io::Empty, ImportError> { panic!("it is there") };
        add_layer(&store, &told, open, &|_| {}).unwrap();
    }
    let digest = compose().unwrap();
    drop(held);
    assert_eq!(store.find("parts").unwrap(), digest);
    assert_eq!(store.record(&digest).unwrap().manifest_digest, Some(digest_of(b"{}")));
    assert!(store.verify().unwrap().is_empty());
}
