//! Processes that are killed at any point, and several at once. A child is this test's program again.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::*;

const DIRECTORY: &str = "SANDPEN_TEST_STORE";
const LABEL: &str = "SANDPEN_TEST_LABEL";

/// A process that runs one of the tests below on a store.
fn child(test: &str, store: &Store, label: &str) -> Child {
    let mut command = Command::new(std::env::current_exe().unwrap());
    let name = format!("store::tests::killed::{test}");
    command.args(["--exact", "--ignored", &name]).env(DIRECTORY, store.directory()).env(LABEL, label);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

fn own_store() -> Store {
    Store::open(Path::new(&std::env::var_os(DIRECTORY).unwrap())).unwrap()
}

/// Makes images, names them, uses and removes them, until it is killed.
#[test]
#[ignore = "the child of another test"]
fn churns() {
    let store = own_store();
    let label = std::env::var(LABEL).unwrap();
    for round in 0u32.. {
        let text = (round % 3).to_string();
        let digest = config(&text).1;
        let guard = store.lock_digest(&digest).unwrap();
        let mut layers = Vec::new();
        for number in [1, 2 + u8::try_from(round % 3).unwrap()] {
            let id = diff_id(number);
            let _layer = store.lock_digest(&id).unwrap();
            if !store.has_layer(&id).unwrap() {
                let draft = store.draft().unwrap();
                write_layer(draft.path(), &id, usize::from(number));
                draft.commit_layer(&id).unwrap();
            }
            layers.push(id);
        }
        let draft = store.draft().unwrap();
        write_image(draft.path(), &text, &layers);
        draft.commit_image(&digest, &[reference(&format!("{label}:{text}"))]).unwrap();
        drop(guard);
        if let Ok(_lease) = store.lease(&digest) {
            let disk = store.disk(&digest).unwrap();
            assert!(disk.extents.iter().all(|extent| extent.path.exists()), "a leased image lost a part");
        }
        match round % 4 {
            0 => drop(store.remove(&format!("{label}:{text}"), false, &nobody)),
            1 => drop(store.prune(true, false, &nobody).unwrap()),
            2 => drop(store.keep_within(0, &nobody).unwrap()),
            _ => {}
        }
    }
}

/// Whatever is there at any moment is whole, and what was left behind goes.
#[test]
fn killed_at_any_point_it_leaves_nothing_half() {
    let (_dir, store) = store();
    let (mut images, mut drafts) = (0, 0);
    for round in 0u64..30 {
        let mut children = [child("churns", &store, "one"), child("churns", &store, "two")];
        std::thread::sleep(Duration::from_millis(40 + 7 * round % 60));
        for child in &mut children {
            assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(store.verify().unwrap(), Vec::<String>::new(), "round {round}");
        images += store.images().unwrap().len();
        drafts += entries(&store.directory().join("drafts"));
    }
    assert!(images > 0 && drafts > 0, "they were killed while they had {images} images and {drafts} drafts");
    store.prune(true, false, &nobody).unwrap();
    for directory in ["images", "layers", "drafts", "locks", "leases"] {
        assert_eq!(entries(&store.directory().join(directory)), 0, "{directory}");
    }
    let others = fs::read_dir(store.directory()).unwrap().flatten().map(|entry| entry.file_name());
    assert!(others.map(|name| name.into_string().unwrap()).all(|name| !name.starts_with('.')));
}

/// Holds the guard of a digest until it is killed.
#[test]
#[ignore = "the child of another test"]
fn holds() {
    let store = own_store();
    let _guard = store.lock_digest(&diff_id(1)).unwrap();
    let draft = store.draft().unwrap();
    fs::write(draft.path().join(BLOB), "half").unwrap();
    std::thread::sleep(Duration::from_mins(1));
}

#[test]
fn the_second_one_waits_for_the_first_and_finds_what_it_made() {
    let (_dir, store) = store();
    let mut first = child("holds", &store, "");
    let blob = loop {
        let drafts = fs::read_dir(store.directory().join("drafts")).unwrap().flatten();
        let blobs = drafts.map(|draft| draft.path().join("content").join(BLOB));
        if let Some(blob) = blobs.into_iter().find(|blob| blob.exists()) {
            break blob;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    store.sweep().unwrap();
    assert!(blob.exists(), "somebody makes it");
    let second = std::thread::spawn({
        let store = store.clone();
        move || {
            let _guard = store.lock_digest(&diff_id(1)).unwrap();
            assert!(!store.has_layer(&diff_id(1)).unwrap());
            make_layer(&store, 1)
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    assert!(!second.is_finished());
    first.kill().unwrap();
    first.wait().unwrap();
    second.join().unwrap();
    assert!(!blob.exists(), "what it had made goes");
    assert!(store.has_layer(&diff_id(1)).unwrap());
}
