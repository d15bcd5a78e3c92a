//! What images take of the disk, and what of that a pruning of everything takes: images without a name that nobody
//! uses, layers that no image has then, and those that came in part. Images with names are kept on purpose.

use std::collections::HashSet;
use std::path::Path;

use sandpen_images::store::{Store, StoreError};
use sandpen_types::disk_usage::{PrunedItem, Reclaim, UsageItem, UsageKind};
use sandpen_types::error_chain::error_chain;
use sandpen_types::image::ImageReference;

use super::{AskAgain, ImageUsers, Images};

impl Images {
    /// Each image and each layer, whole or in part.
    pub fn usage(&self, users: &ImageUsers) -> Vec<UsageItem> {
        let Some(store) = self.existing() else { return Vec::new() };
        look(&store, users).unwrap_or_else(|error| {
            tracing::warn!(error = error_chain(&error), "what images take of the disk is not known");
            Vec::new()
        })
    }

    /// Removes what a pruning takes; says what that was.
    pub fn prune_unnamed(&self, users: &ImageUsers, again: &AskAgain) -> Vec<PrunedItem> {
        let Some(store) = self.existing() else { return Vec::new() };
        let planned = self.usage(users).into_iter().filter(|item| item.reclaim == Reclaim::Always);
        let planned: Vec<_> = planned.collect();
        let pruned = store.prune(false, false, &|digest| users.keep_now(digest, again));
        let error = pruned.err().map(|error| error_chain(&error));
        // What somebody has taken into use or named meanwhile is still there, by its path: it had no names.
        let is_told = |item: &UsageItem| error.is_some() || !Path::new(&item.what).exists();
        let told = planned.into_iter().filter(|item| is_told(item));
        told.map(|item| PrunedItem { item, error: error.clone() }).collect()
    }
}

fn look(store: &Store, users: &ImageUsers) -> Result<Vec<UsageItem>, StoreError> {
    let images = store.images()?;
    let stays = |image: &&sandpen_images::store::StoredImage| {
        !image.names.is_empty() || store.is_used(&image.digest) || users.keep(&image.digest).is_some()
    };
    let staying: HashSet<_> = images.iter().filter(stays).map(|image| image.digest).collect();
    let of_staying = images.iter().filter(|image| staying.contains(&image.digest));
    let needed: HashSet<_> = of_staying.flat_map(|image| image.layers.iter().map(|layer| layer.diff_id)).collect();
    let item = |kind, path: &Path, names: &[ImageReference], bytes, stays: bool| {
        let names = names.iter().map(ImageReference::familiar).collect::<Vec<_>>().join(", ");
        let path = path.display().to_string();
        UsageItem {
            kind,
            what: if names.is_empty() { path } else { names },
            sandbox: None,
            bytes,
            reclaim: if stays { Reclaim::Never } else { Reclaim::Always },
        }
    };
    let of_images = images.iter().map(|image| {
        let layers: u64 = image.distinct_layers().map(|layer| layer.bytes).sum();
        let own = image.total_bytes - layers.min(image.total_bytes);
        let path = store.image_path(&image.digest);
        item(UsageKind::Images, &path, &image.names, own, staying.contains(&image.digest))
    });
    let mut items: Vec<_> = of_images.collect();
    let is_made = store.is_being_made()?;
    for (diff_id, bytes) in store.layers()? {
        let stays = is_made || needed.contains(&diff_id);
        items.push(item(UsageKind::ImageLayers, &store.layer_path(&diff_id), &[], bytes, stays));
    }
    for partial in store.partials()? {
        let path = store.partial_path(&partial.packed);
        items.push(item(UsageKind::ImageLayers, &path, &[], partial.bytes, partial.is_held));
    }
    Ok(items)
}
