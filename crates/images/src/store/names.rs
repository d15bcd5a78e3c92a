//! The names of images, and how one is found by what people write.

use std::collections::BTreeMap;

use sandpen_types::image::{DEFAULT_REGISTRY, DEFAULT_TAG, ImageDigest, ImageReference, id_digits};
use serde::{Deserialize, Serialize};

use super::{Locked, Store, StoreError, files};

/// How alike a name has to be for somebody to have meant it.
const NEAR: f64 = 0.8;
/// Most names that are said to be near.
const NEAR_MAX: usize = 3;

/// What `names.json` holds.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Names {
    names: BTreeMap<ImageReference, ImageDigest>,
}

impl Names {
    /// Those of an image, sorted.
    pub(super) fn of(&self, digest: &ImageDigest) -> Vec<ImageReference> {
        self.names.iter().filter(|(_, of)| *of == digest).map(|(name, _)| name.clone()).collect()
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&ImageReference, &ImageDigest)> {
        self.names.iter()
    }
}

impl Store {
    /// The image that somebody means: by a name in any spelling, by its digest, by the beginning of that, at least 4
    /// digits, or by the digest of a manifest. A name comes before the beginning of a digest.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Ambiguous`], [`StoreError::Reference`], and what the system said.
    pub fn find(&self, asked: &str) -> Result<ImageDigest, StoreError> {
        self.look_up(asked).map(|(digest, _)| digest)
    }

    /// The image that a complete name stands for. One that was made of the beginning of a digest, which looks like a
    /// name, is understood.
    ///
    /// # Errors
    /// Those of [`Store::find`].
    pub fn find_reference(&self, asked: &ImageReference) -> Result<ImageDigest, StoreError> {
        match self.find_name(asked)? {
            Some(digest) => Ok(digest),
            None => self.find(&as_written(asked)),
        }
    }

    /// The image, and the name by which it was found if it was one.
    pub(super) fn look_up(&self, asked: &str) -> Result<(ImageDigest, Option<ImageReference>), StoreError> {
        let is_digest = asked.parse::<ImageDigest>().is_ok();
        let reference = asked.parse::<ImageReference>();
        if !is_digest
            && let Ok(reference) = &reference
            && let Some(digest) = self.find_name(reference)?
        {
            return Ok((digest, Some(reference.clone())));
        }
        if let Some(id) = id_digits(asked) {
            let mut found = files::digests(&self.directory.join("images"))?;
            found.retain(|digest| digest.hex().starts_with(id));
            match found.as_slice() {
                [] => {
                    if let Some(digest) = self.of_manifest(id)? {
                        return Ok((digest, None));
                    }
                }
                [digest] => return Ok((*digest, None)),
                several => {
                    let ids = several.iter().map(ImageDigest::short).collect();
                    return Err(StoreError::Ambiguous { asked: asked.to_owned(), ids });
                }
            }
        } else {
            reference?;
        }
        Err(StoreError::NotFound { asked: asked.to_owned(), near: self.near(asked)? })
    }

    /// Gives an image a name more, which another one loses.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::TagHasDigest`], and what the system said.
    pub fn tag(&self, digest: &ImageDigest, name: &ImageReference) -> Result<(), StoreError> {
        check_tag(name)?;
        let locked = self.lock()?;
        self.record(digest)?;
        self.name(&locked, digest, std::slice::from_ref(name))
    }

    /// Takes a name away; the image stays. Whether there was one.
    ///
    /// # Errors
    /// What the system said.
    pub fn untag(&self, name: &ImageReference) -> Result<bool, StoreError> {
        let locked = self.lock()?;
        let there = self.names()?.names.contains_key(name);
        self.unname(&locked, std::slice::from_ref(name))?;
        Ok(there)
    }

    /// All names as they are now.
    pub(super) fn names(&self) -> Result<Names, StoreError> {
        let path = self.directory.join("names.json");
        let Some(bytes) = files::read(&path)? else { return Ok(Names::default()) };
        let damaged = |error: serde_json::Error| StoreError::Damaged { path, reason: error.to_string() };
        serde_json::from_slice(&bytes).map_err(damaged)
    }

    pub(super) fn name(
        &self,
        locked: &Locked,
        digest: &ImageDigest,
        names: &[ImageReference],
    ) -> Result<(), StoreError> {
        let mut all = self.names()?;
        let mut has_changed = false;
        for name in names {
            has_changed |= all.names.insert(name.clone(), *digest) != Some(*digest);
        }
        if has_changed { self.write_names(locked, &all) } else { Ok(()) }
    }

    pub(super) fn unname(&self, locked: &Locked, names: &[ImageReference]) -> Result<(), StoreError> {
        let mut all = self.names()?;
        let before = all.names.len();
        all.names.retain(|name, _| !names.contains(name));
        if all.names.len() < before { self.write_names(locked, &all) } else { Ok(()) }
    }

    fn write_names(&self, _: &Locked, names: &Names) -> Result<(), StoreError> {
        let path = self.directory.join("names.json");
        let json = serde_json::to_vec_pretty(names).map_err(|error| StoreError::io("write", &path)(error.into()))?;
        files::write(&path, &json)
    }

    /// By name alone. A name with a digest is one of an image whose manifest, or configuration, has it, and which has a
    /// name of that repository.
    fn find_name(&self, asked: &ImageReference) -> Result<Option<ImageDigest>, StoreError> {
        let names = self.names()?;
        let Some(wanted) = asked.digest() else {
            let found = names.names.get(asked).copied();
            return Ok(found.filter(|digest| self.image_path(digest).is_dir()));
        };
        let of_repository =
            |name: &ImageReference| name.registry() == asked.registry() && name.repository() == asked.repository();
        for (_, digest) in names.iter().filter(|(name, _)| of_repository(name)) {
            let record = match self.record(digest) {
                Ok(record) => record,
                Err(StoreError::NotFound { .. }) => continue,
                Err(error) => return Err(error),
            };
            if *digest == wanted || self.manifest_digests(&record)?.contains(&wanted) {
                return Ok(Some(*digest));
            }
        }
        Ok(None)
    }

    /// The image that came with the manifest of this digest, all digits of it.
    fn of_manifest(&self, id: &str) -> Result<Option<ImageDigest>, StoreError> {
        let Ok(wanted) = ImageDigest::from_hex(id) else { return Ok(None) };
        for record in self.records()? {
            if self.manifest_digests(&record)?.contains(&wanted) {
                return Ok(Some(record.digest));
            }
        }
        Ok(None)
    }

    /// Names that look like this one: whole ones, for what a short one means is not the same to everybody.
    fn near(&self, asked: &str) -> Result<Vec<String>, StoreError> {
        let all = self.names()?;
        let alike = |name: &ImageReference| {
            let familiar = name.familiar();
            let bare = familiar.split_once(':').map_or(familiar.as_str(), |(bare, _)| bare);
            let last = bare.rsplit('/').next().unwrap_or(bare);
            [familiar.as_str(), bare, last].iter().map(|name| strsim::jaro_winkler(name, asked)).fold(0.0, f64::max)
        };
        let mut near: Vec<_> = all.iter().map(|(name, _)| (alike(name), name.to_string())).collect();
        near.retain(|(alike, _)| *alike >= NEAR);
        near.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        Ok(near.into_iter().take(NEAR_MAX).map(|(_, name)| name).collect())
    }
}

/// A name that an image can be given.
pub(crate) fn check_tag(name: &ImageReference) -> Result<(), StoreError> {
    match name.digest() {
        Some(_) => Err(StoreError::TagHasDigest(name.familiar())),
        None => Ok(()),
    }
}

/// What somebody may have written who meant a digest or its beginning: a name without anything else.
fn as_written(asked: &ImageReference) -> String {
    let familiar = asked.familiar();
    let is_bare = asked.registry() == DEFAULT_REGISTRY && asked.digest().is_none();
    match familiar.strip_suffix(DEFAULT_TAG).and_then(|bare| bare.strip_suffix(':')) {
        Some(bare) if is_bare => bare.to_owned(),
        _ => familiar,
    }
}
