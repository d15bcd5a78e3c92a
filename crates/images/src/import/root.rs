//! Root directories, and tars of them: images of one layer, with a configuration that says nothing but the platform. The
//! same files always make the same image.

use std::io::{self, PipeWriter, Read};
use std::path::Path;
use std::thread;

use rustix::fd::OwnedFd;
use sandpen_types::image::{ImageDigest, ImageReference};
use serde_json::json;

use super::image::compose;
use super::layer::add_root;
use super::{ImportError, Tell};
use crate::layer::tar_writer::TarWriter;
use crate::platform::Platform;
use crate::store::{Store, check_tag};
use crate::walk::{self, Owners, WalkError};

/// Makes an image of a root directory; what is mounted in it is left out, and sockets are, which no archive has. `shown` is
/// its path for people.
///
/// # Errors
/// [`ImportError`].
pub fn import_directory(
    store: &Store,
    root: &OwnedFd,
    shown: &Path,
    name: &ImageReference,
    tell: Tell<'_>,
) -> Result<ImageDigest, ImportError> {
    check_tag(name)?;
    // Until the end, so that the layer does not go before its image is there.
    let held = store.draft()?;
    let (reader, writer) = io::pipe().map_err(ImportError::Read)?;
    let diff_id = thread::scope(|scope| {
        let walked = thread::Builder::new().name("walk".to_owned());
        let walked = walked.spawn_scoped(scope, move || write_tar(root, shown, writer)).map_err(ImportError::Thread)?;
        let unpacked = add_root(store, reader, tell);
        match (walked.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), unpacked) {
            // The walk that could not hand on what it found: the other side has the reason.
            (Err(WalkError::Take { .. }), Err(error)) => Err(error),
            (Err(error), _) => Err(error.into()),
            (Ok(()), unpacked) => unpacked,
        }
    })?;
    let digest = compose_root(store, diff_id, name, tell);
    drop(held);
    digest
}

fn write_tar(root: &OwnedFd, shown: &Path, out: PipeWriter) -> Result<(), WalkError> {
    let mut writer = TarWriter::new(out);
    walk::walk(root, shown, Owners::of_this_user(), true, &mut writer)?;
    let ended = writer.finish();
    ended.map(drop).map_err(|source| WalkError::Take { path: shown.to_owned(), source })
}

/// Makes an image of the tar of a root directory, packed or not.
///
/// # Errors
/// [`ImportError`].
pub fn import_tar(
    store: &Store,
    tar: impl Read + Send,
    name: &ImageReference,
    tell: Tell<'_>,
) -> Result<ImageDigest, ImportError> {
    check_tag(name)?;
    // Until the end, so that the layer does not go before its image is there.
    let held = store.draft()?;
    let diff_id = add_root(store, tar, tell)?;
    let digest = compose_root(store, diff_id, name, tell);
    drop(held);
    digest
}

/// The image of one layer.
fn compose_root(
    store: &Store,
    diff_id: ImageDigest,
    name: &ImageReference,
    tell: Tell<'_>,
) -> Result<ImageDigest, ImportError> {
    let platform = Platform::host();
    let config = json!({
        "architecture": platform.architecture(),
        "config": {},
        "os": platform.os(),
        "rootfs": { "type": "layers", "diff_ids": [diff_id] },
    });
    compose(store, config.to_string().as_bytes(), None, std::slice::from_ref(name), tell)
}
