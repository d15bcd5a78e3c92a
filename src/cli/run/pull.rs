//! An image that `run` is to run is in the store before it is asked for.

use sandpen::api::ErrorCode;
use sandpen::client::Client;
use sandpen_types::default_registry::{DefaultRegistry, ImageCalled};
use sandpen_types::image::ImageReference;
use sandpen_types::spec::{Rootfs, SandboxSpec};

use super::root::name_of_id;
use crate::cli::CliError;
use crate::cli::image::pull::{Ways, pull};

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

/// Has images in the store.
pub struct Bringing<'a> {
    pub client: &'a Client,
    /// What names without a registry are of.
    pub names_of: &'a DefaultRegistry,
    pub ways: &'a Ways,
}

impl Bringing<'_> {
    /// Has the image of a specification in the store, as `given` names it.
    pub async fn bring(&self, when: PullPolicy, given: &str, spec: &mut SandboxSpec) -> Result<(), CliError> {
        let Rootfs::Image(root) = &mut spec.rootfs else { return Ok(()) };
        let (client, asked) = (self.client, self.names_of.spelled_out(given)?);
        if matches!(self.names_of.called(given), Ok(ImageCalled::Id(_))) {
            // No registry has it by that.
            root.reference = name_of_id(&client.image(&asked).await?.entry.digest.hex())?;
            return Ok(());
        }
        let found = match when {
            PullPolicy::Never => return Ok(()),
            PullPolicy::Always => None,
            PullPolicy::Missing => find(client, &asked, &root.reference).await?,
        };
        let digest = match found {
            Some(Found::Named) => return Ok(()),
            Some(Found::Unnamed(id)) => Some(id),
            None => pull(client, &root.reference, self.ways).await?.first().map(|image| image.digest.hex()),
        };
        // One that was asked for by a digest alone has no name, and by that of an index nobody here knows it.
        if root.reference.digest().is_some()
            && let Some(id) = digest.and_then(|hex| name_of_id(&hex).ok())
        {
            root.reference = id;
        }
        Ok(())
    }
}

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
    match client.image(&wanted.to_string()).await {
        Ok(image) => Ok(Some(Found::Unnamed(image.entry.digest.hex()))),
        Err(error) if error.code() == Some(ErrorCode::ImageNotFound) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
