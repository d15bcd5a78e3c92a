use std::fs;
use std::os::unix::fs::symlink;

use super::*;

/// A layout of one image, and its layer's path.
fn layout() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let config = config(&["one"]);
    let m = manifest(&config, &["one"]);
    fs::create_dir_all(directory.path().join("blobs/sha256")).unwrap();
    for bytes in [config.as_str(), &m, "one"] {
        fs::write(directory.path().join(blob(bytes)), bytes).unwrap();
    }
    fs::write(directory.path().join("index.json"), index(&[descriptor(media::MANIFEST, &m)])).unwrap();
    fs::write(directory.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let layer = directory.path().join(blob("one"));
    (directory, layer)
}

fn open(directory: &tempfile::TempDir) -> ImageArchive {
    ImageArchive::open_layout(File::open(directory.path()).unwrap().into()).unwrap()
}

fn refused(directory: &tempfile::TempDir) -> String {
    open(directory).images(&platform("linux/amd64")).unwrap_err().to_string()
}

#[test]
fn a_layout_is_read() {
    let (directory, layer) = layout();
    let archive = open(&directory);
    let images = archive.images(&platform("linux/amd64")).unwrap();
    assert_eq!(content(&archive, &images[0].layers[0]), "one");
    fs::write(layer, "longer").unwrap();
    let error = archive.open_layer(&images[0].layers[0]).unwrap_err().to_string();
    assert!(error.contains("has 6 bytes, but 3 by what points at it"), "{error}");
}

#[test]
fn what_is_no_file_in_the_place_of_a_blob_is_refused() {
    let (directory, layer) = layout();
    fs::rename(&layer, directory.path().join("elsewhere")).unwrap();
    assert!(refused(&directory).contains("is not in the archive"));
    symlink("../../elsewhere", &layer).unwrap();
    assert!(refused(&directory).contains("is a link and not a file of the archive"));
    fs::remove_file(&layer).unwrap();
    fs::create_dir(&layer).unwrap();
    assert!(refused(&directory).contains("is a directory and not a file"));
    fs::remove_dir(&layer).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s")).unwrap();
    fs::rename(directory.path().join("s"), &layer).unwrap();
    assert!(refused(&directory).contains("is a device, a pipe or a socket"));
}

#[test]
fn no_part_of_the_way_to_a_blob_is_a_link() {
    for part in ["blobs", "blobs/sha256", "index.json", "oci-layout"] {
        let (directory, _) = layout();
        let moved = directory.path().join("moved");
        fs::rename(directory.path().join(part), &moved).unwrap();
        symlink(&moved, directory.path().join(part)).unwrap();
        let error = refused(&directory);
        assert!(error.contains("is a link and not a file"), "{part}: {error}");
    }
    let (directory, _) = layout();
    fs::remove_file(directory.path().join("oci-layout")).unwrap();
    assert_eq!(
        refused(&directory),
        "\"oci-layout\" is not in the archive, and an image in it needs it: the archive is not complete"
    );
}
