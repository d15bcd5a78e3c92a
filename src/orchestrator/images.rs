//! The store of images of a data directory: what the orchestrator asks of it, and which sandboxes need what is in it.
//!
//! Everything in here blocks; [`Handle`](super::Handle) has it done on threads for that. The heavy work (unpacking,
//! packing) is behind three functions, [`work`].

mod access;
pub(super) mod commit;
mod fetch;
pub(super) mod pull;
pub(super) mod push;
mod usage;
mod users;
pub(super) mod work;

use std::path::{Path, PathBuf};

use sandpen_actors::host::room::{self, NoRoom};
use sandpen_drivers::cache::default_budget;
use sandpen_images::config::{ConfigError, ImageConfig};
use sandpen_images::resolve::{ResolveError, Resolved, resolve};
use sandpen_images::store::{Removed, Store, StoreError, StoredImage};
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::spec::{Rootfs, SandboxKey, SandboxSpec};
use sandpen_types::state_dir::StateDir;

use crate::paths;

pub(super) use users::{AskAgain, ImageUsers};

pub use access::RegistryAccess;
pub use commit::{CommitError, CommitRequest};
pub use pull::{PullError, PullMirror, PullRequest};
pub use push::{PushError, PushRequest, PushedImage};
pub use work::{ArchiveFormat, ImageSource, LoadOptions, WorkError};

/// Why something with an image was not done.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The store refused or failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An image's configuration is of no use.
    #[error("image {image} cannot be used")]
    Config {
        /// The image.
        image: String,
        /// What is wrong with it.
        #[source]
        source: ConfigError,
    },
    /// The image cannot be run as it was asked for.
    #[error(transparent)]
    Resolve(#[from] ResolveError),
    /// Pulling failed.
    #[error(transparent)]
    Pull(#[from] PullError),
    /// Pushing failed.
    #[error(transparent)]
    Push(#[from] PushError),
    /// Loading, importing or saving failed.
    #[error(transparent)]
    Work(#[from] WorkError),
}

/// An image of the store and who has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageInfo {
    /// The image.
    pub image: StoredImage,
    /// The sandboxes that have it, live ones and others.
    pub used_by: Vec<SandboxKey>,
}

/// The images of a data directory.
#[derive(Debug, Clone)]
pub(super) struct Images {
    directory: PathBuf,
    budget: Option<u64>,
    reserve: Option<u64>,
}

impl Images {
    /// Those of a data directory, with a budget of bytes, and so many that stay free on its disk.
    pub fn new(data_dir: &Path, budget: Option<u64>, reserve: Option<u64>) -> Self {
        Self { directory: data_dir.join(Store::DIRECTORY), budget, reserve }
    }

    /// Whether the store's disk takes more of what somebody else decides the size of. Blocks on the disk.
    pub fn check_room(&self) -> Result<(), NoRoom> {
        room::check(&self.directory, self.reserve)
    }

    /// Directories of certificates of registries.
    pub fn certificates(&self) -> Vec<PathBuf> {
        paths::certificates(self.directory.parent().unwrap_or(&self.directory))
    }

    /// The store, made where it is missing.
    pub fn store(&self) -> Result<Store, StoreError> {
        Store::open(&self.directory)
    }

    /// The store, if there is one.
    pub fn existing(&self) -> Option<Store> {
        if self.directory.is_dir() { self.store().ok() } else { None }
    }

    /// All images, the newest first.
    pub fn list(&self, users: &ImageUsers) -> Result<Vec<ImageInfo>, ImageError> {
        Ok(self.store()?.images()?.into_iter().map(|image| info(image, users)).collect())
    }

    /// The image that somebody means.
    pub fn find(&self, asked: &str, users: &ImageUsers) -> Result<ImageInfo, ImageError> {
        let store = self.store()?;
        let digest = store.find(asked)?;
        Ok(info(store.image(&digest)?, users))
    }

    /// Those of these digests, in their order.
    pub fn of(&self, digests: &[ImageDigest], users: &ImageUsers) -> Result<Vec<ImageInfo>, ImageError> {
        let store = self.store()?;
        digests.iter().map(|digest| Ok(info(store.image(digest)?, users))).collect()
    }

    pub fn tag(&self, asked: &str, name: &ImageReference, users: &ImageUsers) -> Result<ImageInfo, ImageError> {
        let store = self.store()?;
        let digest = store.find(asked)?;
        store.tag(&digest, name)?;
        Ok(info(store.image(&digest)?, users))
    }

    pub fn remove(
        &self,
        asked: &str,
        force: bool,
        users: &ImageUsers,
        again: &AskAgain,
    ) -> Result<Removed, ImageError> {
        Ok(self.store()?.remove(asked, force, &|digest| users.keep_now(digest, again))?)
    }

    pub fn prune(&self, all: bool, dry_run: bool, users: &ImageUsers, again: &AskAgain) -> Result<Removed, ImageError> {
        Ok(self.store()?.prune(all, dry_run, &|digest| users.keep_now(digest, again))?)
    }

    /// Removes what is beyond the budget, least recently used first, but for what has just come; says which.
    pub fn keep_within_budget(
        &self,
        came: &[ImageDigest],
        users: &ImageUsers,
        again: &AskAgain,
    ) -> Result<Removed, ImageError> {
        let store = self.store()?;
        let budget = self.budget.unwrap_or_else(|| default_budget(&StateDir::new(self.directory.clone())));
        let keep = |digest: &ImageDigest| match came.contains(digest) {
            true => Some("whoever has just brought it".to_owned()),
            false => users.keep_now(digest, again),
        };
        Ok(store.keep_within(budget, &keep)?)
    }

    /// Takes what the image of a specification says into it. The image is not removed until the second answer is dropped,
    /// which is to be when the sandbox is on record. Nothing is changed of a specification that is of no image, or whose
    /// image was looked at.
    pub fn resolve(&self, spec: SandboxSpec) -> Result<(SandboxSpec, Option<std::fs::File>), ImageError> {
        let Rootfs::Image(root) = &spec.rootfs else { return Ok((spec, None)) };
        let store = self.store()?;
        if let Some(digest) = root.digest {
            return Ok((spec, Some(store.lease(&digest)?)));
        }
        let digest = store.find_reference(&root.reference)?;
        let lease = store.lease(&digest)?;
        let image = root.reference.familiar();
        let config = ImageConfig::parse(&store.config(&digest)?);
        let config = config.map_err(|source| ImageError::Config { image: image.clone(), source })?;
        let Resolved { spec, left_out } = resolve(spec, &digest, &config)?;
        for sentence in left_out {
            tracing::info!(sandbox = %spec.key, image, "{sentence}");
        }
        Ok((spec, Some(lease)))
    }
}

fn info(image: StoredImage, users: &ImageUsers) -> ImageInfo {
    ImageInfo { used_by: users.of_image(&image.digest).to_vec(), image }
}
