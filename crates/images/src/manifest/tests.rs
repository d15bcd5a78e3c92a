use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn digest(byte: &str) -> String {
    format!("sha256:{}", byte.repeat(32))
}

fn manifest(layers: &[&str]) -> Value {
    let layers: Vec<_> = layers.iter().map(|of| json!({"mediaType": of, "digest": digest("0b"), "size": 7})).collect();
    let config = json!({"mediaType": media::CONFIG, "digest": digest("0a"), "size": 5});
    json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "config": config, "layers": layers})
}

fn entry(platform: Option<&str>, bytes: &[u8], media_type: &str) -> Value {
    let mut entry = json!({"mediaType": media_type, "digest": digest_of(bytes).to_string(), "size": bytes.len()});
    if let Some(platform) = platform {
        let parts: Vec<_> = platform.split('/').collect();
        entry["platform"] = json!({"os": parts[0], "architecture": parts[1], "variant": parts.get(2)});
    }
    entry
}

fn index(entries: &[Value]) -> Value {
    json!({"schemaVersion": 2, "mediaType": media::INDEX, "manifests": entries})
}

fn parse(document: &Value) -> Result<Document, ManifestError> {
    Document::parse(document.to_string().as_bytes(), None)
}

fn refused(document: &Value) -> String {
    parse(document).unwrap_err().to_string()
}

fn host(text: &str) -> Platform {
    text.parse().unwrap()
}

#[test]
fn manifests_of_oci_and_docker_are_read() {
    let types = [
        ("application/vnd.oci.image.layer.v1.tar", Compression::None),
        ("application/vnd.oci.image.layer.v1.tar+gzip", Compression::Gzip),
        ("application/vnd.oci.image.layer.v1.tar+zstd", Compression::Zstd),
        ("application/vnd.docker.image.rootfs.diff.tar", Compression::None),
        ("application/vnd.docker.image.rootfs.diff.tar.gzip", Compression::Gzip),
        ("application/vnd.docker.image.rootfs.diff.tar.zstd", Compression::Zstd),
    ];
    let mut document = manifest(&types.map(|(of, _)| of));
    for own in [json!(media::MANIFEST), json!(media::DOCKER_MANIFEST), Value::Null, json!("")] {
        document["mediaType"] = own;
        let Document::Manifest(read) = parse(&document).unwrap() else { panic!() };
        assert_eq!(read.layers.iter().map(|layer| layer.hint).collect::<Vec<_>>(), types.map(|(_, hint)| hint));
        assert_eq!((read.config.digest.to_string(), read.config.size), (digest("0a"), 5));
    }
    document["layers"] = Value::Null;
    assert!(matches!(parse(&document).unwrap(), Document::Manifest(read) if read.layers.is_empty()));
    for own in [json!(media::INDEX), json!(media::DOCKER_LIST)] {
        let document = json!({"schemaVersion": 2, "mediaType": own, "manifests": null});
        assert!(matches!(parse(&document).unwrap(), Document::Index(read) if read.manifests.is_empty()));
    }
}

#[test]
fn what_is_no_manifest_says_why() {
    let with = |key: &str, value: Value| {
        let mut document = manifest(&[]);
        document[key] = value;
        document
    };
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    let nondistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    let mut artifact = with("artifactType", json!("application/x.sbom"));
    artifact["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
    let mut helm = manifest(&[]);
    helm["config"]["mediaType"] = json!("application/vnd.cncf.helm\u{1b}");
    for (document, expected) in [
        (json!({"schemaVersion": 1, "fsLayers": []}), "it is a manifest of schema 1"),
        (json!({"mediaType": media::SCHEMA_1[1]}), "it is a manifest of schema 1"),
        (json!({"schemaVersion": 3}), "its schemaVersion is 3"),
        (json!({}), "it has no config, and no manifests"),
        (json!({"mediaType": "text/\u{1b}"}), "it says that it is \"text/\\u{1b}\""),
        (with("mediaType", json!(media::INDEX)), "but its content is that of a manifest"),
        (with("manifests", json!([])), "but its content is that of both an index and a manifest"),
        (json!({"manifests": [], "layers": []}), "it has both a config or layers, and manifests"),
        (with("layers", json!([{"digest": "sha512:00", "size": 1}])), "layers[0].digest is wrong: \"sha512:00\" is no"),
        (with("layers", json!([{"digest": digest("00"), "size": -1}])), "layers[0].size is wrong"),
        (
            manifest(&["application/vnd.oci.image.layer.v1.tar+br\u{202e}"]),
            "of the unknown type \"application/vnd.oci.",
        ),
        (manifest(&[""]), "layer 1 (sha256:0b0b"),
        (manifest(&[media::LAYER, foreign]), "layer 2 (sha256:0b0b"),
        (manifest(&[nondistributable]), "such a layer is not distributed with its image"),
        (manifest(&[media::LAYER; 128]), "layers is wrong: a list of more than 127"),
        (artifact, "its configuration is of type \"application/x.sbom\""),
        (helm, "its configuration is of type \"application/vnd.cncf.helm\\u{1b}\""),
    ] {
        let error = refused(&document);
        assert!(error.contains(expected), "{expected}: {error}");
        assert!(error.chars().all(sandpen_types::visible::is_visible), "{error}");
    }
    let html = Document::parse(b"  <html><body>502 Bad Gateway", None).unwrap_err().to_string();
    assert!(html.contains("it is no JSON object or list: it begins with \"<html><body>502 Bad"), "{html}");
    let large = Document::parse(&vec![b'['; 100 << 20], None).unwrap_err();
    assert_eq!(large, ManifestError::Json(JsonError::TooLarge { bytes: 100 << 20 }));
    let declared = Document::parse(manifest(&[]).to_string().as_bytes(), Some(media::DOCKER_LIST)).unwrap_err();
    assert!(declared.to_string().starts_with("what points at it says that it is"), "{declared}");
    assert!(Document::parse(manifest(&[]).to_string().as_bytes(), Some("text/plain")).is_ok());
}

#[test]
fn the_platform_chooses_and_artifacts_are_passed_over() {
    let of = |platform: Option<&str>, content: &str| entry(platform, content.as_bytes(), media::MANIFEST);
    let mut attestation = of(Some("linux/amd64"), "attestation");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut signature = of(Some("linux/amd64"), "signature");
    signature["artifactType"] = json!("application/x.signature");
    let entries = [
        attestation,
        signature,
        of(Some("unknown/unknown"), "unknown"),
        of(Some("linux/amd64/v3"), "later"),
        of(Some("linux/amd64"), "this"),
        of(Some("linux/amd64"), "the same once more"),
        of(Some("linux/arm/v6"), "v6"),
        of(Some("linux/arm/v7"), "v7"),
        of(None, "silent"),
    ];
    let choose = |entries: &[Value], platform: &str| {
        let Document::Index(index) = parse(&index(entries)).unwrap() else { panic!() };
        index.choose(&host(platform)).cloned().map(|chosen| chosen.digest).map_err(|error| error.to_string())
    };
    for (platform, content) in [
        ("linux/amd64", "this"),
        ("linux/amd64/v3", "later"),
        ("linux/arm", "v7"),
        ("linux/arm/v6", "v6"),
        ("linux/arm/v8", "v7"),
        ("linux/riscv64", "silent"),
    ] {
        assert_eq!(choose(&entries, platform).unwrap(), digest_of(content.as_bytes()), "{platform}");
    }
    let error = choose(&entries[..8], "linux/riscv64").unwrap_err();
    let expected = "there is no image for linux/riscv64 in it; there are \
                    linux/amd64, linux/amd64/v3, linux/arm/v6, linux/arm/v7";
    assert_eq!(error, expected);
    assert!(choose(&entries[..3], "linux/amd64").unwrap_err().ends_with("there are none at all"));
    let many: Vec<_> = (0..100).map(|n| of(Some(&format!("linux/n{n}")), "x")).collect();
    assert!(choose(&many, "linux/amd64").unwrap_err().ends_with(", 76 more"));
}

/// A store of documents, and the descriptor of the last.
fn stored(documents: Vec<Vec<u8>>) -> BTreeMap<ImageDigest, Vec<u8>> {
    documents.into_iter().map(|bytes| (digest_of(&bytes), bytes)).collect()
}

#[test]
fn indexes_lead_to_a_manifest_two_deep() {
    let image = manifest(&[media::LAYER]).to_string().into_bytes();
    let wrap = |inner: &[u8], media_type| index(&[entry(None, inner, media_type)]).to_string().into_bytes();
    let one = wrap(&image, media::MANIFEST);
    let two = wrap(&one, media::INDEX);
    let three = wrap(&two, media::INDEX);
    let store = stored(vec![image.clone(), one.clone(), two.clone(), three.clone()]);
    let resolve = |bytes: &[u8]| {
        let Document::Index(outer) = parse(&index(&[entry(None, bytes, media::INDEX)])).unwrap() else { panic!() };
        let first = Descriptor { media_type: None, ..outer.manifests[0].clone() };
        first.resolve::<ManifestError>(&host("linux/amd64"), |next| Ok(store[&next.digest].clone()))
    };
    for start in [&image, &one, &two] {
        let resolved = resolve(start).unwrap();
        assert_eq!((resolved.digest, &resolved.bytes), (digest_of(&image), &image));
    }
    assert_eq!(resolve(&three).unwrap_err(), ManifestError::TooDeep);
}

#[test]
fn lies_about_digest_size_and_type_are_told() {
    let image = manifest(&[]).to_string().into_bytes();
    let resolve = |entry: &Value, bytes: Vec<u8>| {
        let Document::Index(outer) = parse(&index(std::slice::from_ref(entry))).unwrap() else { panic!() };
        let fetch = |_: &Descriptor| Ok::<_, ManifestError>(bytes.clone());
        outer.manifests[0].resolve(&host("linux/amd64"), fetch).unwrap_err().to_string()
    };
    let honest = entry(None, &image, media::MANIFEST);
    let mut other = image.clone();
    other[0] = b' ';
    let lie = resolve(&honest, other);
    assert!(lie.contains(&format!("what is called {} has another digest", digest_of(&image))), "{lie}");
    let lie = resolve(&honest, image[1..].to_vec());
    assert!(lie.contains(&format!("has {} bytes, but {} by what points at it", image.len() - 1, image.len())), "{lie}");
    let lie = resolve(&entry(None, &image, media::INDEX), image.clone());
    assert!(lie.starts_with("what points at it says"), "{lie}");
    let mut large = honest;
    large["size"] = json!(100 << 20);
    assert!(resolve(&large, Vec::new()).contains("it has 104857600 bytes, and at most"));
}

proptest! {
    #[test]
    fn nothing_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in any::<usize>(), byte: u8) {
        let _ = Document::parse(&bytes, None);
        for document in [manifest(&[media::LAYER]), index(&[entry(Some("linux/arm/v7"), b"x", media::MANIFEST)])] {
            let mut text = document.to_string().into_bytes();
            let at = at % text.len();
            text[at] = byte;
            if let Err(error) = Document::parse(&text, Some(media::MANIFEST)) {
                let error = error.to_string();
                prop_assert!(error.chars().all(sandpen_types::visible::is_visible), "{error:?}");
            }
        }
    }
}
