//! What goes: by name, because nobody needs it, or because there is too much.

use std::collections::HashSet;
use std::fs;

use sandpen_types::image::{ImageDigest, ImageReference};

use super::{DraftDir, Locked, Store, StoreError, StoredImage, files};

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that were taken away.
    pub names: Vec<ImageReference>,
    /// Images that are gone.
    pub images: Vec<ImageDigest>,
    /// What they, layers that nobody needed, and layers that came in part took of the disk, in bytes.
    pub bytes: u64,
}

/// Whom an image is kept for: a word for messages, or nobody. It is asked under the store's lock, after nobody had a lease
/// of the image, of each image that would go: what it says should be so then.
type Keep<'a> = &'a dyn Fn(&ImageDigest) -> Option<String>;

impl Store {
    /// Removes an image, or one name of several. By its digest one with several names goes only with `force`. One that
    /// somebody has a lease of, or that `keep` says somebody needs (and who), never goes; it loses names but the last.
    ///
    /// # Errors
    /// Those of [`Store::find`]; [`StoreError::SeveralNames`], [`StoreError::InUse`], and what the system said.
    pub fn remove(&self, asked: &str, force: bool, keep: Keep<'_>) -> Result<Removed, StoreError> {
        let locked = self.lock()?;
        let (digest, by_name) = self.look_up(asked)?;
        let names = self.names()?.of(&digest);
        if let Some(name) = by_name.filter(|name| name.digest().is_none() && names.len() > 1) {
            self.unname(&locked, std::slice::from_ref(&name))?;
            return Ok(Removed { names: vec![name], ..Removed::default() });
        }
        if names.len() > 1 && !force {
            let names = names.iter().map(ImageReference::familiar).collect();
            return Err(StoreError::SeveralNames { image: digest.short(), names });
        }
        if let Some(by) = self.user(&digest, keep)? {
            return Err(StoreError::InUse { image: asked.to_owned(), by });
        }
        let mut removed = Removed::default();
        let gone = self.take_away(&locked, &digest, &mut removed)?;
        let orphans = self.take_orphans(&locked, &mut removed)?;
        drop(locked);
        drop((gone, orphans));
        Ok(removed)
    }

    /// Removes images without a name (with `all`: every one) that nobody uses and `keep` does not want, layers that no
    /// image has, and what came of layers and nobody holds. With `dry_run` it only says what would go.
    ///
    /// # Errors
    /// What the system said.
    pub fn prune(&self, all: bool, dry_run: bool, keep: Keep<'_>) -> Result<Removed, StoreError> {
        self.sweep()?;
        let locked = self.lock()?;
        let mut removed = Removed::default();
        let mut drafts = Vec::new();
        let mut going = HashSet::new();
        for image in self.images()? {
            if (all || image.names.is_empty()) && self.user(&image.digest, keep)?.is_none() {
                going.insert(image.digest);
                if dry_run {
                    removed.names.extend(image.names);
                    removed.images.push(image.digest);
                    removed.bytes += files::allocated(&self.image_path(&image.digest));
                } else {
                    drafts.push(self.take_away(&locked, &image.digest, &mut removed)?);
                }
            }
        }
        if dry_run {
            let orphans = self.orphans(&locked, &going)?;
            removed.bytes += orphans.iter().map(|diff_id| files::allocated(&self.layer_path(diff_id))).sum::<u64>();
        } else {
            drafts.extend(self.take_orphans(&locked, &mut removed)?);
        }
        drop(locked);
        drop(drafts);
        for partial in self.partials()?.iter().filter(|partial| !partial.is_held) {
            if dry_run || self.discard(partial) {
                removed.bytes += partial.bytes;
            }
        }
        Ok(removed)
    }

    /// Removes layers that no image has, and then, until the rest takes at most so many bytes, what came of layers and
    /// nobody holds, and images that were not used for longest. What somebody uses, what `keep` wants, and the image that
    /// was used or loaded last stay.
    ///
    /// Layers that no image has do not count: while somebody makes something they stay, but are his image's at its end, or
    /// go with the next of these. So an image counts with its layers, whoever makes what.
    ///
    /// # Errors
    /// What the system said.
    pub fn keep_within(&self, budget: u64, keep: Keep<'_>) -> Result<Removed, StoreError> {
        self.sweep()?;
        let mut removed = Removed::default();
        let mut drafts = Vec::new();
        let locked = self.lock()?;
        let partials = self.listed_partials()?;
        drafts.extend(self.take_orphans(&locked, &mut removed)?);
        let mut of_images = self.bytes_of_images()?;
        let mut of_partials: u64 = partials.iter().map(|partial| partial.bytes).sum();
        for partial in &partials {
            if of_images + of_partials <= budget {
                break;
            }
            if self.discard(partial) {
                removed.bytes += partial.bytes;
                of_partials -= partial.bytes;
            }
        }
        let mut images = self.images()?;
        images.sort_by_key(StoredImage::touched);
        images.pop();
        for image in images {
            if of_images + of_partials <= budget {
                break;
            }
            if self.user(&image.digest, keep)?.is_none() {
                drafts.push(self.take_away(&locked, &image.digest, &mut removed)?);
                drafts.extend(self.take_orphans(&locked, &mut removed)?);
                of_images = self.bytes_of_images()?;
            }
        }
        drop(locked);
        drop(drafts);
        Ok(removed)
    }

    /// Who needs an image, or `None`. To be asked under the lock.
    fn user(&self, digest: &ImageDigest, keep: Keep<'_>) -> Result<Option<String>, StoreError> {
        // Leases first: one that has ended by now was held until `keep` knew why.
        let is_leased = self.is_leased(digest)?;
        if let Some(by) = keep(digest) {
            return Ok(Some(by));
        }
        let leased = "a microVM that runs, or an archive or a registry that it is on its way to";
        Ok(is_leased.then(|| leased.to_owned()))
    }

    /// Takes an image and its names away; its files go with the draft.
    fn take_away(&self, locked: &Locked, digest: &ImageDigest, removed: &mut Removed) -> Result<DraftDir, StoreError> {
        let names = self.names()?.of(digest);
        // Names first: without them it is whole, and goes with the next that have none.
        self.unname(locked, &names)?;
        let path = self.image_path(digest);
        let bytes = files::allocated(&path);
        let draft = self.grave(locked)?;
        draft.take(&path)?;
        files::sync(&self.directory.join("images"))?;
        let _ = fs::remove_file(self.lease_path(digest)); // of no meaning without it
        self.forget_manifests(digest);
        removed.names.extend(names);
        removed.images.push(*digest);
        removed.bytes += bytes;
        Ok(draft)
    }

    /// Takes all layers away that no image has, unless somebody makes something.
    fn take_orphans(&self, locked: &Locked, removed: &mut Removed) -> Result<Option<DraftDir>, StoreError> {
        let orphans = self.orphans(locked, &HashSet::new())?;
        if orphans.is_empty() {
            return Ok(None);
        }
        let draft = self.grave(locked)?;
        for diff_id in orphans {
            let path = self.layer_path(&diff_id);
            removed.bytes += files::allocated(&path);
            draft.take(&path)?;
            self.forget_packings(&diff_id);
        }
        files::sync(&self.directory.join("layers"))?;
        Ok(Some(draft))
    }

    /// Layers that no image has but these; none while somebody makes something that may need them.
    fn orphans(&self, locked: &Locked, but: &HashSet<ImageDigest>) -> Result<Vec<ImageDigest>, StoreError> {
        if self.has_makers(locked)? {
            return Ok(Vec::new());
        }
        let images = self.records()?.into_iter().filter(|record| !but.contains(&record.digest));
        let needed: HashSet<_> = images.flat_map(|record| record.layers).collect();
        let mut layers = files::digests(&self.directory.join("layers"))?;
        layers.retain(|diff_id| !needed.contains(diff_id));
        Ok(layers)
    }
}

impl StoredImage {
    /// When it was last of interest to anybody.
    fn touched(&self) -> chrono::DateTime<chrono::Utc> {
        self.last_used.map_or(self.loaded, |used| used.max(self.loaded))
    }
}
