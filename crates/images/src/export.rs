//! Images of a store as an archive.

use std::io::{self, Read, Write};

use sandpen_types::image::{ImageDigest, ImageReference};

use crate::layer::LayerInfo;
use crate::save::{self, ArchiveFormat, SaveError, SavedImage, SavedLayer};
use crate::store::{Store, StoreError};

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The archive.
    #[error(transparent)]
    Save(#[from] SaveError),
}

/// An image, and the names that it has in the archive.
pub type Named = (ImageDigest, Vec<ImageReference>);

/// Writes these images with their layers, each of which is the same byte for byte as when it came. They are in use until
/// this ends.
///
/// # Errors
/// [`ExportError`]; what was written is no whole archive then.
pub fn export(store: &Store, images: &[Named], format: ArchiveFormat, out: impl Write) -> Result<(), ExportError> {
    let mut leases = Vec::new();
    let mut contents = Vec::new();
    for (digest, _) in images {
        leases.push(store.lease(digest)?);
        let mut layers = Vec::new();
        for diff_id in store.record(digest)?.layers {
            let record = store.layer(&diff_id)?.ok_or_else(|| StoreError::Damaged {
                path: store.layer_path(&diff_id),
                reason: "it is missing".to_owned(),
            })?;
            layers.push(SavedLayer { diff_id, size: record.info.tar_bytes });
        }
        contents.push((store.config(digest)?, layers));
    }
    let saved = images.iter().zip(&contents).map(|((_, names), (config, layers))| SavedImage {
        names: names.clone(),
        config,
        layers: layers.clone(),
    });
    let saved: Vec<_> = saved.collect();
    let mut open = |layer: &SavedLayer| -> io::Result<Box<dyn Read>> {
        let tar = LayerInfo::tar_split(&store.layer_path(&layer.diff_id)).open().map_err(io::Error::other)?;
        Ok(Box::new(tar))
    };
    save::save(&saved, format, &mut open, out)?;
    drop(leases);
    Ok(())
}
