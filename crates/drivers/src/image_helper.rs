//! The process that reads archives and root directories for the store of images, behind a hidden subcommand: whatever is
//! in them was made by somebody else, and whoever takes over their reader has the store and the one source, no other file,
//! no network, and no right of root's.
//!
//! ```text
//!   daemon ─▶ `sandpen __image --policy JSON --work JSON`     stdin: archive, layer    stdout: events, or bytes
//!               limits ─▶ [jail] ─▶ no_new_privs ─▶ capabilities dropped ─▶ Landlock ─▶ seccomp ─▶ work ─▶ exit 0
//! ```
//!
//! Each line of standard output is an [`ImageEvent`], the last one says how it ended; standard error is for people. It ends
//! when nobody reads its events any more: what it has put into the store by then stays.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::PathBuf;

use sandpen_images::directory_disk::{self, DirectoryDiskError};
use sandpen_images::export::{ExportError, Named, export};
use sandpen_images::import::{
    ImportError, LoadOptions, LoadSource, NewLayer, Progress, Tell, add_layer, add_root, compose, import_directory,
    import_tar, load,
};
use sandpen_images::pack::{PackError, pack};
use sandpen_images::platform::PlatformError;
use sandpen_images::save::ArchiveFormat;
use sandpen_images::store::{Store, StoreError};
use sandpen_images::walk::Owners;
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::{ImageDigest, ImageReference};
use serde::{Deserialize, Serialize};

use super::confine::{self, ConfineError, FIRST_INHERITED, POLICY, Policy, descriptor_path};

mod client;

pub use client::{ComposedImage, ImageHelper, ImageHelperError, ImageSource};

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "__image";
/// Its option for what it is to do, as JSON.
const WORK: &str = "--work";
/// Its role, for its policy.
pub(super) const ROLE: &str = "image";

/// What the process is to do. Its store is the first of its policy's shares, a directory that it reads the second.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum ImageWork {
    /// Reads an archive of images: standard input, or a directory.
    Load { platform: String, name: Option<ImageReference>, directory: bool },
    /// Makes an image of a root directory (this one, for people), or of the tar of one on standard input.
    Import { name: ImageReference, directory: Option<PathBuf> },
    /// Unpacks a layer, packed or not, from standard input, which has to be what is said here. It is not read where the
    /// layer is there already, and not before [`Progress::LayerStarted`] was said.
    Layer(NewLayer),
    /// Unpacks a layer that nobody knows the digest of, a tar on standard input; that is all that is answered.
    Changes,
    /// Makes an image of layers that are there, and of [`Documents`] on standard input.
    Compose { names: Vec<ImageReference> },
    /// Writes an archive to standard output.
    Export { images: Vec<Named>, oci: bool },
    /// Packs the layer that is the only share, whose tar has so many bytes, to standard output.
    Pack { diff_id: ImageDigest, tar_bytes: u64 },
    /// Makes a disk of the only share, a root directory: into the first file that it gets open, with the second one for
    /// what it has to remember meanwhile.
    DirectoryDisk { shown: PathBuf, owners: Owners },
}

/// What joins layers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Documents {
    /// The configuration, as it came.
    config: String,
    /// The manifest, as it came.
    manifest: Option<String>,
}

/// Most bytes of [`Documents`]: two of them, each byte written as an escape.
const DOCUMENTS_MAX: u64 = 12 * sandpen_images::json::DOCUMENT_MAX + 1024;

/// What the process says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum ImageEvent {
    /// How far it is.
    Progress(Progress),
    /// It is done, or not.
    End(ImageEnd),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum ImageEnd {
    /// These are in the store.
    Done { images: Vec<ImageDigest> },
    /// In words, and whether it is for want of room on the disk.
    Failed { error: String, no_room: bool },
}

/// Why the process did not do it.
#[derive(Debug, thiserror::Error)]
enum ImageWorkError {
    #[error("usage: {SUBCOMMAND} {POLICY} JSON {WORK} JSON, which only sandpen itself calls")]
    Usage,
    #[error("confining the process")]
    Confine(#[from] ConfineError),
    #[error(transparent)]
    Platform(#[from] PlatformError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Export(#[from] ExportError),
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Disk(#[from] DirectoryDiskError),
    #[error("opening {what}")]
    Open {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("reading the documents of the image")]
    Documents(#[source] io::Error),
    #[error("saying how far it is")]
    Say(#[source] io::Error),
}

/// Runs the subcommand to its end and answers its exit code: `arguments` are those after its name. Must be called while
/// the process has one thread.
pub(super) fn run(arguments: impl Iterator<Item = OsString>) -> i32 {
    match work(arguments) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("image: {}", error_chain(&error));
            1
        }
    }
}

fn arguments_of(mut arguments: impl Iterator<Item = OsString>) -> Option<(Policy, ImageWork)> {
    let (mut policy, mut work) = (None, None);
    while let Some(option) = arguments.next() {
        let json = arguments.next()?;
        match option.to_str()? {
            POLICY => policy = Some(serde_json::from_str(json.to_str()?).ok()?),
            WORK => work = Some(serde_json::from_str(json.to_str()?).ok()?),
            _ => return None,
        }
    }
    Some((policy?, work?))
}

fn work(arguments: impl Iterator<Item = OsString>) -> Result<(), ImageWorkError> {
    let (policy, work) = arguments_of(arguments).ok_or(ImageWorkError::Usage)?;
    let begun = confine::begin(&policy)?;
    confine::enforce(&policy, begun)?;
    let shares: Vec<_> = policy.share_paths().collect();
    match work {
        ImageWork::DirectoryDisk { shown, owners } => {
            let root = open_directory(shares.first())?;
            #[cfg(feature = "testing")]
            wait_for_a_test(&shares[0]);
            let open = |number: i32| {
                let path = descriptor_path(FIRST_INHERITED + number);
                let opened = File::options().read(true).write(true).open(path);
                opened.map_err(|source| ImageWorkError::Open { what: "the disk", source })
            };
            directory_disk::write(root, &shown, owners, &open(0)?, open(1)?)?;
            Ok(())
        }
        ImageWork::Export { images, oci } => {
            let format = if oci { ArchiveFormat::Oci } else { ArchiveFormat::Docker };
            Ok(export(&store(&shares)?, &images, format, output()?)?)
        }
        ImageWork::Pack { diff_id, tar_bytes } => {
            Ok(pack(shares.first().ok_or(ImageWorkError::Usage)?, diff_id, tar_bytes, output()?)?)
        }
        ImageWork::Load { .. }
        | ImageWork::Import { .. }
        | ImageWork::Layer(_)
        | ImageWork::Changes
        | ImageWork::Compose { .. } => {
            let done = bring(&work, &shares);
            let end = match done {
                Ok(images) => ImageEnd::Done { images },
                Err(ImageWorkError::Say(source)) => return Err(ImageWorkError::Say(source)),
                Err(error) => ImageEnd::Failed { error: error_chain(&error), no_room: is_for_want_of_room(&error) },
            };
            say(&ImageEvent::End(end)).map_err(ImageWorkError::Say)
        }
    }
}

/// Standard output, for bytes.
fn output() -> Result<io::BufWriter<File>, ImageWorkError> {
    let out = io::stdout().as_fd().try_clone_to_owned();
    let out = out.map_err(|source| ImageWorkError::Open { what: "standard output", source })?;
    Ok(io::BufWriter::with_capacity(1 << 18, File::from(out)))
}

/// What holds up whoever makes a disk of a root directory, for as long as it is in there: a test wants to see it at work.
#[cfg(feature = "testing")]
pub const HELD_BY_A_TEST: &str = ".held-by-a-test";

#[cfg(feature = "testing")]
fn wait_for_a_test(root: &std::path::Path) {
    while root.join(HELD_BY_A_TEST).exists() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

/// Whether the disk is full, or the user's part of it.
fn is_for_want_of_room(error: &ImageWorkError) -> bool {
    let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut systems = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    systems.any(|error| matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
}

/// Puts images into the store.
fn bring(work: &ImageWork, shares: &[PathBuf]) -> Result<Vec<ImageDigest>, ImageWorkError> {
    let store = store(shares)?;
    let progress: Tell<'_> = &|progress| {
        if say(&ImageEvent::Progress(progress)).is_err() {
            // Nobody wants it any more. What is whole by now stays, and the next process removes the rest.
            std::process::exit(1);
        }
    };
    let input = || io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let opened = || input().map_err(|source| ImageWorkError::Open { what: "the archive", source });
    match work {
        ImageWork::Load { platform, name, directory } => {
            let source = match directory {
                true => LoadSource::Directory(open_directory(shares.get(1))?),
                false => LoadSource::File(opened()?),
            };
            let options = LoadOptions { platform: platform.parse()?, name: name.clone() };
            Ok(load(&store, source, &options, progress)?)
        }
        ImageWork::Import { name, directory: Some(shown) } => {
            let root = open_directory(shares.get(1))?;
            Ok(vec![import_directory(&store, &root, shown, name, progress)?])
        }
        ImageWork::Import { name, directory: None } => Ok(vec![import_tar(&store, opened()?, name, progress)?]),
        ImageWork::Layer(layer) => {
            add_layer(&store, layer, || input().map_err(ImportError::Read), progress)?;
            Ok(Vec::new())
        }
        ImageWork::Changes => Ok(vec![add_root(&store, opened()?, progress)?]),
        ImageWork::Compose { names } => {
            let mut text = Vec::new();
            opened()?.take(DOCUMENTS_MAX).read_to_end(&mut text).map_err(ImageWorkError::Documents)?;
            let read = serde_json::from_slice(&text);
            let Documents { config, manifest } = read.map_err(|error| ImageWorkError::Documents(error.into()))?;
            let manifest = manifest.as_deref().map(str::as_bytes);
            Ok(vec![compose(&store, config.as_bytes(), manifest, names, progress)?])
        }
        ImageWork::Export { .. } | ImageWork::Pack { .. } | ImageWork::DirectoryDisk { .. } => {
            Err(ImageWorkError::Usage)
        }
    }
}

fn say(event: &ImageEvent) -> io::Result<()> {
    let mut line = serde_json::to_vec(event)?;
    line.push(b'\n');
    let mut out = io::stdout().lock();
    out.write_all(&line)?;
    out.flush()
}

fn store(shares: &[PathBuf]) -> Result<Store, ImageWorkError> {
    Ok(Store::open(shares.first().ok_or(ImageWorkError::Usage)?)?)
}

fn open_directory(path: Option<&PathBuf>) -> Result<OwnedFd, ImageWorkError> {
    let path = path.ok_or(ImageWorkError::Usage)?;
    let opened = fs::File::open(path).map_err(|source| ImageWorkError::Open { what: "the directory", source });
    opened.map(OwnedFd::from)
}

/// What the process may do, without its jail: the directories that it has, and whether each is only read.
pub(super) fn policy(trees: impl IntoIterator<Item = (PathBuf, bool)>) -> Policy {
    let mut policy = Policy::new(ROLE);
    policy.system_calls = confine::SystemCalls::FileWriter;
    policy.cgroup = Err("it belongs to no sandbox".to_owned());
    let trees = trees.into_iter();
    policy.shares = trees
        .map(|(directory, read_only)| confine::SharedTree { directory, is_file: false, read_only, identity: None })
        .collect();
    policy
}

/// What the process may do that makes a disk of this root directory, for tests.
#[cfg(feature = "testing")]
pub fn policy_of_root(root: &std::path::Path) -> Policy {
    policy([(root.to_owned(), true)])
}

/// What the process may do with this store, for tests.
#[cfg(feature = "testing")]
pub fn policy_of_store(store: &std::path::Path) -> Policy {
    policy([(store.to_owned(), false)])
}

/// The arguments of the process.
pub(super) fn arguments(policy: &Policy, work: &ImageWork) -> io::Result<Vec<OsString>> {
    let (policy, work) = (serde_json::to_string(policy)?, serde_json::to_string(work)?);
    Ok([SUBCOMMAND, POLICY, &policy, WORK, &work].map(OsString::from).into())
}
