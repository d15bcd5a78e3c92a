use super::*;
use crate::manifest::{CONTAINERD_NAME, REF_NAME};

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;

fn oci(entries: &[Value]) -> Tar {
    Tar::default().file("oci-layout", LAYOUT).file("index.json", index(entries))
}

fn blobs(tar: Tar, blobs: &[&str]) -> Tar {
    blobs.iter().fold(tar, |tar, bytes| tar.file(&blob(bytes), bytes))
}

#[test]
fn images_are_read_with_their_names_and_platforms() {
    let (amd, arm, bare) = (config(&["one"]), config(&["two"]), config(&[]));
    let [m_amd, m_arm] = [manifest(&amd, &["one"]), manifest(&arm, &["two"])];
    let m_bare = manifest(&bare, &[]);
    let entry = |bytes: &str| descriptor(media::MANIFEST, bytes);
    let both = index(&[for_platform(entry(&m_amd), "linux", "amd64"), for_platform(entry(&m_arm), "linux", "arm64")]);
    let entries = [
        named(descriptor(media::INDEX, &both), REF_NAME, "ghcr.io/o/app:1"),
        named(descriptor(media::INDEX, &both), REF_NAME, "v1"),
        named(descriptor(media::INDEX, &both), CONTAINERD_NAME, "app"),
        entry(&m_bare),
    ];
    let archive =
        blobs(oci(&entries), &[&amd, &arm, &bare, &m_amd, &m_arm, &m_bare, &both, "one", "two"]).open().unwrap();
    for (wanted, manifest, layer) in [("linux/amd64", &m_amd, "one"), ("linux/arm64", &m_arm, "two")] {
        let images = archive.images(&platform(wanted)).unwrap();
        assert_eq!(images.len(), 2);
        let names: Vec<_> = images[0].names.iter().map(ImageReference::familiar).collect();
        assert_eq!(
            (names, &images[0].ref_names[..]),
            (vec!["ghcr.io/o/app:1".to_owned(), "app:latest".to_owned()], &["v1".to_owned()][..])
        );
        let digest = digest_of(manifest.as_bytes());
        assert_eq!(images[0].manifest.as_ref().unwrap(), &(digest, manifest.clone().into_bytes()));
        assert_eq!(images[0].layers[0].blob, Some(digest_of(layer.as_bytes())));
        assert_eq!(content(&archive, &images[0].layers[0]), layer);
        assert!(images[1].names.is_empty() && images[1].layers.is_empty());
    }
    let error = archive.images(&platform("linux/riscv64")).unwrap_err().to_string();
    let expected =
        "image \"ghcr.io/o/app:1\": there is no image for linux/riscv64 in it; there are linux/amd64, linux/arm64";
    assert_eq!(error, expected);
}

#[test]
fn entries_of_one_name_are_alternatives_if_they_say_for_what() {
    let (a, b) = (config(&["one"]), config(&["two"]));
    let (m_a, m_b) = (manifest(&a, &["one"]), manifest(&b, &["two"]));
    let tar = |entries: &[Value]| blobs(oci(entries), &[&a, &b, &m_a, &m_b, "one", "two"]);
    let (a, b) = (descriptor(media::MANIFEST, &m_a), descriptor(media::MANIFEST, &m_b));
    let on = |entry: &Value, architecture| for_platform(entry.clone(), "linux", architecture);
    let count = |entries: &[Value]| tar(entries).images().unwrap().len();
    assert_eq!(count(&[a.clone(), b.clone()]), 2);
    assert_eq!(count(&[on(&a, "amd64"), on(&b, "arm64")]), 1);
    assert_eq!(count(&[on(&a, "amd64"), on(&b, "amd64")]), 2);
    assert_eq!(count(&[on(&a, "amd64"), b.clone()]), 2);
    let error = tar(&[named(a.clone(), REF_NAME, "a:1"), named(b.clone(), REF_NAME, "a:1")]).refused();
    assert!(error.contains("two images in it are called \"docker.io/library/a:1\""), "{error}");
    let error = tar(&[on(&a, "arm64"), on(&b, "s390x")]).refused();
    assert!(error.contains("there are linux/arm64, linux/s390x"), "{error}");
    assert!(tar(&[named(a.clone(), CONTAINERD_NAME, "A")]).refused().contains("\"A\" is no name of an image"));
    let by_digest = format!("a@{}", digest_of(m_a.as_bytes()));
    assert!(tar(&[named(a, CONTAINERD_NAME, &by_digest)]).images().is_ok());
    assert!(tar(&[named(b, CONTAINERD_NAME, &by_digest)]).refused().contains("has not the digest in that name"));
}

#[test]
fn a_name_that_a_tool_left_behind_does_not_count() {
    let config = config(&[]);
    let m = manifest(&config, &[]);
    for (whole, text, expected, rest) in [
        ("docker.io/library/app:1", "1", &["app:1"][..], &[] as &[&str]),
        ("docker.io/library/app:1", "app:1", &["app:1"], &[]),
        ("docker.io/library/app:1", "app:2", &["app:2"], &[]),
        ("docker.io/library/app:1", "2", &[], &["2"]),
    ] {
        let mut entry = descriptor(media::MANIFEST, &m);
        entry["annotations"] = json!({CONTAINERD_NAME: whole, REF_NAME: text});
        let images = blobs(oci(&[entry]), &[&config, &m]).images().unwrap();
        let names: Vec<_> = images[0].names.iter().map(ImageReference::familiar).collect();
        assert_eq!(names, expected, "{whole} {text}");
        assert_eq!(images[0].ref_names, rest, "{whole} {text}");
    }
}

#[test]
fn a_tar_that_is_both_has_digests_of_one_and_names_of_the_other_too() {
    let config = config(&["one"]);
    let m = manifest(&config, &["one"]);
    let docker = json!([
        {"Config": blob(&config), "RepoTags": ["app:2", "app:1"], "Layers": [blob("one")]},
        {"Config": blob("not there"), "RepoTags": ["other"], "Layers": []},
    ]);
    let entry = named(descriptor(media::MANIFEST, &m), CONTAINERD_NAME, "docker.io/library/app:1");
    let tar = blobs(oci(&[entry]), &[&config, &m, "one"]).file("manifest.json", docker.to_string());
    let images = tar.file("repositories", "{}").images().unwrap();
    let names: Vec<_> = images[0].names.iter().map(ImageReference::familiar).collect();
    assert_eq!((names, images[0].manifest.is_some()), (vec!["app:1".to_owned(), "app:2".to_owned()], true));
}

#[test]
fn lies_are_told() {
    let (one, other) = (config(&["one"]), config(&["two"]));
    let m = manifest(&one, &["one"]);
    let tar = |m: &str| oci(&[descriptor(media::MANIFEST, m)]);
    let image = "image number 1, without a name: ";
    let lying = |digest: &str| format!("what is called {} has another digest", digest_of(digest.as_bytes()));
    for (tar, expected) in [
        (blobs(tar(&m), &[&one, "one"]), format!("{image}\"blobs/sha256/{}\" is not in the archive", hex(&m))),
        (blobs(tar(&m), &[&m, "one"]), format!("\"{}\" is not in the archive", blob(&one))),
        (blobs(tar(&m), &[&m, &one]), format!("\"{}\" is not in the archive", blob("one"))),
        (blobs(tar(&m), &[&m, "one"]).file(&blob(&one), &other), lying(&one)),
        (blobs(tar(&m), &[&one, "one"]).file(&blob(&m), m.replace("20", "30")), lying(&m)),
        (blobs(tar(&m), &[&m, &one]).file(&blob("one"), "long"), "has 4 bytes, but 3 by what points at it".to_owned()),
        (blobs(tar(&m), &[&m, &one]).link(&blob("one"), "/etc/passwd"), "\"/etc/passwd\" leads out".to_owned()),
        (oci(&[]), "without an image".to_owned()),
        (oci(&[]).file("index.json", "{}"), "\"index.json\" is in the archive twice".to_owned()),
        (
            Tar::default().file("oci-layout", LAYOUT).file("index.json", &m),
            "\"index.json\": its name says that it is".to_owned(),
        ),
        (
            Tar::default().file("oci-layout", r#"{"imageLayoutVersion":"2\u001b"}"#).file("index.json", "{}"),
            "its oci-layout says version \"2\\u{1b}\"".to_owned(),
        ),
    ] {
        let error = tar.refused();
        assert!(error.contains(&expected), "{expected}: {error}");
    }
    let two = manifest(&one, &["one", "one"]);
    let error = blobs(tar(&two), &[&two, &one, "one"]).refused();
    assert_eq!(error, format!("{image}its configuration names 1 layers, but the archive has 2 for it"));
    let mut large = descriptor(media::MANIFEST, &m);
    large["size"] = json!(100 << 20);
    assert!(oci(&[large]).refused().contains("it has 104857600 bytes, and at most"));
}

#[test]
fn indexes_in_indexes_in_indexes_are_refused() {
    let config = config(&[]);
    let m = manifest(&config, &[]);
    let mut all = vec![config, m.clone()];
    let mut inner = descriptor(media::MANIFEST, &m);
    for depth in 0..5 {
        let images = all.iter().fold(oci(&[inner.clone()]), |tar, bytes| tar.file(&blob(bytes), bytes)).images();
        match images {
            Ok(images) => assert!(images.len() == 1 && depth <= 2, "{depth}"),
            Err(error) => assert!(depth > 2 && error.to_string().contains("more than 2 deep"), "{depth}: {error}"),
        }
        let outer = index(&[inner]);
        inner = descriptor(media::INDEX, &outer);
        all.push(outer);
    }
}
