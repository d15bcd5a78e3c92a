//! One configuration under several manifests.

use super::*;

fn come(store: &Store, manifest: &str) -> ImageDigest {
    let draft = store.draft().unwrap();
    let digest = write_image(draft.path(), "a", &[]);
    fs::write(draft.path().join(MANIFEST), manifest).unwrap();
    let path = draft.path().join(IMAGE_RECORD);
    let mut record: ImageRecord = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    record.manifest_digest = Some(digest_of(manifest.as_bytes()));
    fs::write(&path, serde_json::to_vec(&record).unwrap()).unwrap();
    draft.commit_image(&digest, &[reference("app")]).unwrap();
    digest
}

#[test]
fn an_image_is_found_by_each_manifest_that_it_came_with() {
    let (_dir, store) = store();
    let image = come(&store, "m0");
    assert_eq!(come(&store, "m0"), image);
    assert_eq!(entries(&store.directory().join("manifests")), 0, "it has it already");
    for (manifest, known) in [("m1", 2), ("m2", 3), ("m1", 3), ("m0", 3)] {
        come(&store, manifest);
        let digest = digest_of(manifest.as_bytes());
        assert_eq!(store.image(&image).unwrap().manifest_digest, Some(digest), "the last one");
        assert_eq!(store.manifest(&image, None).unwrap().unwrap(), manifest.as_bytes());
        assert_eq!(store.manifest_digests(&store.record(&image).unwrap()).unwrap().len(), known);
    }
    for manifest in ["m0", "m1", "m2"] {
        let digest = digest_of(manifest.as_bytes());
        assert_eq!(store.find(&format!("app@{digest}")).unwrap(), image);
        assert_eq!(store.find(&digest.to_string()).unwrap(), image);
        assert_eq!(store.manifest(&image, Some(&digest)).unwrap().unwrap(), manifest.as_bytes());
    }
    assert!(store.find(&format!("other@{}", digest_of(b"m1"))).is_err());
    for n in 3..20 {
        come(&store, &format!("m{n}"));
    }
    assert_eq!(store.manifest_digests(&store.record(&image).unwrap()).unwrap().len(), 9);
    assert!(store.verify().unwrap().is_empty());
    store.remove("app", false, &nobody).unwrap();
    assert_eq!(entries(&store.directory().join("manifests")), 0);
}
