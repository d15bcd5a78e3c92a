//! The heavy work with images: unpacking archives, packing directories, writing archives. A confined process does it; what
//! is here waits for that, on a thread of its own ([`on_own_thread`]).

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use sandpen_api::{ImageProgress, ImageStep};
pub use sandpen_drivers::image_helper::ImageSource;
use sandpen_drivers::image_helper::{ImageHelper, ImageHelperError};
use sandpen_images::export::Named;
use sandpen_images::import::Progress;
use sandpen_images::platform::Platform;
pub use sandpen_images::save::ArchiveFormat;
use sandpen_images::store::{Store, StoreError};
use sandpen_types::image::{ImageDigest, ImageReference};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::Images;
use crate::orchestrator::error::SandpenError;

/// Bytes of a piece of an archive, as a pipe has them.
const PIECE_BYTES: usize = 64 << 10;

/// What is wanted of an archive.
#[derive(Debug, Clone, Default)]
pub struct LoadOptions {
    /// A name besides those that it says.
    pub name: Option<ImageReference>,
    /// Which of several; the host's where nothing is said.
    pub platform: Option<Platform>,
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
    /// A file, a pipe, a thread.
    #[error("what the work needs cannot be had")]
    System(#[source] io::Error),
    /// The thread that does it has ended; its panic message is on standard error.
    #[error("the thread that does it ended too early")]
    Ended,
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The process that does it.
    #[error(transparent)]
    Process(ImageHelperError),
}

/// Takes every image of an archive, or the ones of a platform, into the store.
pub async fn load(
    images: Images,
    source: ImageSource,
    options: LoadOptions,
    progress: impl FnMut(ImageProgress) + Send + 'static,
) -> Result<Vec<ImageDigest>, WorkError> {
    let LoadOptions { name, platform } = options;
    let platform = platform.unwrap_or_else(Platform::host).to_string();
    let work = async move || {
        let helper = helper(&images.store()?)?;
        helper.load(source, &platform, name.as_ref(), told(progress)).await.map_err(of_helper)
    };
    on_own_thread("image-load", work).await
}

/// Makes an image of a root directory, or of a tar of one.
pub async fn import(
    images: Images,
    source: ImageSource,
    name: ImageReference,
    progress: impl FnMut(ImageProgress) + Send + 'static,
) -> Result<Vec<ImageDigest>, WorkError> {
    let work = async move || {
        let helper = helper(&images.store()?)?;
        helper.import(source, &name, told(progress)).await.map_err(of_helper)
    };
    on_own_thread("image-import", work).await
}

/// Gives the pieces of an archive of images, each with the names by which it was asked for, to whoever reads them.
pub async fn save(
    store: &Store,
    images: Vec<Named>,
    format: ArchiveFormat,
    to: &mpsc::Sender<Result<Vec<u8>, SandpenError>>,
) -> Result<(), WorkError> {
    let helper = helper(store)?;
    let (archive, out) = io::pipe().map_err(WorkError::System)?;
    let archive = pipe::Receiver::from_owned_fd(archive.into()).map_err(WorkError::System)?;
    let copied = async move {
        let mut archive = archive;
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let length = archive.read_buf(&mut piece).await.map_err(WorkError::System)?;
            // A writer whose reader has gone ends.
            if length == 0 || to.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let written = async { helper.export(images, format, out.into()).await.map_err(of_helper) };
    tokio::try_join!(written, copied).map(drop)
}

/// Runs work that takes as long as it takes, and looks at the disk in between, on a thread of its own with a runtime of its
/// own: so no amount of it keeps what is short waiting. Dropping the answer ends it.
pub async fn on_own_thread<T, E>(name: &str, work: impl AsyncFnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<WorkError> + Send + 'static,
{
    let (mut answer, done) = oneshot::channel();
    let run = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let ended = match runtime {
            Ok(runtime) => runtime.block_on(async {
                tokio::select! {
                    ended = work() => ended,
                    () = answer.closed() => Err(WorkError::Ended.into()),
                }
            }),
            Err(error) => Err(WorkError::System(error).into()),
        };
        let _ = answer.send(ended); // nobody waits for it
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(run).map_err(WorkError::System)?;
    done.await.map_err(|_| WorkError::Ended)?
}

/// The process that does it, confined.
pub(super) fn helper(store: &Store) -> Result<ImageHelper, WorkError> {
    ImageHelper::new(store.directory()).map_err(of_helper)
}

/// Its error, as one of the work.
pub(super) fn of_helper(error: ImageHelperError) -> WorkError {
    match error {
        ImageHelperError::Failed(words) => WorkError::Invalid(words),
        ImageHelperError::Source { path, source } => WorkError::Read { path, source },
        other => WorkError::Process(other),
    }
}

/// What the process says, as clients are told it.
pub(super) fn told(mut progress: impl FnMut(ImageProgress)) -> impl FnMut(Progress) {
    let mut sizes = BTreeMap::new();
    move |event| {
        let (step, digest, done_bytes, total) = match event {
            Progress::LayerStarted { diff_id, bytes } => {
                sizes.insert(diff_id, bytes);
                (ImageStep::LayerUnpacking, diff_id, 0, bytes)
            }
            Progress::LayerRead { diff_id, bytes } => {
                (ImageStep::LayerUnpacking, diff_id, bytes, sizes.get(&diff_id).copied().unwrap_or(0))
            }
            Progress::LayerReady { diff_id, was_there: true } => (ImageStep::LayerPresent, diff_id, 0, 0),
            Progress::LayerReady { diff_id, was_there: false } => {
                let bytes = sizes.remove(&diff_id).unwrap_or(0);
                (ImageStep::LayerDone, diff_id, bytes, bytes)
            }
            Progress::ImageReady { digest, .. } => (ImageStep::ImageDone, digest, 0, 0),
        };
        progress(ImageProgress { step, digest, done_bytes, total_bytes: known(total) });
    }
}

/// Zero bytes are none that anybody knows of.
pub(super) fn known(bytes: u64) -> Option<u64> {
    Some(bytes).filter(|bytes| *bytes > 0)
}
