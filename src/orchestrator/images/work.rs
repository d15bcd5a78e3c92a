//! The heavy work with images, behind three functions: unpacking archives, packing directories, writing archives.
//!
//! Whoever calls them is on a thread of its own for it. What a function is given of a client is a path or an open file,
//! what it answers is in the store by then.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;

use sandpen_api::ImageProgress;
use sandpen_images::platform::Platform;
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
}

/// Told how far the work is.
pub type OnProgress<'a> = &'a mut dyn FnMut(ImageProgress);

/// Takes every image of an archive, or the ones of a platform, into the store.
///
/// To be filled in with `sandpen_images::import::load`.
#[expect(clippy::needless_pass_by_value, reason = "its reader is consumed")]
pub fn load(
    _store: &Store,
    source: ImageSource,
    _options: &LoadOptions,
    _progress: OnProgress<'_>,
) -> Result<Vec<ImageDigest>, WorkError> {
    check_is_there(&source)?;
    Err(WorkError::Invalid("this version cannot load archives yet".to_owned()))
}

/// Makes an image of a root directory, or of a tar of one.
///
/// To be filled in with `sandpen_images::import::{import_dir, import_tar}`.
#[expect(clippy::needless_pass_by_value, reason = "its reader is consumed")]
pub fn import(
    _store: &Store,
    source: ImageSource,
    _name: &ImageReference,
    _progress: OnProgress<'_>,
) -> Result<ImageDigest, WorkError> {
    check_is_there(&source)?;
    Err(WorkError::Invalid("this version cannot import root directories yet".to_owned()))
}

/// Writes images, each with the names by which it was asked for, as one archive.
///
/// To be filled in with `sandpen_images::save`.
pub fn save(
    _store: &Store,
    _images: &[(ImageDigest, Vec<ImageReference>)],
    _format: ArchiveFormat,
    _to: &mut dyn Write,
) -> Result<(), WorkError> {
    Err(WorkError::Invalid("this version cannot save images yet".to_owned()))
}

/// A path that is not there is the first thing that is said.
fn check_is_there(source: &ImageSource) -> Result<(), WorkError> {
    match source {
        ImageSource::Path(path) => match std::fs::metadata(path) {
            Ok(_) => Ok(()),
            Err(source) => Err(WorkError::Read { path: path.clone(), source }),
        },
        ImageSource::File(_) => Ok(()),
    }
}
