//! An image that `run` is to run is in the store before it is asked for.

use sandpen::api::ErrorCode;
use sandpen::client::Client;
use sandpen_types::image::ImageReference;
use sandpen_types::spec::{Rootfs, SandboxSpec};

use crate::cli::CliError;
use crate::cli::image::pull::pull;

/// When it is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum PullPolicy {
    /// Where it is not in the store
    #[default]
    Missing,
    /// Each time, for what its name means now; what is there of it is not fetched again
    Always,
    /// It is in the store, or nothing runs
    Never,
}

impl PullPolicy {
    /// Has the image of a specification in the store, as `given` names it.
    pub async fn bring(self, client: &Client, given: &str, spec: &mut SandboxSpec) -> Result<(), CliError> {
        let Rootfs::Image(root) = &mut spec.rootfs else { return Ok(()) };
        let found = match self {
            Self::Never => return Ok(()),
            Self::Always => None,
            Self::Missing => find(client, given, &root.reference).await?,
        };
        let digest = match found {
            Some(Found::Named) => return Ok(()),
            Some(Found::Unnamed(id)) => Some(id),
            None => pull(client, &root.reference).await?.first().map(|image| image.digest.hex()),
        };
        // One that was asked for by a digest alone has no name, and by that of an index nobody here knows it.
        if root.reference.digest().is_some()
            && let Some(id) = digest.and_then(|hex| hex.get(..ID_LEN)?.parse().ok())
        {
            root.reference = id;
        }
        Ok(())
    }
}

/// So much of an image's id stands for it: all of it would be no name.
const ID_LEN: usize = 40;

/// In the store.
enum Found {
    /// By what it was asked for.
    Named,
    /// By its manifest alone: its id.
    Unnamed(String),
}

async fn find(client: &Client, given: &str, reference: &ImageReference) -> Result<Option<Found>, CliError> {
    match client.image(given).await {
        Ok(_) => return Ok(Some(Found::Named)),
        // The start says it better.
        Err(error) if error.code() == Some(ErrorCode::ImageAmbiguous) => return Ok(Some(Found::Named)),
        Err(error) if error.code() == Some(ErrorCode::ImageNotFound) => {}
        Err(error) => return Err(error.into()),
    }
    let Some(wanted) = reference.digest() else { return Ok(None) };
    let mut images = client.images().await?.into_iter();
    let found = images.find(|image| image.manifest_digest == Some(wanted) || image.digest == wanted);
    Ok(found.map(|image| Found::Unnamed(image.digest.hex())))
}
