//! The heavy work with images, behind three functions: unpacking archives, packing directories, writing archives.
//!
//! Whoever calls them is on a thread of its own for it. What a function is given of a client is a path or an open file,
//! what it answers is in the store by then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use sandpen_api::ImageProgress;
use sandpen_drivers::image_helper::{self as helper, ImageHelper, ImageHelperError};
use sandpen_images::import::Progress;
use sandpen_images::platform::Platform;
use sandpen_images::save;
use sandpen_images::store::{Store, StoreError};
use sandpen_types::image::{ImageDigest, ImageReference};

/// Where an image comes from.
#[derive(Debug)]
pub enum ImageSource {
    /// A file or directory of the host, absolute.
    Path(PathBuf),
    /// What somebody sent, whole, at its beginning.
    File(File),
}

/// What is wanted of an archive.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// A name besides those that it says.
    pub name: Option<ImageReference>,
    /// Which of several; the host's where nothing is said.
    pub platform: Option<Platform>,
}

/// Of which kind an archive is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ArchiveFormat {
    /// As `docker save` makes them.
    #[default]
    Docker,
    /// An OCI layout.
    Oci,
}

/// Why the work was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// What was given is no image, or none that can be used here.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be read.
    #[error("{path:?} cannot be read")]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// It cannot be written.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process that does it.
    #[error(transparent)]
    Process(ImageHelperError),
}

/// Told how far the work is.
pub type OnProgress<'a> = &'a mut dyn FnMut(ImageProgress);

/// Takes every image of an archive, or the ones of a platform, into the store.
pub fn load(
    store: &Store,
    source: ImageSource,
    options: &LoadOptions,
    progress: OnProgress<'_>,
) -> Result<Vec<ImageDigest>, WorkError> {
    let source = given(source)?;
    let platform = options.platform.clone().unwrap_or_else(Platform::host).to_string();
    let helper = helper(store)?;
    run(helper.load(source, &platform, options.name.as_ref(), told(progress)))
}

/// Makes an image of a root directory, or of a tar of one.
pub fn import(
    store: &Store,
    source: ImageSource,
    name: &ImageReference,
    progress: OnProgress<'_>,
) -> Result<ImageDigest, WorkError> {
    let source = given(source)?;
    let helper = helper(store)?;
    let images = run(helper.import(source, name, told(progress)))?;
    images.first().copied().ok_or_else(|| WorkError::Invalid("no image came of it".to_owned()))
}

/// Writes images, each with the names by which it was asked for, as one archive.
pub fn save(
    store: &Store,
    images: &[(ImageDigest, Vec<ImageReference>)],
    format: ArchiveFormat,
    to: &mut dyn Write,
) -> Result<(), WorkError> {
    let helper = helper(store)?;
    let (mut archive, out) = io::pipe().map_err(WorkError::Write)?;
    let format = match format {
        ArchiveFormat::Docker => save::ArchiveFormat::Docker,
        ArchiveFormat::Oci => save::ArchiveFormat::Oci,
    };
    let images = images.to_vec();
    let writing = std::thread::Builder::new().name("image-export".to_owned());
    let writing = writing.spawn(move || run(helper.export(images, format, out.into())));
    let writing = writing.map_err(WorkError::Write)?;
    let copied = io::copy(&mut archive, to);
    // A writer whose reader has gone ends.
    drop(archive);
    let written = writing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    copied.map_err(WorkError::Write)?;
    written
}

/// The process that does it, confined.
pub(super) fn helper(store: &Store) -> Result<ImageHelper, WorkError> {
    ImageHelper::new(store.directory()).map_err(of_helper)
}

/// Waits for the process, on this thread, which has nothing else to do.
fn run<T>(work: impl Future<Output = Result<T, ImageHelperError>>) -> Result<T, WorkError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(WorkError::Write)?;
    runtime.block_on(work).map_err(of_helper)
}

pub(super) fn of_helper(error: ImageHelperError) -> WorkError {
    match error {
        ImageHelperError::Failed(words) => WorkError::Invalid(words),
        ImageHelperError::Source { path, source } => WorkError::Read { path, source },
        other => WorkError::Process(other),
    }
}

/// A path that is not there is the first thing that is said.
fn given(source: ImageSource) -> Result<helper::ImageSource, WorkError> {
    match source {
        ImageSource::Path(path) => match std::fs::metadata(&path) {
            Ok(_) => Ok(helper::ImageSource::Path(path)),
            Err(source) => Err(WorkError::Read { path, source }),
        },
        ImageSource::File(file) => Ok(helper::ImageSource::Stream(file.into())),
    }
}

/// What the process says, as clients are told it.
fn told(progress: OnProgress<'_>) -> impl FnMut(Progress) + '_ {
    let mut sizes = BTreeMap::new();
    move |event| {
        let layer = |diff_id: &ImageDigest, what: &str| format!("{what} layer {}", diff_id.short());
        let (what, done_bytes, total) = match event {
            Progress::LayerStarted { diff_id, bytes } => {
                sizes.insert(diff_id, bytes);
                (layer(&diff_id, "unpacking"), 0, bytes)
            }
            Progress::LayerRead { diff_id, bytes } => {
                (layer(&diff_id, "unpacking"), bytes, sizes.get(&diff_id).copied().unwrap_or(0))
            }
            Progress::LayerReady { diff_id, was_there: true } => (layer(&diff_id, "there already:"), 0, 0),
            Progress::LayerReady { diff_id, was_there: false } => {
                let bytes = sizes.remove(&diff_id).unwrap_or(0);
                (layer(&diff_id, "unpacked"), bytes, bytes)
            }
            Progress::ImageReady { digest, .. } => (format!("image {}", digest.short()), 0, 0),
        };
        progress(ImageProgress { what, done_bytes, total_bytes: Some(total).filter(|total| *total > 0) });
    }
}
