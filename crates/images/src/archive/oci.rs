//! OCI archives and layouts: `index.json` points at images by their manifests, or at indexes of them, and every blob
//! is called by its digest, `blobs/sha256/<hex>`.
//!
//! An entry of `index.json` that names no platform is an image of its own, whatever its name. Those that do are
//! alternatives to the others of their name, of which the ones that fit the platform best are taken.

use sandpen_types::image::{ImageDigest, ImageReference};
use serde::Deserialize;

use super::{
    ArchiveError, ArchivedImage, DOCKER_MANIFEST, Documents, IMAGES_MAX, OCI_INDEX, OCI_LAYOUT, Source, Stored, docker,
    image,
};
use crate::json::{self, shown};
use crate::manifest::platforms::{best, no_platform};
use crate::manifest::{Descriptor, Document, ImageIndex, ManifestError, Resolved, media};
use crate::platform::Platform;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

/// The images of an archive.
pub(super) fn images(documents: &mut Documents<'_>, platform: &Platform) -> Result<Vec<ArchivedImage>, ArchiveError> {
    let layout: Layout = json::parse(&documents.read(OCI_LAYOUT)?)
        .map_err(|error| ArchiveError::Document { path: OCI_LAYOUT.to_owned(), error })?;
    if layout.image_layout_version.split('.').next() != Some("1") {
        return Err(ArchiveError::LayoutVersion(shown(&layout.image_layout_version)));
    }
    let index = match Document::parse(&documents.read(OCI_INDEX)?, None).map_err(ArchiveError::Index)? {
        Document::Index(index) => index,
        Document::Manifest(_) => {
            let (said, media_type) = ("its name", media::INDEX.to_owned());
            return Err(ArchiveError::Index(ManifestError::Disagrees { said, media_type, content: "a manifest" }));
        }
    };
    let chosen = chosen(&index, platform)?;
    if chosen.len() > IMAGES_MAX {
        return Err(ArchiveError::ManyImages);
    }
    let mut images: Vec<ArchivedImage> = Vec::new();
    // What an entry's digest led to, so that a name more does not read an image once more.
    let mut known: Vec<(ImageDigest, usize)> = Vec::new();
    for (at, entry) in chosen.into_iter().enumerate() {
        let name = entry.containerd_name.as_deref().or(entry.ref_name.as_deref());
        let mut add = || {
            let place = match known.iter().find(|(digest, _)| *digest == entry.digest) {
                Some((_, place)) => *place,
                None => one(documents, entry, platform, &mut images)?,
            };
            known.push((entry.digest, place));
            add_name(&mut images[place], entry)
        };
        add().map_err(|error: ArchiveError| error.of(at + 1, name))?;
    }
    if matches!(documents.source, Source::Tar(index) if index.has(DOCKER_MANIFEST)) {
        docker::add_names(documents, &mut images)?;
    }
    Ok(images)
}

/// The entries of an index that are images for this platform.
fn chosen<'a>(index: &'a ImageIndex, platform: &Platform) -> Result<Vec<&'a Descriptor>, ArchiveError> {
    let mut groups: Vec<([Option<&str>; 2], Vec<&Descriptor>)> = Vec::new();
    for entry in index.manifests.iter().filter(|entry| entry.is_image) {
        let name = [entry.containerd_name.as_deref(), entry.ref_name.as_deref()];
        match groups.iter_mut().find(|(of, others)| *of == name && others[0].platform.is_some()) {
            Some((_, others)) if entry.platform.is_some() => others.push(entry),
            _ => groups.push((name, vec![entry])),
        }
    }
    let mut chosen = Vec::new();
    for (at, (name, entries)) in groups.iter().enumerate() {
        if entries[0].platform.is_none() {
            chosen.extend(entries);
            continue;
        }
        let fitting = best(entries, platform);
        if fitting.is_empty() {
            return Err(ArchiveError::from(no_platform(entries, platform)).of(at + 1, name[0].or(name[1])));
        }
        chosen.extend(fitting);
    }
    Ok(chosen)
}

/// Reads the image that an entry leads to, unless it is there already, and says where it is among the images.
fn one(
    documents: &mut Documents<'_>,
    entry: &Descriptor,
    platform: &Platform,
    images: &mut Vec<ArchivedImage>,
) -> Result<usize, ArchiveError> {
    let Resolved { digest, bytes, manifest } =
        entry.resolve(platform, |next| -> Result<_, ArchiveError> { blob(documents, next) })?;
    let is_it = |image: &ArchivedImage| image.manifest.as_ref().is_some_and(|(other, _)| *other == digest);
    if let Some(place) = images.iter().position(is_it) {
        return Ok(place);
    }
    let config = blob(documents, &manifest.config)?;
    manifest.config.check(&config)?;
    let mut layers = Vec::new();
    for layer in &manifest.layers {
        let path = path(layer.digest);
        let found = documents.source.needed(&path)?.size();
        if found != layer.size {
            return Err(ArchiveError::LyingSize { path, claimed: layer.size, found });
        }
        layers.push(Stored { blob: Some(layer.digest), size: layer.size, path });
    }
    let image = image(config, manifest.config.digest, layers)?;
    images.push(ArchivedImage { manifest: Some((digest, bytes)), ..image });
    Ok(images.len() - 1)
}

/// Gives an image the name of an entry that led to it. The annotation of containerd is a reference by definition; the
/// other one is what its writer chose, and a reference if it reads as one and is more than a tag. Where both are there
/// and do not agree, a tool that knows only the second gave the image a new name (umoci does), so that one counts.
fn add_name(image: &mut ArchivedImage, entry: &Descriptor) -> Result<(), ArchiveError> {
    let whole = entry.containerd_name.as_deref().map(str::parse::<ImageReference>).transpose()?;
    let parse = |text: &str| text.parse().ok().filter(|_| text.contains(['/', ':', '@']));
    let agrees = |whole: &ImageReference, text: &str| whole.tag() == Some(text) || parse(text).as_ref() == Some(whole);
    let name = match (whole, entry.ref_name.as_deref()) {
        (Some(whole), text) if text.is_none_or(|text| agrees(&whole, text)) => Some(whole),
        (_, Some(text)) => {
            let name = parse(text);
            if name.is_none() && !image.ref_names.iter().any(|other| other == text) {
                image.ref_names.push(text.to_owned());
            }
            name
        }
        _ => None,
    };
    let Some(name) = name else { return Ok(()) };
    let own = image.manifest.as_ref().map(|(digest, _)| *digest);
    if name.digest().is_some_and(|named| named != entry.digest && Some(named) != own) {
        return Err(ArchiveError::LyingName { name: name.to_string() });
    }
    if !image.names.contains(&name) {
        image.names.push(name);
    }
    Ok(())
}

/// A document by its descriptor; its digest is for the caller to check.
fn blob(documents: &mut Documents<'_>, of: &Descriptor) -> Result<Vec<u8>, ArchiveError> {
    documents.read(&path(of.digest))
}

fn path(digest: ImageDigest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}
