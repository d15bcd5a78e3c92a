//! What goes, and what stays because somebody needs it.

use std::time::{Duration, SystemTime};

use super::*;
use crate::manifest::Packed;

#[test]
fn a_name_of_several_is_taken_away_and_the_last_one_takes_the_image() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["a:1", "a:2"]);
    let removed = store.remove("a:1", false, &nobody).unwrap();
    assert_eq!((removed.names, removed.images, removed.bytes), (vec![reference("a:1")], vec![], 0));
    store.tag(&a, &reference("a:3")).unwrap();
    let error = store.remove(&a.short(), false, &nobody).unwrap_err();
    assert!(matches!(error, StoreError::SeveralNames { .. }), "{error}");
    let removed = store.remove(&a.short(), true, &nobody).unwrap();
    assert_eq!((removed.names.len(), removed.images), (2, vec![a]));
    assert!(removed.bytes >= 8192 + 4096);
    assert!(!store.has_layer(&diff_id(1)).unwrap());
    assert_eq!(entries(&store.directory().join("drafts")), 0);
    assert!(matches!(store.remove("a:2", false, &nobody), Err(StoreError::NotFound { .. })));
}

#[test]
fn what_is_used_stays() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["a"]);
    let lease = store.lease(&a).unwrap();
    let copy = lease.try_clone().unwrap();
    drop(lease);
    let second = store.lease(&a).unwrap();
    for force in [false, true] {
        let error = store.remove("a", force, &nobody).unwrap_err();
        assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    }
    assert!(store.prune(true, false, &nobody).unwrap().images.is_empty());
    drop((second, copy));
    let kept = |digest: &ImageDigest| (*digest == a).then(|| "sandbox web".to_owned());
    let error = store.remove("a", true, &kept).unwrap_err().to_string();
    assert_eq!(error, "image \"a\" is in use by sandbox web; remove what uses it first");
    assert!(store.prune(true, false, &kept).unwrap().images.is_empty());
    assert_eq!(store.remove("a", false, &nobody).unwrap().images, [a]);
    assert!(matches!(store.lease(&a), Err(StoreError::NotFound { .. })));
    assert_eq!(entries(&store.directory().join("leases")), 0);
}

#[test]
fn a_prune_takes_what_has_no_name_and_layers_that_nobody_has() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &[]);
    let b = make_image(&store, "b", &[1, 2], &["b"]);
    make_layer(&store, 3);
    let planned = store.prune(false, true, &nobody).unwrap();
    assert_eq!((planned.images.as_slice(), store.images().unwrap().len()), ([a].as_slice(), 2));
    let removed = store.prune(false, false, &nobody).unwrap();
    assert_eq!(removed, planned);
    assert!(!store.has_layer(&diff_id(3)).unwrap() && store.has_layer(&diff_id(1)).unwrap());
    assert_eq!(store.prune(true, false, &nobody).unwrap().images, [b]);
    assert_eq!(store.bytes().unwrap(), 0);
}

#[test]
fn what_a_layer_was_packed_to_is_known_until_it_goes() {
    let (_dir, store) = store();
    make_image(&store, "a", &[1], &["a"]);
    let packing = |byte| Packing { packed: Packed { digest: diff_id(byte), size: 6 }, is_gzip: true };
    assert_eq!(store.packings(&diff_id(1)), []);
    for byte in [2, 3, 2] {
        store.note_packing(&diff_id(1), packing(byte)).unwrap();
    }
    assert_eq!(store.packings(&diff_id(1)), [packing(2), packing(3)], "the last one first");
    (4..20).for_each(|byte| store.note_packing(&diff_id(1), packing(byte)).unwrap());
    assert_eq!(store.packings(&diff_id(1)).len(), 8);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
    let path = store.directory().join("packed").join(diff_id(1).hex());
    std::fs::write(&path, b"{").unwrap();
    assert_eq!(store.packings(&diff_id(1)), []);
    store.remove("a", false, &nobody).unwrap();
    assert!(!path.exists());
}

/// Whoever has asked for a layer while he makes something finds it when he is done.
#[test]
fn layers_stay_for_those_who_make_something() {
    let (_dir, store) = store();
    let layer = make_layer(&store, 1);
    let guard = store.lock_digest(&diff_id(9)).unwrap();
    assert!(store.has_layer(&layer).unwrap());
    store.prune(true, false, &nobody).unwrap();
    assert!(store.has_layer(&layer).unwrap());
    drop(guard);
    let draft = store.draft().unwrap();
    store.prune(true, false, &nobody).unwrap();
    assert!(store.has_layer(&layer).unwrap());
    drop(draft);
    // For what is only needed meanwhile nothing stays, and it is nobody's draft.
    let scratch = store.scratch().unwrap();
    store.prune(true, false, &nobody).unwrap();
    assert!(!store.has_layer(&layer).unwrap() && scratch.path().is_dir());
    let path = scratch.path().to_owned();
    drop(scratch);
    assert!(!path.exists() && entries(&store.directory().join("drafts")) == 0);
}

#[test]
fn a_budget_takes_what_was_not_used_for_longest() {
    let (_dir, store) = store();
    let images: Vec<_> = (1..=4).map(|n| make_image(&store, &n.to_string(), &[9, n], &[&format!("i{n}")])).collect();
    for (age, digest) in [(3, &images[1]), (2, &images[0]), (1, &images[2])] {
        drop(store.lease(digest).unwrap());
        let file = std::fs::File::options().write(true).open(store.lease_path(digest)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(age)).unwrap();
    }
    let whole = store.bytes().unwrap();
    assert_eq!(store.keep_within(whole, &nobody).unwrap(), Removed::default());
    // It was never used, and is as old as it says.
    assert_eq!(store.keep_within(whole - 1, &nobody).unwrap().images, [images[3]]);
    let lease = store.lease(&images[1]).unwrap();
    let kept = |digest: &ImageDigest| (*digest == images[0]).then(|| "somebody".to_owned());
    assert_eq!(store.keep_within(0, &kept).unwrap().images, [images[2]]);
    drop(lease);
    assert_eq!(store.keep_within(0, &nobody).unwrap().images, [images[0]], "the one of the last use stays");
    assert_eq!(store.images().unwrap().len(), 1);
    assert_eq!(store.verify().unwrap(), Vec::<String>::new());
}

/// Layers of what went stay while somebody makes something: that is no reason for more to go, now or at the next time.
#[test]
fn a_budget_takes_no_more_while_somebody_makes_something() {
    let (_dir, store) = store();
    for n in 1..=4 {
        make_image(&store, &n.to_string(), &[9, n], &[&format!("i{n}")]);
    }
    let whole = store.bytes().unwrap();
    let draft = store.draft().unwrap();
    make_layer(&store, 8);
    assert_eq!(store.keep_within(whole, &nobody).unwrap(), Removed::default(), "what is in the making does not count");
    for taken in [1, 0] {
        assert_eq!(store.keep_within(whole - 4096, &nobody).unwrap().images.len(), taken);
    }
    assert_eq!((store.images().unwrap().len(), store.layers().unwrap().len()), (3, 6));
    drop(draft);
    assert!(store.keep_within(whole, &nobody).unwrap().images.is_empty());
    assert_eq!(store.layers().unwrap().len(), 4);
}

/// Whoever starts from an image holds it until it is on record that he has it.
#[test]
fn who_needs_an_image_is_asked_after_its_leases() {
    let (_dir, store) = store();
    let a = make_image(&store, "a", &[1], &["a"]);
    let lease = std::cell::RefCell::new(Some(store.lease(&a).unwrap()));
    // On record by the time of the question is what had the lease until then.
    let on_record = |_: &ImageDigest| {
        drop(lease.take());
        None
    };
    let error = store.remove("a", true, &on_record).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
}

#[test]
fn what_came_again_is_not_the_first_to_go() {
    let (_dir, store) = store();
    let images: Vec<_> = (1..=3).map(|n| make_image(&store, &n.to_string(), &[n], &[&format!("i{n}")])).collect();
    drop(store.lease(&images[1]).unwrap());
    assert_eq!(make_image(&store, "1", &[1], &["i1"]), images[0]);
    drop(store.lease(&images[2]).unwrap());
    assert_eq!(store.keep_within(store.bytes().unwrap() - 1, &nobody).unwrap().images, [images[1]]);
}
