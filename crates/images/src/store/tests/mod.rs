//! A store that is looked at, changed, used and killed.

mod killed;
mod manifests;
mod partial;
mod removing;

use std::fs;
use std::path::Path;

use super::*;
use crate::digest::digest_of;
use crate::layer::{BLOB, ENTRIES, LayerInfo, TAR};
use chrono::{TimeZone as _, Utc};
use sandpen_types::image::ImageReference;

/// Nobody needs anything.
fn nobody(_: &ImageDigest) -> Option<String> {
    None
}

fn reference(text: &str) -> ImageReference {
    text.parse().unwrap()
}

fn diff_id(number: u8) -> ImageDigest {
    ImageDigest::new([number; 32])
}

/// The files of a layer, in a draft.
fn write_layer(draft: &Path, diff_id: &ImageDigest, blocks: usize) {
    fs::write(draft.join(BLOB), vec![7; blocks * 4096]).unwrap();
    fs::write(draft.join(ENTRIES), "entries").unwrap();
    fs::write(draft.join(TAR), "tar").unwrap();
    let blob_bytes = blocks as u64 * 4096;
    let files = std::collections::BTreeMap::new();
    let record = LayerRecord {
        info: LayerInfo { diff_id: *diff_id, blob_bytes, entries: 1, tar_bytes: 10, content_bytes: blob_bytes },
        files,
    };
    fs::write(draft.join(LAYER_RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
}

fn make_layer(store: &Store, number: u8) -> ImageDigest {
    let id = diff_id(number);
    let draft = store.draft().unwrap();
    write_layer(draft.path(), &id, usize::from(number));
    draft.commit_layer(&id).unwrap();
    id
}

fn config(text: &str) -> (Vec<u8>, ImageDigest) {
    let config = format!(r#"{{"os":"linux","architecture":"amd64","created":"2024-05-06T07:08:09.5Z","x":"{text}"}}"#);
    let digest = digest_of(config.as_bytes());
    (config.into_bytes(), digest)
}

/// The files of an image, in a draft.
fn write_image(draft: &Path, text: &str, layers: &[ImageDigest]) -> ImageDigest {
    let (config, digest) = config(text);
    fs::write(draft.join(CONFIG), config).unwrap();
    fs::write(draft.join(METADATA), vec![1; 8192]).unwrap();
    let record = ImageRecord {
        digest,
        layers: layers.to_vec(),
        metadata_bytes: 8192,
        loaded: Utc.timestamp_opt(1_700_000_000, 0).unwrap(),
        manifest_digest: Some(digest_of(text.as_bytes())),
        files: std::collections::BTreeMap::new(),
    };
    fs::write(draft.join(IMAGE_RECORD), serde_json::to_vec(&record).unwrap()).unwrap();
    digest
}

fn make_image(store: &Store, text: &str, layers: &[u8], names: &[&str]) -> ImageDigest {
    let guard = store.lock_digest(&config(text).1).unwrap();
    let layers: Vec<_> = layers.iter().map(|number| make_layer(store, *number)).collect();
    let draft = store.draft().unwrap();
    let digest = write_image(draft.path(), text, &layers);
    let names: Vec<_> = names.iter().map(|name| reference(name)).collect();
    draft.commit_image(&digest, &names).unwrap();
    drop(guard);
    digest
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("images")).unwrap();
    (dir, store)
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

#[test]
fn an_image_is_found_by_what_people_write() {
    let (_dir, store) = store();
    let digest = make_image(&store, "a", &[1], &["debian:12", "ghcr.io/o/app"]);
    let hex = digest.hex();
    for asked in [
        "debian:12",
        "docker.io/library/debian:12",
        "library/debian:12",
        "ghcr.io/o/app:latest",
        &format!("sha256:{hex}"),
        &format!("sha256:{}", &hex[..7]),
        &hex,
        &hex[..4],
        &format!("debian@{}", digest_of(b"a")),
        &format!("ghcr.io/o/app:x@{digest}"),
    ] {
        assert_eq!(store.find(asked).unwrap(), digest, "{asked}");
    }
    for asked in [hex[..12].to_owned(), format!("sha256:{hex}")] {
        assert_eq!(store.find_reference(&reference(&asked)).unwrap(), digest, "{asked}");
    }
    for asked in ["debian", &hex[..3], "other@sha256:00", &format!("other@{digest}"), "sha256:zz", "ffff"] {
        assert!(store.find(asked).is_err(), "{asked}");
    }
    let error = store.find("debain").unwrap_err().to_string();
    assert_eq!(
        error,
        "no image \"debain\" (did you mean docker.io/library/debian:12?); see `sandpen image ls`, or get one with `sandpen pull NAME` or `sandpen image load FILE`"
    );
    for hostile in ["../../etc", "/", "", "a\0b", "UPPER", "..", &format!("{}/x", &hex)] {
        assert!(store.find(hostile).is_err(), "{hostile:?}");
        assert!(store.remove(hostile, true, &nobody).is_err(), "{hostile:?}");
    }
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn a_name_goes_to_the_image_that_got_it_last() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["app"]);
    let b = make_image(&store, "b", &[1, 2], &["app"]);
    assert_eq!(store.find("app").unwrap(), b);
    assert!(store.image(&a).unwrap().names.is_empty());
    store.tag(&a, &reference("old:1")).unwrap();
    assert_eq!(store.image(&a).unwrap().names, [reference("old:1")]);
    assert!(matches!(store.tag(&a, &reference(&format!("x@{a}"))), Err(StoreError::TagHasDigest(_))));
    assert!(matches!(store.tag(&diff_id(9), &reference("x")), Err(StoreError::NotFound { .. })));
    assert!(store.untag(&reference("old:1")).unwrap());
    assert!(!store.untag(&reference("old:1")).unwrap());
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

#[test]
fn what_is_known_of_an_image_and_what_it_shares() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["a"]);
    let b = make_image(&store, "b", &[1, 2, 1], &["b"]);
    let image = store.image(&b).unwrap();
    assert_eq!(image.created.unwrap().to_rfc3339(), "2024-05-06T07:08:09.500+00:00");
    assert_eq!((image.os.as_deref(), image.architecture.as_deref()), (Some("linux"), Some("amd64")));
    let shared: Vec<_> = image.layers.iter().map(|layer| layer.shared_by).collect();
    assert_eq!(shared, [2, 1, 2]);
    assert_eq!(image.total_bytes - image.unique_bytes, image.layers[0].bytes);
    assert_eq!(image.last_used, None);
    drop(store.lease(&b).unwrap());
    assert!(store.image(&b).unwrap().last_used.is_some());
    assert_eq!(store.images().unwrap().len(), 2);
    assert!(store.image(&a).unwrap().total_bytes > 0);
}

/// The topmost layer's blob comes first, each as often as it is named, and padding fills the disk.
#[test]
fn a_disk_has_the_blobs_in_order() {
    let (_dir, store) = store();
    let digest = make_image(&store, "a", &[1, 0, 2, 1], &["a"]);
    let disk = store.disk(&digest).unwrap();
    let sizes: Vec<_> = disk.extents.iter().map(|extent| extent.bytes / 4096).collect();
    assert_eq!(sizes[..4], [2, 1, 2, 1]);
    assert_eq!(disk.bytes(), DISK_STEP);
    assert!(fs::metadata(&disk.extents[4].path).unwrap().len() >= disk.extents[4].bytes);
    fs::write(&disk.extents[2].path, "short").unwrap();
    assert!(matches!(store.disk(&digest), Err(StoreError::Damaged { .. })));
    assert_eq!(store.verify().unwrap().len(), 1);
}

#[test]
fn only_what_is_whole_is_committed() {
    let (_dir, store) = store();
    let id = diff_id(1);
    for spoil in [
        &(|draft: &Path| fs::remove_file(draft.join(TAR)).unwrap()) as &dyn Fn(&Path),
        &|draft| fs::write(draft.join("more"), "").unwrap(),
        &|draft| fs::write(draft.join(BLOB), "short").unwrap(),
        &|draft| fs::write(draft.join(LAYER_RECORD), "{").unwrap(),
        &|draft| fs::remove_file(draft.join(LAYER_RECORD)).unwrap(),
        &|draft| write_layer(draft, &diff_id(2), 1),
        &|draft| {
            fs::remove_file(draft.join(TAR)).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", draft.join(TAR)).unwrap();
        },
    ] {
        let draft = store.draft().unwrap();
        write_layer(draft.path(), &id, 1);
        spoil(draft.path());
        assert!(matches!(draft.commit_layer(&id), Err(StoreError::NotWhole { .. })));
        assert!(!store.has_layer(&id).unwrap());
    }
    let draft = store.draft().unwrap();
    let digest = write_image(draft.path(), "a", &[id]);
    let error = draft.commit_image(&digest, &[]).unwrap_err();
    assert!(matches!(error, StoreError::LayersMissing { .. }), "{error}");
    let draft = store.draft().unwrap();
    let digest = write_image(draft.path(), "a", &[]);
    fs::write(draft.path().join(CONFIG), "{}").unwrap();
    assert!(matches!(draft.commit_image(&digest, &[]), Err(StoreError::NotWhole { .. })));
    assert_eq!(entries(&store.directory().join("drafts")), 0);
    assert!(store.images().unwrap().is_empty());
}

/// A second one of the same digest changes nothing but the names and when it was used.
#[test]
fn a_commit_of_what_is_there_already_is_none() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["a"]);
    let before = fs::metadata(store.image_path(&a)).unwrap().modified().unwrap();
    assert_eq!(make_image(&store, "a", &[1], &["b"]), a);
    assert_eq!(fs::metadata(store.image_path(&a)).unwrap().modified().unwrap(), before);
    let again = store.image(&a).unwrap();
    assert_eq!(again.names, [reference("a"), reference("b")]);
    assert!(again.last_used.is_some_and(|used| used > again.loaded), "it is wanted now");
}
