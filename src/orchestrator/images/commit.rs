//! An image of a sandbox: what was written to its root becomes a layer over those of the image that it runs.
//!
//! ```text
//!   guest, or a helper's ─ tar of what was written ─▶ file without a name ─whole?─▶ layer ─▶ configuration ─▶ image, named
//!                                                                  └ no: nothing was changed
//! ```

use std::fs::File;
use std::sync::Arc;

use sandpen_actors::host::room::NoRoom;
use sandpen_api::ImageProgress;
use sandpen_drivers::image_helper::ComposedImage;
use sandpen_images::config::ConfigError;
use sandpen_images::derive::derive;
use sandpen_images::store::StoreError;
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::image_changes::ImageChanges;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::session::SessionEnd;
use sandpen_types::spec::SandboxKey;
use sandpen_types::state::ExitStatus;
use sandpen_vmm::blocking::blocking;
use tokio::io::{AsyncSeekExt as _, AsyncWriteExt as _};

use super::Images;
use super::work::{WorkError, helper, of_helper, on_own_thread, told};
use crate::orchestrator::error::SandpenError;
use crate::orchestrator::session::{Session, SessionOutput};

/// Most bytes of what the guest says is wrong.
const SAID_MAX: usize = 4 << 10;
/// After so many bytes it is looked whether the disk takes more: a guest may send without end.
const LOOK_BYTES: u64 = 16 << 20;

/// What is to become an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitRequest {
    /// The sandbox, which runs or has ended.
    pub sandbox: SandboxKey,
    /// The image's name.
    pub name: ImageReference,
    /// What it says in the place of the image that the sandbox runs.
    pub changes: ImageChanges,
}

/// Why there is no such image; nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Its root is no image's.
    #[error(
        "sandbox {0} runs no image, so there are no layers below what it wrote; make an image of its root directory with \
         `sandpen image import`, and run that"
    )]
    NoImage(SandboxKey),
    /// Nothing can be written to its root.
    #[error("sandbox {0} has a root that nothing can be written to, so there is nothing to commit")]
    ReadOnly(SandboxKey),
    /// The guest did not pack it.
    #[error("packing what sandbox {sandbox} wrote: {said}")]
    Guest {
        /// The sandbox.
        sandbox: SandboxKey,
        /// In the guest's words.
        said: String,
    },
    /// The store's disk is nearly full.
    #[error(transparent)]
    Room(#[from] NoRoom),
    /// A configuration that is of no use.
    #[error("the image's configuration")]
    Config(#[from] ConfigError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Unpacking it.
    #[error(transparent)]
    Work(#[from] WorkError),
}

/// Takes what a session packs into a file, from its beginning; whole, or an error.
pub async fn spool(
    images: &Arc<Images>,
    sandbox: &SandboxKey,
    mut session: Session,
    file: File,
) -> Result<File, SandpenError> {
    let (mut said, mut until_look) = (Vec::new(), 0);
    let system = |error| SandpenError::from(CommitError::Work(WorkError::System(error)));
    let mut file = tokio::fs::File::from_std(file);
    while let Some(SessionOutput { stream, bytes, .. }) = session.next().await? {
        if stream == OutputStream::Stderr {
            said.extend_from_slice(&bytes[..bytes.len().min(SAID_MAX - said.len())]);
            continue;
        }
        if until_look == 0 {
            let images = images.clone();
            let looked = blocking(move || images.check_room()).await;
            looked.map_err(|_| SandpenError::Gone)?.map_err(CommitError::from)?;
            until_look = LOOK_BYTES;
        }
        until_look = until_look.saturating_sub(bytes.len() as u64);
        file.write_all(&bytes).await.map_err(system)?;
    }
    match session.wait().await? {
        SessionEnd::Exited(ExitStatus::Code(0)) => {}
        end => {
            let said = String::from_utf8_lossy(&said);
            let said = if said.trim().is_empty() { end.to_string() } else { said.trim().to_owned() };
            let said = said.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            return Err(CommitError::Guest { sandbox: sandbox.clone(), said }.into());
        }
    }
    file.flush().await.map_err(system)?;
    file.rewind().await.map_err(system)?;
    Ok(file.into_std().await)
}

/// Makes the image.
pub async fn commit(
    images: Images,
    base: ImageDigest,
    request: CommitRequest,
    tar: File,
    progress: impl FnMut(ImageProgress) + Send + 'static,
) -> Result<Vec<ImageDigest>, CommitError> {
    let work = async move || {
        let store = images.store()?;
        // Until the end, so that the layer does not go before its image is there.
        let held = store.draft()?;
        let helper = helper(&store)?;
        let mut told = told(progress);
        let layer = helper.add_changes(tar, &mut told).await.map_err(of_helper)?;
        let config = derive(&store.config(&base)?, &layer, &request.changes)?;
        let config = String::from_utf8_lossy(&config).into_owned();
        let image = ComposedImage { config, manifest: None, names: vec![request.name] };
        let composed = helper.compose(image, &mut told).await.map_err(of_helper)?;
        drop(held);
        Ok(composed)
    };
    on_own_thread("image-commit", work).await
}
