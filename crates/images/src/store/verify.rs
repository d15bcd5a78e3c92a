//! Whether what is in the store is what its records say.

use std::collections::BTreeSet;

use super::record::{self, Record};
use super::{CONFIG, ImageRecord, LayerRecord, Store, StoreError, files};
use crate::digest::digest_of;

impl Store {
    /// Looks at every image and layer: its files have the sizes that are recorded, an image's layers are there, its
    /// configuration has its digest, every name is one of an image. Answers what is wrong, a line each. What is being
    /// changed at the same time may be among that.
    ///
    /// # Errors
    /// What the system said.
    pub fn verify(&self) -> Result<Vec<String>, StoreError> {
        let mut wrong = Vec::new();
        let layers: BTreeSet<_> =
            self.verify_kind::<LayerRecord>("layers", &mut wrong)?.into_iter().map(|(_, l)| l.info.diff_id).collect();
        let images = self.verify_kind::<ImageRecord>("images", &mut wrong)?;
        for (path, image) in &images {
            let missing = image.layers.iter().filter(|diff_id| !layers.contains(diff_id));
            wrong.extend(missing.map(|diff_id| format!("{}: its layer {diff_id} is missing", path.display())));
            let config = files::read(&path.join(CONFIG))?.unwrap_or_default();
            if digest_of(&config) != image.digest {
                wrong.push(format!("{}: {CONFIG} has another digest", path.display()));
            }
        }
        for (name, digest) in self.names()?.iter() {
            if !images.iter().any(|(_, image)| image.digest == *digest) {
                wrong.push(format!("{name} is the name of {digest}, which is missing"));
            }
        }
        Ok(wrong)
    }

    fn verify_kind<R: Record>(
        &self,
        kind: &str,
        wrong: &mut Vec<String>,
    ) -> Result<Vec<(std::path::PathBuf, R)>, StoreError> {
        let mut records = Vec::new();
        let directory = self.directory.join(kind);
        for digest in files::digests(&directory)? {
            let path = directory.join(digest.hex());
            let fault = match record::read::<R>(&path) {
                Ok(None) => Some(format!("it has no {}", R::NAME)),
                Ok(Some(record)) if record.digest() != digest => Some("its record is another one's".to_owned()),
                Ok(Some(record)) => {
                    let fault = record::fault(&path, &record)?;
                    records.push((path.clone(), record));
                    fault
                }
                Err(StoreError::Damaged { reason, .. }) => Some(reason),
                Err(error) => return Err(error),
            };
            wrong.extend(fault.map(|fault| format!("{}: {fault}", path.display())));
        }
        Ok(records)
    }
}
