use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::archive::ImageArchive;

const FORMATS: [ArchiveFormat; 2] = [ArchiveFormat::Docker, ArchiveFormat::Oci];

/// Layers by their digests.
type Store = BTreeMap<ImageDigest, Vec<u8>>;

fn store(layers: &[&[u8]]) -> Store {
    layers.iter().map(|layer| (digest_of(layer), layer.to_vec())).collect()
}

fn config(layers: &[&[u8]], author: &str) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest_of(layer)).collect();
    let rootfs = json!({"type": "layers", "diff_ids": diff_ids});
    json!({"os": "linux", "architecture": "amd64", "author": author, "rootfs": rootfs}).to_string().into_bytes()
}

fn image<'a>(config: &'a [u8], layers: &[&[u8]], names: &[&str]) -> SavedImage<'a> {
    let layers = layers.iter().map(|layer| SavedLayer { diff_id: digest_of(layer), size: len(layer) });
    SavedImage { names: names.iter().map(|name| name.parse().unwrap()).collect(), config, layers: layers.collect() }
}

fn written(images: &[SavedImage<'_>], format: ArchiveFormat, store: &Store) -> Vec<u8> {
    let (mut out, mut asked) = (Vec::new(), BTreeSet::new());
    let mut layers = |layer: &SavedLayer| -> io::Result<Box<dyn Read>> {
        assert!(asked.insert(layer.diff_id), "asked for twice");
        Ok(Box::new(io::Cursor::new(store[&layer.diff_id].clone())))
    };
    save(images, format, &mut layers, &mut out).unwrap();
    out
}

fn open(bytes: &[u8]) -> ImageArchive {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    ImageArchive::open(file).unwrap()
}

/// Checks that the archive holds these images and nothing else.
fn check(images: &[SavedImage<'_>], bytes: &[u8], store: &Store) {
    let archive = open(bytes);
    let read = archive.images(&"linux/amd64".parse().unwrap()).unwrap();
    assert_eq!(read.len(), images.len());
    for (read, image) in read.iter().zip(images) {
        assert_eq!((&read.names, read.config.as_slice()), (&image.names, image.config));
        assert_eq!(read.layers.len(), image.layers.len());
        for (layer, expected) in read.layers.iter().zip(&image.layers) {
            assert_eq!((layer.diff_id, layer.size), (expected.diff_id, expected.size));
            let mut content = Vec::new();
            archive.open_layer(layer).unwrap().read_to_end(&mut content).unwrap();
            assert_eq!(content, store[&layer.diff_id]);
        }
    }
    // The crate's reader agrees, and no name is there twice.
    let mut names = BTreeSet::new();
    for entry in tar::Archive::new(bytes).entries().unwrap() {
        let entry = entry.unwrap();
        let header = entry.header();
        assert_eq!((header.mtime().unwrap(), header.uid().unwrap(), header.gid().unwrap()), (0, 0, 0));
        assert!(names.insert(entry.path_bytes().into_owned()));
    }
    assert_eq!(bytes.len() % 512, 0);
}

#[test]
fn what_was_written_is_read_again_and_layers_are_written_once() {
    let layers: [&[u8]; 3] = [b"one", &[7; 1024], b""];
    let (a, b, c) = (config(&layers, "a"), config(&[layers[1], layers[1]], "b"), config(&[], "c"));
    let images = [
        image(&a, &layers, &["ghcr.io/o/app:1", "app:latest"]),
        image(&b, &[layers[1], layers[1]], &["other:2"]),
        image(&c, &[], &[]),
    ];
    let store = store(&layers);
    for format in FORMATS {
        let bytes = written(&images, format, &store);
        check(&images, &bytes, &store);
        assert_eq!(bytes, written(&images, format, &store), "the same images make the same bytes");
        assert_eq!(bytes.windows(1024).filter(|window| *window == layers[1]).count(), 1);
    }
}

#[test]
fn an_image_given_twice_is_written_once_and_names_have_tags() {
    let config = config(&[b"one"], "");
    let by_digest = format!("app@{}", digest_of(b"x"));
    let both = format!("app:2@{}", digest_of(b"x"));
    let images = [image(&config, &[b"one"], &["app:1", "app:2"]), image(&config, &[b"one"], &[&by_digest, &both, "b"])];
    for format in FORMATS {
        let bytes = written(&images, format, &store(&[b"one"]));
        check(&[image(&config, &[b"one"], &["app:1", "app:2", "b"])], &bytes, &store(&[b"one"]));
    }
}

/// The error, and what was written before it.
fn refused(images: &[SavedImage<'_>], format: ArchiveFormat, layer: &'static [u8]) -> (String, Vec<u8>) {
    let mut out = Vec::new();
    let mut layers = |_: &SavedLayer| -> io::Result<Box<dyn Read>> { Ok(Box::new(layer)) };
    let error = save(images, format, &mut layers, &mut out).unwrap_err();
    (error.to_string(), out)
}

#[test]
fn a_layer_that_changed_is_an_error_and_the_archive_has_no_end() {
    let config = config(&[b"one"], "");
    let images = [image(&config, &[b"one"], &["app"])];
    for format in FORMATS {
        for (layer, expected) in [
            (b"two".as_slice(), "has another digest, sha256:"),
            (b"on", "has 2 bytes or more instead of 3"),
            (b"one1", "has 4 bytes or more instead of 3"),
        ] {
            let (error, out) = refused(&images, format, layer);
            assert!(error.starts_with("a layer is not what it was: ") && error.contains(expected), "{error}");
            assert!(!out.ends_with(&[0; 1024]));
        }
    }
    let failing = |_: &SavedLayer| -> io::Result<Box<dyn Read>> { Err(io::ErrorKind::NotFound.into()) };
    let error = save(&images, ArchiveFormat::Oci, &mut { failing }, io::sink()).unwrap_err();
    assert!(matches!(&error, SaveError::Read { diff_id, .. } if *diff_id == digest_of(b"one")), "{error}");
    let mut full: &mut [u8] = &mut [0; 3000];
    let mut layers = |_: &SavedLayer| -> io::Result<Box<dyn Read>> { Ok(Box::new(b"one".as_slice())) };
    let error = save(&images, ArchiveFormat::Docker, &mut layers, &mut full).unwrap_err();
    assert!(matches!(error, SaveError::Write(_)), "{error}");
}

#[test]
fn images_that_are_none_are_refused_before_anything_is_written() {
    let (one, other) = (config(&[b"one"], ""), config(&[b"one"], "other"));
    let mut sized = image(&other, &[b"one"], &[]);
    sized.layers[0].size = 4;
    for (images, expected) in [
        (vec![], "an archive of no images is none"),
        (vec![image(b"<html>", &[], &[])], "image 1: the image's configuration cannot be read: it is no JSON"),
        (vec![image(&one, &[], &[])], "image 1: its layers are not those that its configuration names"),
        (vec![image(&one, &[b"one"], &[]), image(&other, &[b"two"], &[])], "image 2: its layers are not those"),
        (vec![image(&one, &[b"one"], &[]), sized], "is said to have 3 bytes, and 4"),
        (
            vec![image(&one, &[b"one"], &["a"]), image(&other, &[b"one"], &["a"])],
            "two images are called docker.io/library/a:latest",
        ),
    ] {
        let (error, out) = refused(&images, ArchiveFormat::Docker, b"one");
        assert!(error.contains(expected) && out.is_empty(), "{error}");
    }
}

#[test]
fn sizes_beyond_eight_gibibytes_are_written_and_read() {
    let size = 9 << 30;
    let config = config(&[b"one"], "");
    for format in FORMATS {
        let mut image = image(&config, &[b"one"], &[]);
        image.layers[0].size = size;
        let (error, written) = refused(&[image], format, b"one");
        assert!(error.contains("has 3 bytes or more instead of 9663676416"), "{error}");
        // As if the rest were a hole.
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&written).unwrap();
        file.set_len(len(&written) - 3 + size + 1024).unwrap();
        let archive = ImageArchive::open(file).unwrap();
        let read = archive.images(&"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(read[0].layers[0].size, size);
        let mut theirs = tar::Archive::new(written.as_slice());
        let sizes = theirs.entries().unwrap().map_while(Result::ok);
        assert_eq!(sizes.map(|entry| entry.size()).max(), Some(size), "the crate's reader agrees");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_images_are_read_as_they_were_written(
        layers in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..1500), 1..5),
        images in proptest::collection::vec(proptest::collection::vec(any::<proptest::sample::Index>(), 0..6), 1..5),
    ) {
        let chosen: Vec<Vec<&[u8]>> =
            images.iter().map(|of| of.iter().map(|at| at.get(&layers).as_slice()).collect()).collect();
        let configs: Vec<_> = chosen.iter().enumerate().map(|(at, of)| config(of, &at.to_string())).collect();
        let name = |at: usize| format!("image:{at}");
        let images: Vec<_> = chosen.iter().zip(&configs).enumerate()
            .map(|(at, (of, config))| image(config, of, &[&name(at)])).collect();
        let store = store(&layers.iter().map(Vec::as_slice).collect::<Vec<_>>());
        for format in FORMATS {
            check(&images, &written(&images, format, &store), &store);
        }
    }
}
