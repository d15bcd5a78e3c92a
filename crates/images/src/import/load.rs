//! Archives: all their images, layers side by side.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use rustix::fd::OwnedFd;
use sandpen_types::image::{ImageDigest, ImageReference};

use super::image::{self, NewImage};
use super::{ImportError, Progress, spool};
use crate::archive::{ArchivedImage, ArchivedLayer, ImageArchive};
use crate::layer::{self, Expected, LayerInfo};
use crate::platform::Platform;
use crate::store::{DraftDir, LAYER_RECORD, LayerRecord, Store};

/// Most layers that are unpacked side by side: each has a thread that unpacks and one that writes.
const SIDE_BY_SIDE: usize = 4;
/// How many bytes of a layer are read between two words about it.
const PROGRESS_STEP: u64 = 1 << 20;

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
    progress: &mut dyn FnMut(Progress),
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
    let mut loaded = Vec::new();
    for image in &images {
        let mut names = image.names.clone();
        names.extend(options.name.clone().filter(|name| !image.names.contains(name)));
        load_image(store, &archive, image, &names, progress)?;
        if !loaded.contains(&image.config_digest) {
            loaded.push(image.config_digest);
        }
    }
    Ok(loaded)
}

fn load_image(
    store: &Store,
    archive: &ImageArchive,
    image: &ArchivedImage,
    names: &[ImageReference],
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    let digest = image.config_digest;
    let _guard = store.lock_digest(&digest)?;
    let draft = store.draft()?;
    let diff_ids: Vec<_> = image.layers.iter().map(|layer| layer.diff_id).collect();
    load_layers(store, archive, &image.layers, progress)?;
    let manifest = image.manifest.as_ref().map(|(digest, bytes)| (*digest, bytes.as_slice()));
    let new = NewImage { digest, config: &image.config, manifest, layers: &diff_ids, names };
    image::make(store, draft, &new, progress)
}

/// A layer that is to be there: its number, and where the archive has it.
type Wanted<'a> = (usize, &'a ArchivedLayer);

/// Has each layer in the store, several at a time. The first error ends it, once those that were begun have ended.
fn load_layers(
    store: &Store,
    archive: &ImageArchive,
    layers: &[ArchivedLayer],
    progress: &mut dyn FnMut(Progress),
) -> Result<(), ImportError> {
    // Largest first, so that none is left alone at the end. A layer may be there several times.
    let once: BTreeMap<ImageDigest, Wanted<'_>> =
        layers.iter().enumerate().rev().map(|(at, layer)| (layer.diff_id, (at + 1, layer))).collect();
    let mut left: Vec<_> = once.into_values().collect();
    left.sort_by_key(|(_, layer)| layer.size);
    let workers = thread::available_parallelism().map_or(1, NonZero::get).min(SIDE_BY_SIDE).min(left.len());
    let left = Mutex::new(left);
    thread::scope(|scope| {
        let (told, events) = channel();
        let mut running = Vec::new();
        for _ in 0..workers {
            let (told, left) = (told.clone(), &left);
            let worker = move || -> Result<(), ImportError> {
                loop {
                    let next = left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                    let Some((number, layer)) = next else { return Ok(()) };
                    let made = load_layer(store, archive, layer, number, layers.len(), &told);
                    if made.is_err() {
                        // Nobody begins another one.
                        left.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
                        return made;
                    }
                }
            };
            let started = thread::Builder::new().name("layer".to_owned()).spawn_scoped(scope, worker);
            running.push(started.map_err(ImportError::Thread)?);
        }
        drop(told);
        // Until the last worker has ended.
        events.into_iter().for_each(progress);
        let ended =
            running.into_iter().map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        // All of them are waited for.
        let ended: Vec<_> = ended.collect();
        ended.into_iter().collect()
    })
}

fn load_layer(
    store: &Store,
    archive: &ImageArchive,
    layer: &ArchivedLayer,
    number: usize,
    of: usize,
    told: &Sender<Progress>,
) -> Result<(), ImportError> {
    let diff_id = layer.diff_id;
    // Whoever listens has gone only where this thread's work is of no use either.
    let tell = |progress| drop(told.send(progress));
    let _guard = store.lock_digest(&diff_id)?;
    let draft = store.draft()?;
    if store.has_layer(&diff_id)? {
        tell(Progress::LayerReady { diff_id, was_there: true });
        return Ok(());
    }
    tell(Progress::LayerStarted { diff_id, bytes: layer.size });
    let (blob, told_of) = (archive.open_layer(layer)?, Mutex::new((told.clone(), 0_u64, 0_u64)));
    let expected = Expected { diff_id: Some(diff_id), packed: layer.blob, packed_bytes: Some(layer.size) };
    let count = |bytes: u64| {
        let mut state = told_of.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.1 += bytes;
        if state.1 >= state.2 + PROGRESS_STEP {
            state.2 = state.1;
            drop(state.0.send(Progress::LayerRead { diff_id, bytes: state.1 }));
        }
    };
    let unpacked = layer::unpack(blob, &expected, draft.path(), &count);
    let info = unpacked.map_err(|source| ImportError::Layer { number, of, diff_id, source: Box::new(source) })?;
    commit(draft, &info)?;
    tell(Progress::LayerReady { diff_id, was_there: false });
    Ok(())
}

/// Puts an unpacked layer into the store.
pub(super) fn commit(draft: DraftDir, info: &LayerInfo) -> Result<(), ImportError> {
    let record = LayerRecord {
        diff_id: info.diff_id,
        blob_bytes: info.blob_bytes,
        entries: info.entries,
        tar_bytes: info.tar_bytes,
        content_bytes: info.content_bytes,
        files: BTreeMap::new(),
    };
    let path = draft.path().join(LAYER_RECORD);
    let written = serde_json::to_vec(&record).map_err(std::io::Error::from).and_then(|record| fs::write(&path, record));
    written.map_err(ImportError::file("writing", path))?;
    Ok(draft.commit_layer(&info.diff_id)?)
}

/// Unpacks the only layer of an image whose digest nobody knows beforehand.
pub(super) fn new_layer(
    store: &Store,
    tar: impl Read + Send,
    progress: &mut dyn FnMut(Progress),
) -> Result<LayerInfo, ImportError> {
    let draft = store.draft()?;
    let unpacked = layer::unpack(tar, &Expected::default(), draft.path(), &|_| {});
    let info = unpacked.map_err(|source| ImportError::Root(Box::new(source)))?;
    let _guard = store.lock_digest(&info.diff_id)?;
    let was_there = store.has_layer(&info.diff_id)?;
    commit(draft, &info)?;
    progress(Progress::LayerReady { diff_id: info.diff_id, was_there });
    Ok(info)
}
