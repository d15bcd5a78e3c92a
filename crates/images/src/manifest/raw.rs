//! Manifests and indexes as their text has them, and the checks that make them ours.

use sandpen_types::image::ImageDigest;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{
    CONTAINERD_NAME, Compression, Descriptor, Document, ENTRIES_MAX, ImageIndex, ImageManifest, LayerDescriptor,
    ManifestError, REF_NAME, media,
};
use crate::config::{ITEMS_MAX, LAYERS_MAX};
use crate::json::{List, Map, shown};
use crate::platform::Platform;

/// Marks an entry of an index that says something about another (BuildKit's attestations).
const ATTESTATION: &str = "vnd.docker.reference.type";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawDocument {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<List<RawDescriptor, ENTRIES_MAX>>,
    config: Option<RawDescriptor>,
    layers: Option<List<RawDescriptor, LAYERS_MAX>>,
    fs_layers: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDescriptor {
    media_type: Option<String>,
    digest: ImageDigest,
    size: u64,
    artifact_type: Option<String>,
    platform: Option<RawPlatform>,
    annotations: Option<Map<Option<String>, ITEMS_MAX>>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

/// What a media type says a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Index,
    Manifest,
}

impl Kind {
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            media::INDEX | media::DOCKER_LIST => Some(Self::Index),
            media::MANIFEST | media::DOCKER_MANIFEST => Some(Self::Manifest),
            _ => None,
        }
    }
}

impl RawDocument {
    pub(super) fn checked(self, declared: Option<&str>) -> Result<Document, ManifestError> {
        let own = self.media_type.as_deref().filter(|own| !own.is_empty());
        let is_schema_1 = own.is_some_and(|own| media::SCHEMA_1.contains(&own));
        if is_schema_1 || self.fs_layers.is_some() || self.schema_version == Some(1) {
            return Err(ManifestError::Schema1);
        }
        if let Some(other) = self.schema_version.filter(|version| *version != 2) {
            return Err(ManifestError::Neither(format!("its schemaVersion is {other}, and 2 is known")));
        }
        let own_kind = match own {
            Some(own) => Some(
                Kind::of(own)
                    .ok_or_else(|| ManifestError::Neither(format!("it says that it is \"{}\"", shown(own))))?,
            ),
            None => None,
        };
        let content = match (&self.manifests, &self.config, &self.layers) {
            (Some(_), None, None) => Some(Kind::Index),
            (None, Some(_), _) => Some(Kind::Manifest),
            (None, None, None) if own_kind == Some(Kind::Index) => Some(Kind::Index), // "manifests": null
            (Some(_), ..) => None,
            (None, None, _) => return Err(ManifestError::Neither("it has no config, and no manifests".to_owned())),
        };
        for (said, media_type) in [("it", own), ("what points at it", declared)] {
            let kind = media_type.and_then(Kind::of);
            if let (Some(media_type), true) = (media_type, kind.is_some() && kind != content) {
                let content = match content {
                    Some(Kind::Index) => "an index",
                    Some(Kind::Manifest) => "a manifest",
                    None => "both an index and a manifest",
                };
                return Err(ManifestError::Disagrees { said, media_type: media_type.to_owned(), content });
            }
        }
        match (content, self.config) {
            (Some(Kind::Index), _) => {
                let manifests = self.manifests.map_or_else(Vec::new, |List(entries)| entries);
                let manifests = manifests.into_iter().map(RawDescriptor::entry).collect();
                Ok(Document::Index(ImageIndex { manifests }))
            }
            (Some(Kind::Manifest), Some(config)) => {
                let layers = self.layers.map_or_else(Vec::new, |List(layers)| layers);
                manifest(config, self.artifact_type.as_deref(), &layers).map(Document::Manifest)
            }
            _ => Err(ManifestError::Neither("it has both a config or layers, and manifests".to_owned())),
        }
    }
}

fn manifest(
    config: RawDescriptor,
    artifact_type: Option<&str>,
    layers: &[RawDescriptor],
) -> Result<ImageManifest, ManifestError> {
    let config_type = config.media_type.as_deref().unwrap_or_default();
    if !matches!(config_type, media::CONFIG | media::DOCKER_CONFIG) {
        let artifact_type = artifact_type.filter(|of| !of.is_empty());
        return Err(ManifestError::Artifact(shown(artifact_type.unwrap_or(config_type))));
    }
    let layers = layers.iter().enumerate().map(|(at, layer)| layer.layer(at + 1)).collect::<Result<_, _>>()?;
    Ok(ImageManifest { config: config.entry(), layers })
}

impl RawDescriptor {
    fn entry(self) -> Descriptor {
        let mut annotations = self.annotations.map_or_else(Default::default, |Map(annotations)| annotations);
        let mut annotation = |key| annotations.remove(key).flatten().filter(|value| !value.is_empty());
        let (ref_name, containerd_name) = (annotation(REF_NAME), annotation(CONTAINERD_NAME));
        let media_type = self.media_type.filter(|of| !of.is_empty());
        // One that is filled with nothing is absent, as Docker writes it.
        let (os, architecture, variant) =
            self.platform.map_or((None, None, None), |platform| (platform.os, platform.architecture, platform.variant));
        let platform = match (os.as_deref(), architecture.as_deref()) {
            (None | Some(""), _) | (_, None | Some("")) => Ok(None),
            (Some(os), Some(architecture)) => Platform::new(os, architecture, variant.as_deref()).map(Some),
        };
        // BuildKit has its attestations "run" on that one.
        let is_for_something = platform.as_ref().is_ok_and(|of| of.as_ref().is_none_or(|of| of.os() != "unknown"));
        let is_image = media_type.as_deref().is_none_or(|of| Kind::of(of).is_some() || media::SCHEMA_1.contains(&of))
            && self.artifact_type.is_none_or(|of| of.is_empty())
            && annotation(ATTESTATION).is_none()
            && is_for_something;
        let platform = platform.unwrap_or_default();
        Descriptor { media_type, digest: self.digest, size: self.size, platform, ref_name, containerd_name, is_image }
    }

    fn layer(&self, number: usize) -> Result<LayerDescriptor, ManifestError> {
        let media_type = self.media_type.as_deref().unwrap_or_default();
        let oci = media_type.strip_prefix("application/vnd.oci.image.layer.");
        let docker = media_type.strip_prefix("application/vnd.docker.image.rootfs.");
        let hint = match (oci, docker) {
            (Some("v1.tar"), _) | (_, Some("diff.tar")) => Compression::None,
            (Some("v1.tar+gzip"), _) | (_, Some("diff.tar.gzip")) => Compression::Gzip,
            (Some("v1.tar+zstd"), _) | (_, Some("diff.tar.zstd")) => Compression::Zstd,
            _ => {
                let (digest, media_type) = (self.digest, shown(media_type));
                let is_elsewhere = oci.is_some_and(|rest| rest.starts_with("nondistributable."))
                    || docker.is_some_and(|rest| rest.starts_with("foreign."));
                return Err(match is_elsewhere {
                    true => ManifestError::Foreign { number, digest, media_type },
                    false => ManifestError::UnknownLayer { number, digest, media_type },
                });
            }
        };
        Ok(LayerDescriptor { digest: self.digest, size: self.size, hint })
    }
}
