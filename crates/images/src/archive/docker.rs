//! Docker archives: `manifest.json` lists images, each with its configuration, names and layers, which are named by
//! their paths in the archive.
//!
//! Names of files are digests in what current tools write, and are then held against the content: a configuration's
//! here, a layer's in `blobs/sha256/` by whoever reads it. Other names say nothing.

use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::visible::is_visible;
use serde::Deserialize;

use super::{ArchiveError, ArchivedImage, DOCKER_MANIFEST, Documents, IMAGES_MAX, Stored, image};
use crate::config::{ITEMS_MAX, LAYERS_MAX};
use crate::digest::digest_of;
use crate::json::{self, List};

/// Longest name of a file, as Linux has it.
const PATH_MAX: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawImage {
    config: String,
    repo_tags: Option<List<String, ITEMS_MAX>>,
    layers: Option<List<String, LAYERS_MAX>>,
}

impl RawImage {
    /// The digest that its configuration's name is.
    fn config_digest(&self) -> Option<ImageDigest> {
        let name = self.config.rsplit('/').next().unwrap_or(&self.config);
        ImageDigest::from_hex(name.strip_suffix(".json").unwrap_or(name)).ok()
    }

    fn names(&self) -> Result<Vec<ImageReference>, ArchiveError> {
        let mut names: Vec<ImageReference> = Vec::new();
        for text in self.repo_tags.iter().flat_map(|List(tags)| tags) {
            let name: ImageReference = text.parse()?;
            if name.digest().is_some() {
                return Err(ArchiveError::LyingName { name: name.to_string() });
            }
            if !names.contains(&name) {
                names.push(name);
            }
        }
        Ok(names)
    }
}

fn read(documents: &mut Documents<'_>) -> Result<Vec<RawImage>, ArchiveError> {
    let bytes = documents.read(DOCKER_MANIFEST)?;
    let List(images) = json::parse::<List<_, IMAGES_MAX>>(&bytes)
        .map_err(|error| ArchiveError::Document { path: DOCKER_MANIFEST.to_owned(), error })?;
    Ok(images)
}

/// The images of an archive.
pub(super) fn images(documents: &mut Documents<'_>) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let mut images: Vec<ArchivedImage> = Vec::new();
    for (at, raw) in read(documents)?.into_iter().enumerate() {
        let first = raw.repo_tags.as_ref().and_then(|List(tags)| tags.first());
        let read = one(documents, &raw).map_err(|error| error.of(at + 1, first.map(String::as_str)))?;
        match images.iter_mut().find(|image| image.config_digest == read.config_digest) {
            Some(image) => {
                let new: Vec<_> = read.names.into_iter().filter(|name| !image.names.contains(name)).collect();
                image.names.extend(new);
            }
            None => images.push(read),
        }
    }
    Ok(images)
}

fn one(documents: &mut Documents<'_>, raw: &RawImage) -> Result<ArchivedImage, ArchiveError> {
    let names = raw.names()?;
    let path = inside(&raw.config)?;
    let config = documents.read(&path)?;
    let found = digest_of(&config);
    if raw.config_digest().is_some_and(|named| named != found) {
        return Err(ArchiveError::LyingDigest { path, found });
    }
    let mut layers = Vec::new();
    for path in raw.layers.iter().flat_map(|List(layers)| layers) {
        let path = inside(path)?;
        let size = documents.source.needed(&path)?.size();
        let blob = path.strip_prefix("blobs/sha256/").and_then(|hex| ImageDigest::from_hex(hex).ok());
        layers.push(Stored { blob, size, path });
    }
    Ok(ArchivedImage { names, ..image(config, found, layers)? })
}

/// Adds the names of a Docker archive to the images that were read from the OCI archive in the same tar.
pub(super) fn add_names(documents: &mut Documents<'_>, images: &mut [ArchivedImage]) -> Result<(), ArchiveError> {
    for (at, raw) in read(documents)?.iter().enumerate() {
        let digest = raw.config_digest();
        let names = raw.names().map_err(|error| error.of(at + 1, None))?;
        let Some(image) = images.iter_mut().find(|image| Some(image.config_digest) == digest) else { continue };
        let new: Vec<_> = names.into_iter().filter(|name| !image.names.contains(name)).collect();
        image.names.extend(new);
    }
    Ok(())
}

/// A path in `manifest.json` as the archive's index has it.
fn inside(path: &str) -> Result<String, ArchiveError> {
    let parts: Vec<_> = path.split('/').filter(|part| *part != ".").collect();
    let is_inside = parts.iter().all(|part| !matches!(*part, "" | ".."));
    match is_inside && path.len() <= PATH_MAX && path.chars().all(is_visible) {
        true => Ok(parts.join("/")),
        false => Err(ArchiveError::Outside { path: json::shown(path) }),
    }
}
