//! Archives: all their images, layers side by side.

use std::collections::BTreeMap;
use std::fs::File;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::fd::OwnedFd;
use sandpen_types::image::{ImageDigest, ImageReference};

use super::image::compose;
use super::layer::{NewLayer, add_layer};
use super::{ImportError, Tell, spool};
use crate::archive::{ArchivedLayer, ImageArchive};
use crate::platform::Platform;
use crate::store::{Store, check_tag};

/// Most layers that are unpacked side by side: each has a thread that unpacks and one that writes.
const SIDE_BY_SIDE: usize = 4;

/// Where an archive is.
#[derive(Debug)]
pub enum LoadSource {
    /// A tar of images, packed or not; read from its beginning, or as a stream if it is one.
    File(File),
    /// The directory of an OCI layout.
    Directory(OwnedFd),
}

/// What is wanted of an archive.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Of an image that is there for several platforms, which.
    pub platform: Platform,
    /// One more name; the archive must have one image then.
    pub name: Option<ImageReference>,
}

/// Puts all images of an archive into the store; answers which, each once. Those that came before an error stay.
///
/// # Errors
/// [`ImportError`].
pub fn load(
    store: &Store,
    source: LoadSource,
    options: &LoadOptions,
    tell: Tell<'_>,
) -> Result<Vec<ImageDigest>, ImportError> {
    // Held until the end, so that no layer goes which is found to be there.
    let held = store.draft()?;
    let archive = match source {
        LoadSource::Directory(directory) => ImageArchive::open_layout(directory)?,
        LoadSource::File(file) => ImageArchive::open(spool::of_file(file, held.path())?)?,
    };
    let images = archive.images(&options.platform)?;
    if options.name.is_some() && images.len() != 1 {
        return Err(ImportError::OneName(images.len()));
    }
    options.name.iter().try_for_each(check_tag)?;
    let mut loaded = Vec::new();
    for image in &images {
        // As after a pull: what an image is called by its digest alone is no name of it.
        let mut names: Vec<ImageReference> = Vec::new();
        for name in image.names.iter().filter_map(ImageReference::tagged).chain(options.name.clone()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        load_layers(store, &archive, &image.layers, tell)?;
        let manifest = image.manifest.as_ref().map(|(_, bytes)| bytes.as_slice());
        let digest = compose(store, &image.config, manifest, &names, tell)?;
        if !loaded.contains(&digest) {
            loaded.push(digest);
        }
    }
    Ok(loaded)
}

/// A layer that is to be there: its number, and where the archive has it.
type Wanted<'a> = (usize, &'a ArchivedLayer);

/// Has each layer in the store, several at a time. The first error ends it, once those that were begun have ended.
fn load_layers(
    store: &Store,
    archive: &ImageArchive,
    layers: &[ArchivedLayer],
    tell: Tell<'_>,
) -> Result<(), ImportError> {
    // Largest first, so that none is left alone at the end. A layer may be there several times.
    let once: BTreeMap<ImageDigest, Wanted<'_>> =
        layers.iter().enumerate().rev().map(|(at, layer)| (layer.diff_id, (at + 1, layer))).collect();
    let mut left: Vec<_> = once.into_values().collect();
    left.sort_by_key(|(_, layer)| layer.size);
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(SIDE_BY_SIDE).min(left.len());
    let left = Mutex::new(left);
    thread::scope(|scope| {
        let mut running = Vec::new();
        for _ in 0..workers {
            let worker = || -> Result<(), ImportError> {
                loop {
                    let next = left.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some((number, layer)) = next else { return Ok(()) };
                    let new = NewLayer {
                        diff_id: layer.diff_id,
                        packed: layer.blob,
                        packed_bytes: layer.size,
                        number,
                        of: layers.len(),
                    };
                    let made = add_layer(store, &new, || Ok(archive.open_layer(layer)?), tell);
                    if made.is_err() {
                        // Nobody begins another one.
                        left.lock().unwrap_or_else(PoisonError::into_inner).clear();
                        return made;
                    }
                }
            };
            let started = thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, worker);
            running.push(started.map_err(ImportError::Thread)?);
        }
        let ended =
            running.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All of them are waited for.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().collect()
    })
}
