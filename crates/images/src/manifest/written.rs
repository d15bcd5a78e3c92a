//! Manifests that are written here: of archives, and of images whose layers were packed anew.

use std::collections::BTreeMap;

use sandpen_types::image::ImageDigest;
use serde::{Deserialize, Serialize};

use super::{Document, ManifestError, media};
use crate::digest::digest_of;
use crate::json::JsonError;

/// A layer as it was packed with gzip.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Packed {
    /// Of the packed bytes.
    pub digest: ImageDigest,
    /// How many they are.
    pub size: u64,
}

/// The manifest of an image that has none: its configuration, and its layers, the lowest first.
///
/// # Errors
/// [`ManifestError::Json`] of more layers than a manifest may have.
pub fn of_packed(config: &[u8], layers: &[Packed]) -> Result<Vec<u8>, ManifestError> {
    let size = u64::try_from(config.len()).unwrap_or(u64::MAX);
    let config = Descriptor::new(media::CONFIG, digest_of(config), size);
    let layers = layers.iter().map(|layer| Descriptor::new(media::LAYER_GZIP, layer.digest, layer.size));
    written(&Manifest::new(config, layers.collect()))
}

/// A manifest with some of its layers packed anew; `None` stays as it is. What was said of the bytes of the others before
/// (annotations) is not true of the new ones.
///
/// # Errors
/// `stored` is no manifest.
pub fn with_packed(stored: &[u8], layers: &[Option<Packed>]) -> Result<Vec<u8>, ManifestError> {
    let mut document: serde_json::Value = serde_json::from_slice(stored).map_err(of_json)?;
    let is_docker = document.get("mediaType").is_some_and(|of| of == media::DOCKER_MANIFEST);
    let media_type = if is_docker { media::DOCKER_LAYER_GZIP } else { media::LAYER_GZIP };
    let all = document.get_mut("layers").and_then(serde_json::Value::as_array_mut);
    for (layer, packed) in all.into_iter().flatten().zip(layers) {
        if let Some(packed) = packed {
            let descriptor = Descriptor::new(media_type, packed.digest, packed.size);
            *layer = serde_json::to_value(&descriptor).map_err(of_json)?;
        }
    }
    written(&document)
}

/// Whoever reads it has to understand it.
fn written(document: &impl Serialize) -> Result<Vec<u8>, ManifestError> {
    let bytes = serde_json::to_vec(document).map_err(of_json)?;
    Document::parse(&bytes, None).map(|_| bytes)
}

#[allow(clippy::needless_pass_by_value, reason = "as map_err has it")]
fn of_json(error: serde_json::Error) -> ManifestError {
    JsonError::Field { field: "the document".to_owned(), reason: error.to_string() }.into()
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u8,
    pub media_type: &'static str,
    pub manifests: Vec<Descriptor>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    schema_version: u8,
    media_type: &'static str,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

impl Manifest {
    pub fn new(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media::MANIFEST, config, layers }
    }
}

#[derive(Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub media_type: &'static str,
    pub digest: ImageDigest,
    pub size: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<&'static str, String>,
}

impl Descriptor {
    pub fn new(media_type: &'static str, digest: ImageDigest, size: u64) -> Self {
        Self { media_type, digest, size, annotations: BTreeMap::new() }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn packed(byte: u8) -> Packed {
        Packed { digest: ImageDigest::new([byte; 32]), size: byte.into() }
    }

    #[test]
    fn layers_that_were_not_packed_stay_as_they_are() {
        let layer = |of: &str, byte: u8| {
            let Packed { digest, size } = packed(byte);
            json!({"mediaType": of, "digest": digest, "size": size, "annotations": {"toc": "x"}})
        };
        let of = |kind: &str, config: &str, zstd: &str| {
            json!({
                "schemaVersion": 2, "mediaType": kind, "annotations": {"of": "somebody"},
                "config": {"mediaType": config, "digest": packed(9).digest, "size": 9},
                "layers": [layer(zstd, 1), layer(zstd, 2)],
            })
        };
        for (kind, config, zstd, gzip) in [
            (media::MANIFEST, media::CONFIG, "application/vnd.oci.image.layer.v1.tar+zstd", media::LAYER_GZIP),
            (
                media::DOCKER_MANIFEST,
                media::DOCKER_CONFIG,
                "application/vnd.docker.image.rootfs.diff.tar.zstd",
                media::DOCKER_LAYER_GZIP,
            ),
        ] {
            let before = of(kind, config, zstd);
            let text = before.to_string().into_bytes();
            let made = with_packed(&text, &[None, Some(packed(3))]).unwrap();
            assert_eq!(with_packed(&text, &[None, Some(packed(3))]).unwrap(), made, "the same each time");
            let mut expected = before;
            expected["layers"][1] = json!({"mediaType": gzip, "digest": packed(3).digest, "size": 3});
            assert_eq!(serde_json::from_slice::<Value>(&made).unwrap(), expected);
        }
        with_packed(b"{}", &[]).unwrap_err();
        with_packed(b"[", &[]).unwrap_err();
    }

    #[test]
    fn an_image_without_a_manifest_gets_one() {
        let made = of_packed(b"{}", &[packed(1), packed(2)]).unwrap();
        let Document::Manifest(manifest) = Document::parse(&made, Some(media::MANIFEST)).unwrap() else { panic!() };
        assert_eq!((manifest.config.digest, manifest.config.size), (digest_of(b"{}"), 2));
        assert_eq!(manifest.layers.iter().map(|layer| layer.size).collect::<Vec<_>>(), [1, 2]);
        assert!(manifest.layers.iter().all(|layer| layer.hint == super::super::Compression::Gzip));
    }
}
