//! Images out of registries.
//!
//! ```text
//!   registry ─▶ manifest, configuration ─▶ layers that are not there, side by side ─▶ what joins them ─▶ the image
//!                                            blob ═ pipe ═▶ confined process ─▶ store
//! ```
//!
//! The registry is asked here; what it sends is read by [the confined process](sandpen_drivers::image_helper), which
//! checks it against the digests of manifest and configuration. Of a layer that another one has brought meanwhile, also
//! of another daemon's, nothing is fetched. A layer that broke off is fetched from its beginning the next time; within
//! one pull a connection that breaks goes on where it was.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use sandpen_api::{ImageProgress, ImageStep};
use sandpen_drivers::image_helper::{ComposedImage, ImageHelper};
use sandpen_images::import::{NewLayer, Progress};
use sandpen_images::platform::Platform;
use sandpen_images::store::Store;
use sandpen_registry::{Blob, Credentials, Pulled, Registry, RegistryError};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::registry::MirrorPlace;
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::Images;
use super::access::RegistryAccess;
use super::work::{self, WorkError};

/// Most layers that are fetched side by side.
const SIDE_BY_SIDE: usize = 4;
/// How many bytes of a layer come between two words about it.
const PROGRESS_STEP: u64 = 256 << 10;

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

    /// The name that the image gets.
    fn name(&self) -> Option<ImageReference> {
        let reference = &self.reference;
        let name = format!("{}/{}:{}", reference.registry(), reference.repository(), reference.tag()?);
        name.parse().ok()
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

    /// The same without the mirrors, if there are any.
    fn without_mirrors(&self, certificates: Vec<PathBuf>) -> Result<Option<Registry>, RegistryError> {
        if self.mirrors.is_empty() {
            return Ok(None);
        }
        Self { mirrors: Vec::new(), ..self.clone() }.registry(certificates).map(Some)
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

/// Who is told how far it is, by several layers in turn.
type Told<F> = RefCell<F>;

async fn pull_here<F: FnMut(ImageProgress)>(
    store: &Store,
    certificates: Vec<PathBuf>,
    request: &PullRequest,
    told: &Told<F>,
) -> Result<Vec<ImageDigest>, PullError> {
    let helper = work::helper(store)?;
    let (registry, direct) = (request.registry(certificates.clone())?, request.without_mirrors(certificates)?);
    let platform = request.platform.clone().unwrap_or_else(Platform::host);
    let pulled = registry.manifest(&request.reference, &platform).await?;
    let image = request.reference.to_string();
    let (layers, diff_ids) = (&pulled.manifest.layers, &pulled.config.diff_ids);
    if layers.len() != diff_ids.len() {
        return Err(PullError::Layers { image, layers: layers.len(), diff_ids: diff_ids.len() });
    }
    // Held until the end, so that no layer goes which is found to be there.
    let held = store.draft().map_err(WorkError::Store)?;
    let of = layers.len();
    let mut seen = BTreeSet::new();
    let mut missing = Vec::new();
    for (number, (diff_id, layer)) in (1..).zip(diff_ids.iter().zip(layers)) {
        if !seen.insert(*diff_id) {
            continue;
        }
        if store.has_layer(diff_id).map_err(WorkError::Store)? {
            tell(told, ImageStep::LayerPresent, *diff_id, 0, 0);
        } else {
            let blob = Blob::from(layer);
            tell(told, ImageStep::LayerWaiting, *diff_id, 0, blob.size);
            missing.push((blob, *diff_id, number));
        }
    }
    let fetch = async |(blob, diff_id, number): (Blob, ImageDigest, usize)| {
        let layer = || NewLayer { diff_id, packed: Some(blob.digest), packed_bytes: blob.size, number, of };
        let fetched = fetch(&registry, &request.reference, &helper, blob, layer(), told).await;
        match (fetched, &direct) {
            // All came, and what it unpacks to is not what it should be. A mirror may have sent something else.
            (Err(PullError::Work(error)), Some(direct)) => {
                tracing::info!(error = error_chain(&error), layer = %diff_id, "a layer is asked for without mirrors");
                fetch(direct, &request.reference, &helper, blob, layer(), told).await
            }
            (fetched, _) => fetched,
        }
    };
    stream::iter(missing.into_iter().map(fetch)).buffer_unordered(SIDE_BY_SIDE).try_collect::<()>().await?;
    let composed = helper.compose(composed(pulled, &image, request.name())?, |_| {}).await.map_err(work::of_helper);
    drop(held);
    let composed = composed?;
    for image in &composed {
        tell(told, ImageStep::ImageDone, *image, 0, 0);
    }
    Ok(composed)
}

fn composed(pulled: Pulled, image: &str, name: Option<ImageReference>) -> Result<ComposedImage, PullError> {
    let text = |bytes, what| String::from_utf8(bytes).map_err(|_| PullError::Text { image: image.to_owned(), what });
    let config = text(pulled.config_bytes, "configuration")?;
    let manifest = Some(text(pulled.bytes, "manifest")?);
    Ok(ComposedImage { config, manifest, names: name.into_iter().collect() })
}

/// Has a layer in the store.
async fn fetch<F: FnMut(ImageProgress)>(
    registry: &Registry,
    reference: &ImageReference,
    helper: &ImageHelper,
    blob: Blob,
    layer: NewLayer,
    told: &Told<F>,
) -> Result<(), PullError> {
    let NewLayer { diff_id, packed_bytes, .. } = layer;
    let (stdin, writer) = io::pipe().map_err(WorkError::System)?;
    let mut writer = pipe::Sender::from_owned_fd(writer.into()).map_err(WorkError::System)?;
    let (begin, begun) = oneshot::channel();
    let mut begin = Some(begin);
    let heard = |progress| match progress {
        Progress::LayerStarted { .. } => {
            tell(told, ImageStep::LayerPulling, diff_id, 0, packed_bytes);
            if let Some(begin) = begin.take() {
                let _ = begin.send(()); // what fetches has failed
            }
        }
        Progress::LayerReady { was_there: true, .. } => {
            // Nothing is fetched.
            begin = None;
            tell(told, ImageStep::LayerPresent, diff_id, 0, 0);
        }
        Progress::LayerReady { was_there: false, .. } => {
            tell(told, ImageStep::LayerDone, diff_id, packed_bytes, packed_bytes);
        }
        Progress::LayerRead { .. } | Progress::ImageReady { .. } => {}
    };
    let sent = async move {
        if begun.await.is_err() {
            return Ok(());
        }
        let mut blob = registry.blob(reference, blob, 0);
        let (mut done, mut said) = (0_u64, 0_u64);
        while let Some(chunk) = blob.try_next().await? {
            if writer.write_all(&chunk).await.is_err() {
                // The process has found that it is of no use, and says so.
                break;
            }
            done += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
            if done >= said + PROGRESS_STEP {
                said = done;
                tell(told, ImageStep::LayerPulling, diff_id, done, packed_bytes);
            }
        }
        Ok::<_, PullError>(())
    };
    let added =
        async { helper.add_layer(stdin.into(), layer, heard).await.map_err(|error| work::of_helper(error).into()) };
    // A registry that fails ends the process before that can say that there is too little.
    tokio::try_join!(biased; sent, added).map(drop)
}

fn tell<F: FnMut(ImageProgress)>(told: &Told<F>, step: ImageStep, digest: ImageDigest, done_bytes: u64, total: u64) {
    (*told.borrow_mut())(ImageProgress { step, digest, done_bytes, total_bytes: work::known(total) });
}
