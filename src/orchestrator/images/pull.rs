//! Images out of registries.
//!
//! ```text
//!   registry ─▶ manifest, configuration ─▶ layers that are not there, side by side ─▶ what joins them ─▶ the image
//!                                            blob ═ pipe ═▶ confined process ─▶ store
//! ```
//!
//! The registry is asked here; what it sends is read by [the confined process](sandpen_drivers::image_helper), which
//! checks it against the digests of manifest and configuration. Of a layer that another one has brought meanwhile, also
//! of another daemon's, nothing is fetched. A connection that breaks goes on where it was, and so does a layer that broke
//! off when it is asked for the next time, whoever asked for it before ([`fetch`](super::fetch)).

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use sandpen_api::{ImageProgress, ImageStep};
use sandpen_drivers::image_helper::ComposedImage;
use sandpen_images::import::NewLayer;
use sandpen_images::platform::Platform;
use sandpen_images::store::Store;
use sandpen_registry::{Blob, Credentials, Pulled, Registry, RegistryError};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::registry::MirrorPlace;

use super::Images;
use super::access::RegistryAccess;
use super::fetch::{Fetcher, Told, is_of_bytes};
use super::work::{self, WorkError};

/// Most layers that are fetched side by side.
const SIDE_BY_SIDE: usize = 4;

/// What is wanted of a registry. Its debug output shows no secret.
#[derive(Debug, Clone)]
pub struct PullRequest {
    /// Which image. It gets this name, if that has a tag.
    pub reference: ImageReference,
    /// For which platform; the host's where nothing is said.
    pub platform: Option<Platform>,
    /// Who asks, and which way.
    pub access: RegistryAccess,
    /// Where to look first, in order.
    pub mirrors: Vec<PullMirror>,
}

/// A mirror of the registry.
#[derive(Debug, Clone)]
pub struct PullMirror {
    /// Where it is.
    pub place: MirrorPlace,
    /// Who asks it: the registry's own credentials are not for it.
    pub credentials: Option<Credentials>,
    /// Whether its certificate is not looked at, and plain HTTP is spoken if it has none.
    pub insecure: bool,
}

impl PullRequest {
    /// For the host's platform, by nobody in particular, without a proxy.
    pub fn new(reference: ImageReference) -> Self {
        Self { reference, platform: None, access: RegistryAccess::default(), mirrors: Vec::new() }
    }

    /// The client of the registry and its mirrors.
    fn registry(&self, certificates: Vec<PathBuf>) -> Result<Registry, RegistryError> {
        let name = self.reference.registry();
        let mut options = self.access.options(name, certificates);
        for PullMirror { place, credentials, insecure } in &self.mirrors {
            options.credentials.extend(credentials.clone().map(|credentials| (place.to_string(), credentials)));
            options.insecure.extend(insecure.then(|| place.to_string()));
        }
        let places = self.mirrors.iter().map(|mirror| mirror.place.to_string());
        options.mirrors.insert(name.to_owned(), places.collect());
        Registry::new(options)
    }

    /// The same of the registry alone.
    fn without_mirrors(&self) -> Self {
        Self { mirrors: Vec::new(), ..self.clone() }
    }
}

/// Why an image was not pulled.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Manifest and configuration do not agree.
    #[error("{image} has {layers} layers, and its configuration is of {diff_ids}; who made it has to make it again")]
    Layers {
        /// The image.
        image: String,
        /// In the manifest.
        layers: usize,
        /// In the configuration.
        diff_ids: usize,
    },
    /// A document that is none.
    #[error("the {what} of {image} is no text")]
    Text {
        /// The image.
        image: String,
        /// Which one.
        what: &'static str,
    },
    /// The store, or the process that unpacks.
    #[error(transparent)]
    Work(#[from] WorkError),
}

/// Pulls on a thread of its own: looking at the store blocks. Ends when the answer is dropped; layers that are whole by
/// then stay.
pub async fn pull(
    images: Images,
    request: PullRequest,
    progress: impl FnMut(ImageProgress) + Send + 'static,
) -> Result<Vec<ImageDigest>, PullError> {
    let work = async move || {
        let told = RefCell::new(progress);
        pull_here(&images.store().map_err(WorkError::Store)?, images.certificates(), &request, &told).await
    };
    work::on_own_thread("image-pull", work).await
}

async fn pull_here<F: FnMut(ImageProgress)>(
    store: &Store,
    certificates: Vec<PathBuf>,
    request: &PullRequest,
    told: &Told<F>,
) -> Result<Vec<ImageDigest>, PullError> {
    let helper = work::helper(store)?;
    let registry = request.registry(certificates.clone())?;
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let pulled = registry.manifest(&request.reference, &platform).await?;
    let image = request.reference.to_string();
    let (layers, diff_ids) = (&pulled.manifest.layers, &pulled.config.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(PullError::Layers { image, layers: layers.len(), diff_ids: diff_ids.len() });
    }
    // Held until the end, so that no layer goes which is found to be there.
    let held = store.draft().map_err(WorkError::Store)?;
    let fetcher = Fetcher { store, registry: &registry, reference: &request.reference, helper: &helper, told };
    let of = layers.len();
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for (number, (diff_id, layer)) in (1..).zip(diff_ids.iter().zip(layers)) {
        if !seen.insert(*diff_id) {
            continue;
        }
        let blob = Blob::from(layer);
        if store.has_layer(diff_id).map_err(WorkError::Store)? {
            fetcher.tell(ImageStep::LayerPresent, *diff_id, 0, 0);
            fetcher.forget(blob);
        } else {
            fetcher.tell(ImageStep::LayerWaiting, *diff_id, 0, blob.size);
            missing.push((blob, *diff_id, number));
        }
    }
    let fetch = async |(blob, diff_id, number): (Blob, ImageDigest, usize)| {
        let layer = || NewLayer { diff_id, packed: Some(blob.digest), packed_bytes: blob.size, number, of };
        match fetcher.fetch(blob, layer()).await {
            // It came from a mirror, perhaps, which keeps something else under its name.
            Err(error) if is_of_bytes(&error) && !request.mirrors.is_empty() => {
                tracing::info!(error = error_chain(&error), layer = %diff_id, "a layer is asked for without mirrors");
                let direct = request.without_mirrors().registry(certificates.clone())?;
                Fetcher { registry: &direct, ..fetcher }.fetch(blob, layer()).await
            }
            fetched => fetched,
        }
    };
    stream::iter(missing.into_iter().map(fetch)).buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await?;
    let composed =
        helper.compose(composed(pulled, &image, request.reference.tagged())?, |_| {}).await.map_err(work::of_helper);
    drop(held);
    let composed = composed?;
    for image in &composed {
        fetcher.tell(ImageStep::ImageDone, *image, 0, 0);
    }
    Ok(composed)
}

fn composed(pulled: Pulled, image: &str, name: Option<ImageReference>) -> Result<ComposedImage, PullError> {
    let text = |bytes, what| String::from_utf8(bytes).map_err(|_| PullError::Text { image: image.to_owned(), what });
    let config = text(pulled.config_bytes, "configuration")?;
    let manifest = Some(text(pulled.bytes, "manifest")?);
    Ok(ComposedImage { config, manifest, names: name.into_iter().collect() })
}
