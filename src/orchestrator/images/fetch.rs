//! One layer from its registry into the store, and what is kept of it until it is there.
//!
//! ```text
//!   what was kept ─▶┐
//!                   ├═ pipe ═▶ confined process: checks, unpacks ─▶ ready: nothing is kept any more
//!   registry ──────▶┤                            └─▶ not what it should be: nothing either, and once more from the
//!   (from there on) └─▶ what is kept                 beginning, if what was kept may be to blame
//! ```
//!
//! What is kept may be damaged, by a power failure for example; that is found by the digest of the whole, as what a
//! registry sends is. Who owns a layer is decided before, by the process that waits for its digest.

use std::cell::RefCell;
use std::io::{self, Read as _, Write as _};

use futures::stream::TryStreamExt as _;
use sandpen_api::{ImageProgress, ImageStep};
use sandpen_drivers::image_helper::{ImageHelper, ImageHelperError};
use sandpen_images::import::{NewLayer, Progress};
use sandpen_images::store::{PartialLayer, Store};
use sandpen_registry::{Blob, Registry, RegistryError};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::{ImageDigest, ImageReference};
use tokio::io::AsyncWriteExt as _;
use tokio::net::unix::pipe;
use tokio::sync::oneshot;

use super::pull::PullError;
use super::work::{self, WorkError};

/// How many bytes of a layer come between two words about it.
const PROGRESS_STEP: u64 = 256 << 10;
/// The smallest layer of which anything is kept, in bytes: a smaller one comes again as fast.
const KEPT_FROM: u64 = 1 << 20;
/// How many bytes that were kept are read at once.
const KEPT_STEP: usize = 256 << 10;

/// Who is told how far it is, by several layers in turn.
pub(super) type Told<F> = RefCell<F>;

/// Fetches the layers of an image.
pub(super) struct Fetcher<'a, F> {
    pub store: &'a Store,
    pub registry: &'a Registry,
    pub reference: &'a ImageReference,
    pub helper: &'a ImageHelper,
    pub told: &'a Told<F>,
}

/// What became of a try.
struct Tried {
    ended: Result<(), PullError>,
    /// How many bytes of it had been kept before.
    used: u64,
}

impl<F: FnMut(ImageProgress)> Fetcher<'_, F> {
    /// Has a layer in the store.
    pub async fn fetch(&self, blob: Blob, layer: NewLayer) -> Result<(), PullError> {
        let Tried { ended, used } = self.attempt(blob, layer, true).await;
        match ended {
            Err(error) if used > 0 && is_of_bytes(&error) => {
                let error = error_chain(&error);
                tracing::info!(error, layer = %blob.digest, used, "what was kept of a layer is of no use");
                self.attempt(blob, layer, false).await.ended
            }
            ended => ended,
        }
    }

    /// What was kept of a layer that is there goes.
    pub fn forget(&self, blob: Blob) {
        if blob.size >= KEPT_FROM
            && let Err(error) = self.store.remove_partial(&blob.digest)
        {
            tracing::warn!(error = error_chain(&error), "what was kept of a layer stays");
        }
    }

    async fn attempt(&self, blob: Blob, layer: NewLayer, goes_on: bool) -> Tried {
        let (mut kept, mut used) = (None, 0);
        let ended = self.stream(blob, layer, goes_on, &mut kept, &mut used).await;
        match &ended {
            Ok(()) => {
                remove(kept.take());
                self.forget(blob);
            }
            Err(error) if is_of_bytes(error) || is_no_room(error) => remove(kept.take()),
            // It goes on there the next time.
            Err(_) => {}
        }
        Tried { ended, used }
    }

    async fn stream(
        &self,
        blob: Blob,
        layer: NewLayer,
        goes_on: bool,
        kept: &mut Option<PartialLayer>,
        used: &mut u64,
    ) -> Result<(), PullError> {
        let NewLayer { diff_id, packed_bytes, .. } = layer;
        let (stdin, writer) = io::pipe().map_err(WorkError::System)?;
        let mut writer = pipe::Sender::from_owned_fd(writer.into()).map_err(WorkError::System)?;
        let (begin, begun) = oneshot::channel();
        let mut begin = Some(begin);
        let heard = |progress| match progress {
            Progress::LayerStarted { .. } => {
                self.tell(ImageStep::LayerPulling, diff_id, 0, packed_bytes);
                if let Some(begin) = begin.take() {
                    let _ = begin.send(()); // what fetches has failed
                }
            }
            Progress::LayerReady { was_there: true, .. } => {
                // Nothing is fetched.
                begin = None;
                self.tell(ImageStep::LayerPresent, diff_id, 0, 0);
            }
            Progress::LayerReady { was_there: false, .. } => {
                self.tell(ImageStep::LayerDone, diff_id, packed_bytes, packed_bytes);
            }
            Progress::LayerRead { .. } | Progress::ImageReady { .. } => {}
        };
        let sent = async move {
            if begun.await.is_err() {
                return Ok(());
            }
            *kept = self.kept(blob, goes_on);
            if let Some(partial) = kept
                && partial.size() > 0
            {
                self.tell(ImageStep::LayerResuming, diff_id, partial.size(), packed_bytes);
                match feed(partial, blob, &mut writer, used).await {
                    Fed::All => {}
                    Fed::Refused => return Ok(()),
                    Fed::Broken => remove(kept.take()),
                }
            }
            let mut stream = self.registry.blob(self.reference, blob, *used);
            let (mut done, mut said) = (*used, *used);
            while let Some(chunk) = stream.try_next().await? {
                keep(kept, &chunk);
                if writer.write_all(&chunk).await.is_err() {
                    // The process has found that it is of no use, and says so.
                    break;
                }
                done += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                if done >= said + PROGRESS_STEP {
                    said = done;
                    self.tell(ImageStep::LayerPulling, diff_id, done, packed_bytes);
                }
            }
            Ok::<_, PullError>(())
        };
        let added = async {
            let added = self.helper.add_layer(stdin.into(), layer, heard).await;
            added.map_err(|error| work::of_helper(error).into())
        };
        // A registry that fails ends the process before that can say that there is too little.
        tokio::try_join!(biased; sent, added).map(drop)
    }

    /// What there is of a layer, and where the rest is written to; nothing where that cannot be.
    fn kept(&self, blob: Blob, goes_on: bool) -> Option<PartialLayer> {
        if blob.size < KEPT_FROM {
            return None;
        }
        let taken = self.store.partial(&blob.digest, blob.size).and_then(|mut partial| {
            if let Some(partial) = partial.as_mut().filter(|_| !goes_on) {
                partial.cut(0)?;
            }
            Ok(partial)
        });
        taken.unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "nothing is kept of a layer while it comes");
            None
        })
    }

    pub fn tell(&self, step: ImageStep, digest: ImageDigest, done_bytes: u64, total: u64) {
        (*self.told.borrow_mut())(ImageProgress { step, digest, done_bytes, total_bytes: work::known(total) });
    }
}

/// How what was kept was passed on.
enum Fed {
    All,
    /// The process takes no more.
    Refused,
    /// It cannot be read to its end.
    Broken,
}

/// Passes on what was kept, and counts it.
async fn feed(partial: &mut PartialLayer, blob: Blob, to: &mut pipe::Sender, used: &mut u64) -> Fed {
    let mut buffer = vec![0; KEPT_STEP];
    loop {
        let read = match partial.read(&mut buffer) {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "what was kept of a layer cannot be read");
                return Fed::Broken;
            }
        };
        let bytes = u64::try_from(read).unwrap_or(u64::MAX);
        if read == 0 {
            return Fed::All;
        }
        if *used + bytes > blob.size {
            // Somebody else writes to it.
            return Fed::Broken;
        }
        // Counted before, so that what is found to be wrong with it is known to be of it.
        *used += bytes;
        if to.write_all(buffer.get(..read).unwrap_or_default()).await.is_err() {
            return Fed::Refused;
        }
    }
}

/// Adds to what is kept. A disk that takes no more has room for the layer perhaps, if nothing else is kept.
fn keep(kept: &mut Option<PartialLayer>, chunk: &[u8]) {
    if let Some(partial) = kept
        && let Err(error) = partial.write_all(chunk)
    {
        tracing::warn!(%error, "nothing more is kept of a layer while it comes");
        remove(kept.take());
    }
}

fn remove(kept: Option<PartialLayer>) {
    if let Some(Err(error)) = kept.map(PartialLayer::remove) {
        tracing::warn!(error = error_chain(&error), "what was kept of a layer stays");
    }
}

/// Whether bytes were not what they should be, or a registry has no such part of them.
pub(super) fn is_of_bytes(error: &PullError) -> bool {
    matches!(
        error,
        PullError::Work(WorkError::Invalid(_))
            | PullError::Registry(RegistryError::OtherSize { .. } | RegistryError::Protocol { .. })
    )
}

fn is_no_room(error: &PullError) -> bool {
    matches!(error, PullError::Work(WorkError::Process(ImageHelperError::NoRoom(_))))
}
