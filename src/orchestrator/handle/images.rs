//! The images that sandboxes run from.

use sandpen_actors::database::{ImageRow, ReplaceImages};
use sandpen_api::ImageProgress;
use sandpen_images::store::{Removed, StoreError};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::{ImageDigest, ImageReference};
use sandpen_types::spec::{CheckedSpec, Rootfs};
use sandpen_vmm::blocking::blocking;
use tokio::sync::mpsc;

use super::super::error::SandpenError;
use super::super::images::{
    ArchiveFormat, ImageError, ImageInfo, ImageSource, ImageUsers, Images, LoadOptions, PullRequest, PushRequest,
    PushedImage, pull, push, work,
};
use super::Handle;

/// Pieces of an archive that may wait for their reader, of 64 KiB each.
const PIECES: usize = 8;

/// An archive while it is written: its bytes come out here.
#[derive(Debug)]
pub struct SavedImages {
    pieces: mpsc::Receiver<Result<Vec<u8>, SandpenError>>,
}

impl SavedImages {
    /// The next piece; `None` at the end. After an error what came is not a whole archive.
    ///
    /// # Errors
    /// The image's, or the system's.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, SandpenError> {
        self.pieces.recv().await.transpose()
    }
}

impl Handle {
    /// All images, the newest first.
    ///
    /// # Errors
    /// The store's, the database's.
    pub async fn images(&self) -> Result<Vec<ImageInfo>, SandpenError> {
        self.with_images(Images::list).await
    }

    /// The image that is meant by a name, a digest or the beginning of one.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], [`StoreError::Reference`].
    pub async fn image(&self, asked: &str) -> Result<ImageInfo, SandpenError> {
        let asked = asked.to_owned();
        self.with_images(move |images, users| images.find(&asked, users)).await
    }

    /// A file without a name beside the store, for an archive that somebody sends.
    ///
    /// # Errors
    /// The system's.
    pub async fn image_spool(&self) -> Result<std::fs::File, SandpenError> {
        let images = self.images.clone();
        let open = move || -> Result<_, ImageError> {
            let store = images.store()?;
            let file = tempfile::tempfile_in(store.directory());
            Ok(file.map_err(|source| StoreError::Io {
                action: "make a file in",
                path: store.directory().to_owned(),
                source,
            })?)
        };
        self.on_thread(open).await
    }

    /// Takes the images of an archive into the store. `progress` is called on another thread. What is beyond the store's
    /// budget goes afterwards.
    ///
    /// Dropping the answer ends it: what is whole by then stays.
    ///
    /// # Errors
    /// What is no image; the store's.
    pub async fn load_images(
        &self,
        source: ImageSource,
        options: LoadOptions,
        progress: impl FnMut(ImageProgress) + Send + 'static,
    ) -> Result<Vec<ImageInfo>, SandpenError> {
        let digests = work::load((*self.images).clone(), source, options, progress).await.map_err(ImageError::from)?;
        self.took_in(digests).await
    }

    /// Makes an image of a root directory, or of a tar of one, under this name.
    ///
    /// # Errors
    /// As [`Handle::load_images`].
    pub async fn import_image(
        &self,
        source: ImageSource,
        name: ImageReference,
        progress: impl FnMut(ImageProgress) + Send + 'static,
    ) -> Result<Vec<ImageInfo>, SandpenError> {
        let digests = work::import((*self.images).clone(), source, name, progress).await.map_err(ImageError::from)?;
        self.took_in(digests).await
    }

    /// Gets an image from its registry into the store, under the tag of its reference. What of it is there is not fetched
    /// again. `progress` is called on another thread. What is beyond the store's budget goes afterwards.
    ///
    /// Dropping the answer ends it: layers that are whole by then stay, and those that came in part are gone on with by the
    /// next one.
    ///
    /// # Errors
    /// The registry's; what is no image; the store's.
    pub async fn pull_image(
        &self,
        request: PullRequest,
        progress: impl FnMut(ImageProgress) + Send + 'static,
    ) -> Result<Vec<ImageInfo>, SandpenError> {
        let digests = pull::pull((*self.images).clone(), request, progress).await.map_err(ImageError::from)?;
        self.took_in(digests).await
    }

    /// Puts an image of the store into a registry. What the registry has is not sent; what it has not is packed anew, and
    /// the image's manifest there is the one that it came with if that makes the same. `progress` is called on another
    /// thread.
    ///
    /// Dropping the answer ends it: nothing has the image's name there then, or what had it before.
    ///
    /// # Errors
    /// Those of [`Handle::image`]; the registry's; [`PushError::Nowhere`](crate::PushError::Nowhere) where nothing says
    /// where it goes.
    pub async fn push_image(
        &self,
        request: PushRequest,
        progress: impl FnMut(ImageProgress) + Send + 'static,
    ) -> Result<PushedImage, SandpenError> {
        Ok(push::push((*self.images).clone(), request, progress).await.map_err(ImageError::from)?)
    }

    /// Writes images as an archive. It is written as it is read.
    ///
    /// # Errors
    /// Those of [`Handle::image`], of each.
    pub async fn save_images(&self, asked: &[String], format: ArchiveFormat) -> Result<SavedImages, SandpenError> {
        let (asked, images) = (asked.to_vec(), self.images.clone());
        let find = move || -> Result<_, ImageError> {
            let store = images.store()?;
            let mut found: Vec<(ImageDigest, Vec<ImageReference>)> = Vec::new();
            let mut leases = Vec::new();
            for asked in &asked {
                let digest = store.find(asked)?;
                // By its digest it has no name in the archive.
                let name = asked.parse::<ImageReference>().ok();
                let names = store.image(&digest)?.names;
                let name = name.filter(|name| names.contains(name));
                leases.push(store.lease(&digest)?);
                match found.iter_mut().find(|(other, _)| *other == digest) {
                    Some((_, names)) => names.extend(name),
                    None => found.push((digest, name.into_iter().collect())),
                }
            }
            Ok((store, found, leases))
        };
        let (store, found, leases) = self.on_thread(find).await?;
        let (sender, pieces) = mpsc::channel(PIECES);
        let save = async move || {
            let saved = tokio::select! {
                saved = work::save(&store, found, format, &sender) => saved,
                () = sender.closed() => return Ok(()),
            };
            if let Err(error) = saved {
                let _ = sender.send(Err(ImageError::from(error).into())).await; // nobody reads on
            }
            drop(leases);
            Ok::<_, work::WorkError>(())
        };
        // Its reader hears of everything; it ends when that one has gone.
        drop(tokio::spawn(work::on_own_thread("image-save", save)));
        Ok(SavedImages { pieces })
    }

    /// Gives an image a name more, which another one loses.
    ///
    /// # Errors
    /// Those of [`Handle::image`]; [`StoreError::TagHasDigest`].
    pub async fn tag_image(&self, asked: &str, name: &ImageReference) -> Result<ImageInfo, SandpenError> {
        let (asked, name) = (asked.to_owned(), name.clone());
        let tagged = self.with_images(move |images, users| images.tag(&asked, &name, users)).await?;
        self.note_images().await;
        Ok(tagged)
    }

    /// Removes an image, or one name of several. With `force` also one with several names by its digest. One that a
    /// microVM runs from, or that a sandbox may be started from again, stays.
    ///
    /// # Errors
    /// Those of [`Handle::image`]; [`StoreError::InUse`], [`StoreError::SeveralNames`].
    pub async fn remove_image(&self, asked: &str, force: bool) -> Result<Removed, SandpenError> {
        let asked = asked.to_owned();
        let again = self.ask_again();
        let removed = self.with_images(move |images, users| images.remove(&asked, force, users, &again)).await?;
        self.note_images().await;
        Ok(removed)
    }

    /// Removes images without a name (with `all` every one) that no sandbox has, and layers that no image has; with
    /// `dry_run` it only says which.
    ///
    /// # Errors
    /// The store's.
    pub async fn prune_images(&self, all: bool, dry_run: bool) -> Result<Removed, SandpenError> {
        let again = self.ask_again();
        let removed = self.with_images(move |images, users| images.prune(all, dry_run, users, &again)).await?;
        if !dry_run {
            self.note_images().await;
        }
        Ok(removed)
    }

    /// Takes what an image says into a specification that was checked; the answer keeps the image until it is dropped.
    pub(super) async fn resolve_image(
        &self,
        spec: CheckedSpec,
    ) -> Result<(CheckedSpec, Option<std::fs::File>), SandpenError> {
        if !matches!(spec.rootfs, Rootfs::Image(_)) {
            return Ok((spec, None));
        }
        let images = self.images.clone();
        let (spec, lease) = self.on_thread(move || images.resolve((*spec).clone())).await?;
        let spec = CheckedSpec::try_from(spec).map_err(sandpen_actors::supervisor::SupervisorError::from)?;
        Ok((spec, lease))
    }

    /// What follows when images came in: what is too much goes, and all are on record.
    pub(super) async fn took_in(&self, digests: Vec<ImageDigest>) -> Result<Vec<ImageInfo>, SandpenError> {
        let again = self.ask_again();
        let work = move |images: &Images, users: &ImageUsers| {
            let infos = images.of(&digests, users)?;
            match images.keep_within_budget(&digests, users, &again) {
                Ok(removed) if removed != Removed::default() => {
                    let Removed { names, images, bytes } = removed;
                    tracing::info!(?names, images = images.len(), bytes, "removed images beyond the budget");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(error = error_chain(&error), "images beyond the budget stay"),
            }
            Ok(infos)
        };
        let infos = self.with_images(work).await?;
        self.note_images().await;
        Ok(infos)
    }

    /// What a daemon does when it starts: what killed processes left of images goes, and all are on record.
    pub(crate) async fn look_at_images(&self) {
        let images = self.images.clone();
        let swept = self.on_thread(move || Ok(images.existing().map_or(Ok(()), |store| store.sweep())?));
        if let Err(error) = swept.await {
            tracing::warn!(error = error_chain(&error), "what was not finished of images stays");
        }
        self.note_images().await;
    }

    /// Writes down what is in the store. It can be done again at any time: a failure is only told.
    async fn note_images(&self) {
        let images = self.images.clone();
        let rows = self.on_thread(move || -> Result<_, ImageError> {
            let Some(store) = images.existing() else { return Ok(Vec::new()) };
            Ok(store.images()?.into_iter().map(row).collect())
        });
        let noted = async {
            let rows = rows.await?;
            Ok::<_, SandpenError>(self.database.send(ReplaceImages(rows)).await??)
        };
        if let Err(error) = noted.await {
            tracing::warn!(error = error_chain(&error), "the index of images is not up to date");
        }
    }

    async fn with_images<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Images, &ImageUsers) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, SandpenError> {
        let users = ImageUsers::of(&self.every_sandbox().await?);
        let images = self.images.clone();
        self.on_thread(move || work(&images, &users)).await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, SandpenError> {
        Ok(blocking(work).await.map_err(|_| SandpenError::Gone)??)
    }
}

fn row(image: sandpen_images::store::StoredImage) -> ImageRow {
    ImageRow {
        digest: image.digest,
        names: image.names,
        bytes: image.total_bytes,
        created: image.created,
        loaded: image.loaded,
        last_used: image.last_used,
    }
}

impl From<StoreError> for SandpenError {
    fn from(error: StoreError) -> Self {
        ImageError::from(error).into()
    }
}
