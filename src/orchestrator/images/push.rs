//! Images into registries.
//!
//! ```text
//!   configuration ─▶ layers, side by side: HEAD of what the manifest calls it ─▶ there, or mounted
//!                      └▶ confined process ═ gzip ═▶ file without a name ─▶ upload
//!                    ─▶ manifest: the one that it had, byte for byte, if every layer is what that says
//! ```
//!
//! A store has layers unpacked, so what a registry has not is packed anew. That makes the same bytes each time, but not
//! those that somebody else's program made: then the image has another manifest there, and the same configuration. What
//! a layer was packed to is remembered.
//!
//! The configuration goes first, which is small: so whoever may not push is told before anything is packed. The manifest
//! goes last: until then nothing has the image's name.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use sandpen_api::{ImageProgress, ImageStep};
use sandpen_drivers::image_helper::ImageHelper;
use sandpen_images::manifest::{Document, ImageManifest, ManifestError, Packed, of_packed, with_packed};
use sandpen_images::store::{Packing, Store, StoreError};
use sandpen_registry::{Blob, BlobSource, ByteStream, Push, Registry, RegistryError};
use sandpen_types::image::{ImageDigest, ImageReference};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;

use super::Images;
use super::access::RegistryAccess;
use super::work::{self, WorkError};

/// Most layers that are packed and sent side by side; each takes of the disk what it is packed to, until it is sent.
const SIDE_BY_SIDE: usize = 3;
/// How many bytes of a layer are packed between two words about it.
const PROGRESS_STEP: u64 = 256 << 10;
/// Bytes that are read of a packed layer at once.
const PIECE: usize = 256 << 10;

/// What is wanted of a registry. Its debug output shows no secret.
#[derive(Debug, Clone)]
pub struct PushRequest {
    /// Which image, by a name, its digest or the beginning of that.
    pub image: String,
    /// Where it goes, with a tag and without a digest; under the name that `image` is where nothing is said.
    pub destination: Option<ImageReference>,
    /// Who asks, and which way.
    pub access: RegistryAccess,
}

impl PushRequest {
    /// Under its name, by nobody in particular, without a proxy.
    pub fn new(image: impl Into<String>) -> Self {
        Self { image: image.into(), destination: None, access: RegistryAccess::default() }
    }
}

/// An image that is in a registry now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedImage {
    /// The digest of its configuration.
    pub image: ImageDigest,
    /// Where it is, with its tag and the digest of its manifest.
    pub reference: ImageReference,
    /// That digest.
    pub manifest: ImageDigest,
}

/// Why an image was not pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Nobody says where to.
    #[error(
        "nothing says where the image goes: \"{image}\" is not its name with a tag; say it with `sandpen push IMAGE \
         DESTINATION`"
    )]
    Nowhere {
        /// As it was asked for.
        image: String,
    },
    /// A digest is of what is there, not of what comes.
    #[error("{destination} cannot be pushed to: name a tag and no digest, which the manifest has by itself")]
    Digest {
        /// As it was given.
        destination: String,
    },
    /// The registry.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A manifest cannot be written.
    #[error("writing the manifest of the image: {0}")]
    Manifest(#[from] ManifestError),
    /// The store, or the process that packs.
    #[error(transparent)]
    Work(#[from] WorkError),
}

impl From<StoreError> for PushError {
    fn from(error: StoreError) -> Self {
        WorkError::from(error).into()
    }
}

/// Pushes on a thread of its own: looking at the store and writing packed layers blocks. Ends when the answer is dropped;
/// what the registry has by then it keeps or forgets as it likes.
pub async fn push(
    images: Images,
    request: PushRequest,
    progress: impl FnMut(ImageProgress) + Send + 'static,
) -> Result<PushedImage, PushError> {
    let work = async move || push_here(&images.store()?, images.certificates(), &request, progress).await;
    work::on_own_thread("image-push", work).await
}

async fn push_here<F: FnMut(ImageProgress) + Send>(
    store: &Store,
    certificates: Vec<PathBuf>,
    request: &PushRequest,
    progress: F,
) -> Result<PushedImage, PushError> {
    let image = Image::find(store, request)?;
    let helper = work::helper(store)?;
    let registry = Registry::new(request.access.options(image.destination.registry(), certificates))?;
    let push = registry.push(&image.destination, &image.others).await?;
    let config = Blob { digest: image.digest, size: u64::try_from(image.config.len()).unwrap_or(u64::MAX) };
    if !push.has(config).await? && !push.mount(config).await {
        push.send(config, &Config(image.config.clone()), &|_| {}).await?;
    }
    let sender = Sender { store, helper: &helper, push: &push, told: Mutex::new(progress) };
    let distinct = image.distinct();
    for layer in &distinct {
        sender.tell(ImageStep::LayerWaiting, &layer.diff_id, 0, None);
    }
    let of_all = distinct.into_iter().map(|layer| sender.place(layer));
    let placed: Vec<_> = stream::iter(of_all).buffer_unordered(SIDE_BY_SIDE).try_collect().await?;
    let manifest = push.manifest(&image.manifest_of(&placed)?).await?;
    sender.tell(ImageStep::ImageDone, &image.digest, 0, None);
    let Image { digest, destination, .. } = image;
    Ok(PushedImage { image: digest, reference: destination.with_digest(manifest), manifest })
}

/// A layer, and what its image's manifest calls it if that has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Layer {
    diff_id: ImageDigest,
    tar_bytes: u64,
    named: Option<(ImageDigest, u64)>,
}

/// A layer, and what it is in the registry.
type Placed = (Layer, Packed);

/// What goes to a registry.
struct Image {
    digest: ImageDigest,
    destination: ImageReference,
    config: Bytes,
    /// As it came, if one did that fits.
    manifest: Option<Vec<u8>>,
    /// The lowest first.
    layers: Vec<Layer>,
    /// Other repositories of the registry from which the image has a name.
    others: Vec<String>,
    /// So that nothing of it goes.
    _lease: File,
}

impl Image {
    fn find(store: &Store, PushRequest { image: asked, destination, .. }: &PushRequest) -> Result<Self, PushError> {
        let digest = store.find(asked)?;
        let lease = store.lease(&digest)?;
        let names = store.image(&digest)?.names;
        let own = || asked.parse::<ImageReference>().ok().filter(|name| names.contains(name));
        let destination =
            destination.clone().or_else(own).ok_or_else(|| PushError::Nowhere { image: asked.clone() })?;
        if destination.digest().is_some() || destination.tag().is_none() {
            return Err(PushError::Digest { destination: destination.to_string() });
        }
        let diff_ids = store.record(&digest)?.layers;
        // By which it was asked for, or the last one.
        let named = asked.parse::<ImageReference>().ok().and_then(|name| name.digest());
        let manifest = store.manifest(&digest, named.or_else(|| asked.parse().ok()).as_ref())?;
        let parsed = manifest.as_deref().and_then(|manifest| fitting(manifest, &digest, diff_ids.len()));
        let layer = |(at, diff_id): (usize, &ImageDigest)| {
            let record = store.layer(diff_id)?.ok_or_else(|| StoreError::Damaged {
                path: store.layer_path(diff_id),
                reason: "it is missing".to_owned(),
            })?;
            let named = parsed.as_ref().and_then(|manifest| manifest.layers.get(at));
            let named = named.map(|layer| (layer.digest, layer.size));
            Ok(Layer { diff_id: *diff_id, tar_bytes: record.info.tar_bytes, named })
        };
        let layers = diff_ids.iter().enumerate().map(layer).collect::<Result<_, StoreError>>()?;
        let others = names.iter().filter(|name| name.registry() == destination.registry());
        let others: BTreeSet<_> = others.map(|name| name.repository().to_owned()).collect();
        Ok(Self {
            digest,
            config: store.config(&digest)?.into(),
            manifest: manifest.filter(|_| parsed.is_some()),
            layers,
            others: others.into_iter().filter(|other| other != destination.repository()).collect(),
            destination,
            _lease: lease,
        })
    }

    /// Its layers, each once.
    fn distinct(&self) -> BTreeSet<Layer> {
        self.layers.iter().copied().collect()
    }

    /// The manifest that says what the registry has.
    fn manifest_of(&self, placed: &[Placed]) -> Result<Vec<u8>, PushError> {
        let of = |layer: &Layer| placed.iter().find(|(other, _)| other == layer).map(|(_, packed)| *packed);
        let packed: Vec<_> = self.layers.iter().filter_map(of).collect();
        let Some(manifest) = &self.manifest else { return Ok(of_packed(&self.config, &packed)?) };
        let anew = self.layers.iter().zip(packed);
        let anew: Vec<_> =
            anew.map(|(layer, packed)| (layer.named != Some((packed.digest, packed.size))).then_some(packed)).collect();
        if anew.iter().all(Option::is_none) { Ok(manifest.clone()) } else { Ok(with_packed(manifest, &anew)?) }
    }
}

/// A manifest, if it is one of this image.
fn fitting(manifest: &[u8], image: &ImageDigest, layers: usize) -> Option<ImageManifest> {
    match Document::parse(manifest, None) {
        Ok(Document::Manifest(parsed)) if parsed.config.digest == *image && parsed.layers.len() == layers => {
            Some(parsed)
        }
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, %image, "the manifest of the image is not used");
            None
        }
    }
}

/// Sends layers.
struct Sender<'a, F> {
    store: &'a Store,
    helper: &'a ImageHelper,
    push: &'a Push<'a>,
    told: Mutex<F>,
}

impl<F: FnMut(ImageProgress) + Send> Sender<'_, F> {
    /// Has a layer in the registry.
    async fn place(&self, layer: Layer) -> Result<Placed, PushError> {
        let diff_id = &layer.diff_id;
        let named = layer.named.map(|(digest, size)| Packed { digest, size });
        let seen = self.store.packings(diff_id);
        let is_seen = |packed: &Packed| seen.iter().any(|packing| packing.packed == *packed);
        let others = seen.iter().filter(|packing| packing.is_gzip).map(|packing| packing.packed);
        let known: Vec<_> = named.into_iter().chain(others.filter(|other| Some(*other) != named)).collect();
        for packed in &known {
            // That a manifest calls a blob this layer does not make it that: only here would others get to read it by it.
            if self.has(diff_id, *packed, is_seen(packed)).await? {
                return Ok((layer, *packed));
            }
        }
        let (packed, file) = self.pack(diff_id, layer.tar_bytes).await?;
        if !known.contains(&packed) && self.has(diff_id, packed, true).await? {
            return Ok((layer, packed));
        }
        let Packed { digest, size } = packed;
        let sent = |bytes: u64| {
            if bytes < size {
                self.tell(ImageStep::LayerPushing, diff_id, bytes, Some(size));
            }
        };
        self.push.send(Blob { digest, size }, &PackedFile(Arc::new(file)), &sent).await?;
        self.tell(ImageStep::LayerDone, diff_id, size, Some(size));
        Ok((layer, packed))
    }

    /// Whether the registry has a blob, or has it now out of another repository.
    async fn has(&self, diff_id: &ImageDigest, packed: Packed, may_mount: bool) -> Result<bool, PushError> {
        let blob = Blob { digest: packed.digest, size: packed.size };
        let is_there = match self.push.has(blob).await {
            // Nobody has looked at the size that a manifest gives a layer which was there already.
            Err(RegistryError::OtherSize { .. }) => false,
            answer => answer?,
        };
        let step = if is_there {
            ImageStep::LayerPresent
        } else if may_mount && self.push.mount(blob).await {
            ImageStep::LayerMounted
        } else {
            return Ok(false);
        };
        self.tell(step, diff_id, 0, None);
        Ok(true)
    }

    /// Packs a layer into a file that is gone when it is closed.
    async fn pack(&self, diff_id: &ImageDigest, tar_bytes: u64) -> Result<(Packed, File), PushError> {
        let (packed, out) = io::pipe().map_err(WorkError::System)?;
        let mut packed = pipe::Receiver::from_owned_fd(packed.into()).map_err(WorkError::System)?;
        let mut file = tempfile::tempfile_in(self.store.directory()).map_err(WorkError::System)?;
        let kept = async {
            let (mut hasher, mut piece) = (Sha256::new(), vec![0; PIECE]);
            let (mut size, mut said) = (0_u64, 0_u64);
            self.tell(ImageStep::LayerPacking, diff_id, 0, None);
            loop {
                let length = packed.read(&mut piece).await.map_err(WorkError::System)?;
                if length == 0 {
                    break;
                }
                hasher.update(&piece[..length]);
                file.write_all(&piece[..length]).map_err(WorkError::System)?;
                size += u64::try_from(length).unwrap_or(u64::MAX);
                if size >= said + PROGRESS_STEP {
                    said = size;
                    self.tell(ImageStep::LayerPacking, diff_id, size, None);
                }
            }
            Ok(Packed { digest: ImageDigest::new(hasher.finalize().into()), size })
        };
        let made = async { self.helper.pack(*diff_id, tar_bytes, out.into()).await.map_err(work::of_helper) };
        let (packed, ()) = tokio::try_join!(kept, made)?;
        if let Err(error) = self.store.note_packing(diff_id, Packing { packed, is_gzip: true }) {
            tracing::warn!(%error, "it is not known later what the layer was packed to");
        }
        Ok((packed, file))
    }

    fn tell(&self, step: ImageStep, digest: &ImageDigest, done_bytes: u64, total_bytes: Option<u64>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told(ImageProgress { step, digest: *digest, done_bytes, total_bytes });
    }
}

/// A packed layer.
struct PackedFile(Arc<File>);

impl BlobSource for PackedFile {
    fn open(&self, _: &Blob, from: u64) -> ByteStream {
        let file = Arc::clone(&self.0);
        let pieces = stream::try_unfold(from, move |at| {
            let file = Arc::clone(&file);
            async move {
                let mut piece = vec![0; PIECE];
                let length = file.read_at(&mut piece, at)?;
                piece.truncate(length);
                let next = at + u64::try_from(length).unwrap_or(u64::MAX);
                Ok((length > 0).then(|| (Bytes::from(piece), next)))
            }
        });
        pieces.boxed()
    }
}

/// A configuration.
struct Config(Bytes);

impl BlobSource for Config {
    fn open(&self, _: &Blob, from: u64) -> ByteStream {
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.0.len());
        stream::iter([Ok(self.0.slice(from..))]).boxed()
    }
}
