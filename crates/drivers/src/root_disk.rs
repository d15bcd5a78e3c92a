//! Root disks: an EROFS file system in a file (an image, as users call it) with what is in a root directory, made once
//! for each content and shared read-only by every microVM over it.
//!
//! ```text
//!   directory ─▶ fingerprint (names, sizes, times, owners …) ─▶ cache/images/root-FINGERPRINT.img
//!                                  there is none: written ─▶ draft ─▶ looked at again ─▶ named
//! ```
//!
//! Every start looks at its directory itself: what was looked at before it was asked for may have changed since.
//! Starts that find the same content, and no disk of it, wait for one that is made.
//!
//! A change in the directory changes its fingerprint, so the next start makes another disk. Every disk
//! has a size of whole [`SIZE_STEP`]s, most of it a hole: so machines are alike that differ in their root
//! alone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandpen_cache::{CacheUser, Draft};
use tokio_util::sync::CancellationToken;

use self::survey::{DEPTH_MAX, Survey};
use super::confine::SharedTree;
use super::disk_maker::{DirectoryError, DiskMaker};
use super::shares::ShareError;
use super::work::{Lane, Outcome, Piece, Stop, WorkError};

mod survey;

/// The size of a disk is a whole number of these: 64 GiB, which cost nothing.
pub(super) const SIZE_STEP: u64 = 64 << 30;
/// How often a disk is begun anew because its directory changed meanwhile.
const TRIES: u32 = 3;
const SUFFIX: &str = ".img";

/// How long it may take to look at everything in a directory: millions of files, on a slow disk.
const SURVEY_LIMIT: Duration = Duration::from_mins(10);
/// How long it may take to make a disk, and the bytes for each of which it may take a second more.
const MAKING_LIMIT: Duration = Duration::from_mins(2);
const BYTES_A_SECOND: u64 = 16 << 20;
const ADVICE: &str = "use --root virtiofs, or try again when the disk is less busy";

/// Looks at directories. They need a processor, mostly, and no start waits long for one.
static SURVEYS: Lane<(Survey, bool), RootDiskError> = Lane::new(4);
/// Disks in the making; whether the directory has stayed the same. They need the disk, mostly.
static MAKING: Lane<bool, RootDiskError> = Lane::new(4);

/// Why there is no disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum RootDiskError {
    /// Something in the directory cannot be read.
    #[error("cannot read {path:?} for an image of the root directory; use --root virtiofs, or make it readable")]
    Read {
        /// What.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Its path leads elsewhere now.
    #[error(transparent)]
    Directory(ShareError),
    /// Its files make no disk.
    #[error("making an image of {directory:?}; use --root virtiofs if it cannot be helped")]
    Write {
        /// The directory.
        directory: PathBuf,
        /// The cause.
        #[source]
        source: DirectoryError,
    },
    /// The directory changes all the time.
    #[error("the root directory {0:?} changes while its image is made; use --root virtiofs, or wait until it is still")]
    Changing(PathBuf),
    /// More levels than are walked.
    #[error("{0:?} lies more than {DEPTH_MAX} directories deep; use --root virtiofs")]
    TooDeep(PathBuf),
    /// The disk cannot be written.
    #[error("{action} the root image {path:?}; is there room, and is the directory yours?")]
    File {
        /// What was being done.
        action: &'static str,
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> RootDiskError + 'a {
    move |source| RootDiskError::File { action, path: path.to_owned(), source }
}

/// The disk of `directory`, made where `cache` has none of this content. Takes as long as it takes to read the
/// directory's metadata, and to copy it where it is new; until `cancel` is cancelled.
///
/// # Errors
/// [`RootDiskError`], and those of work.
pub(super) async fn ensure(
    user: &Arc<CacheUser>,
    maker: &Arc<DiskMaker>,
    directory: &Path,
    cancel: &CancellationToken,
) -> Outcome<PathBuf, RootDiskError> {
    let images = images_of(user);
    for _ in 0..TRIES {
        let (survey, is_there) = look(user.clone(), directory, cancel).await?;
        let path = path_of(&images, &survey);
        if is_there || make(user.clone(), maker.clone(), directory.to_owned(), survey, cancel).await? {
            return Ok(path);
        }
    }
    Err(Arc::new(WorkError::Failed(RootDiskError::Changing(directory.to_owned()))))
}

fn images_of(user: &CacheUser) -> PathBuf {
    user.cache().directory().join("images")
}

fn path_of(images: &Path, survey: &Survey) -> PathBuf {
    images.join(format!("root-{}{SUFFIX}", survey.fingerprint))
}

/// What is in the directory now, and whether there is a disk of it.
async fn look(
    user: Arc<CacheUser>,
    directory: &Path,
    cancel: &CancellationToken,
) -> Outcome<(Survey, bool), RootDiskError> {
    // Never shared.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let piece = Piece {
        key: NUMBER.fetch_add(1, Ordering::Relaxed).to_string(),
        what: format!("looking at all files of the root directory {}", directory.display()),
        limit: SURVEY_LIMIT,
        advice: ADVICE,
    };
    let directory = directory.to_owned();
    let looked = move |stop: &Stop| {
        let images = images_of(&user);
        sandpen_cache::make_directory(&images).map_err(failed("making", &images))?;
        let survey = Survey::of(&directory, stop)?;
        let path = path_of(&images, &survey);
        user.uses(&path).map_err(failed("noting the use of", &path))?;
        Ok((survey, found(&path)?))
    };
    SURVEYS.on_thread(piece, cancel, looked).await
}

/// Makes the disk, unless the directory changes meanwhile.
async fn make(
    user: Arc<CacheUser>,
    maker: Arc<DiskMaker>,
    directory: PathBuf,
    survey: Survey,
    cancel: &CancellationToken,
) -> Outcome<bool, RootDiskError> {
    let images = images_of(&user);
    let path = path_of(&images, &survey);
    let piece = Piece {
        key: path.display().to_string(),
        what: format!("making an image of the root directory {}", directory.display()),
        limit: MAKING_LIMIT.saturating_add(Duration::from_secs(survey.disk_bytes() / BYTES_A_SECOND)),
        advice: ADVICE,
    };
    let made = move |stop: &Stop| {
        // It may have been made since the look at it.
        if found(&path)? {
            return Ok(true);
        }
        sandpen_cache::sweep(&images);
        let draft = fill(&maker, &images, &directory, stop)?;
        if Survey::of(&directory, stop)?.fingerprint != survey.fingerprint {
            return Ok(false);
        }
        draft.commit(&path).map_err(failed("writing", &path))?;
        user.cache().keep_within_budget();
        Ok(true)
    };
    MAKING.on_thread(piece, cancel, made).await
}

/// Whether the disk is there; then it was used now.
fn found(path: &Path) -> Result<bool, RootDiskError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() && meta.len() > 0 && meta.len() % SIZE_STEP == 0 => {
            sandpen_cache::mark_used(path);
            Ok(true)
        }
        Ok(_) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking at", path)(error)),
    }
}

/// A draft with what is in the directory.
fn fill(maker: &DiskMaker, images: &Path, directory: &Path, stop: &Stop) -> Result<Draft, RootDiskError> {
    // For the own users of all sandboxes that have it, to read.
    let draft = Draft::with_mode(images, 0o644).map_err(failed("making", images))?;
    let disk = draft.path();
    let scratch = Draft::create(images).map_err(failed("making", images))?;
    let tree = SharedTree { directory: directory.to_owned(), is_file: false, read_only: true, identity: None };
    let (to, beside) = ((draft.file(), disk), (scratch.file(), scratch.path()));
    let made = maker.of_directory(tree, to, beside, stop);
    made.map_err(|source| RootDiskError::Write { directory: directory.to_owned(), source })?;
    let bytes = draft.file().metadata().map_err(failed("looking at", disk))?.len();
    draft.file().set_len(bytes.next_multiple_of(SIZE_STEP)).map_err(failed("making", disk))?;
    Ok(draft)
}

#[cfg(test)]
mod tests;
