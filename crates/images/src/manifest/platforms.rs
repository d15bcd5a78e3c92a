//! Which of several images is for a platform.

use std::collections::BTreeSet;

use super::{Descriptor, ImageIndex, ManifestError};
use crate::platform::Platform;

/// Most platforms that an error lists.
const LISTED_MAX: usize = 24;

impl ImageIndex {
    /// The image that a machine of this platform runs best; of several that are as good, the first. Where none says
    /// that it is for this platform, and exactly one does not say what it is for, it is that one.
    pub fn choose(&self, platform: &Platform) -> Result<&Descriptor, ManifestError> {
        let images: Vec<_> = self.manifests.iter().filter(|entry| entry.is_image).collect();
        if let Some(first) = best(&images, platform).first() {
            return Ok(first);
        }
        let mut silent = images.iter().filter(|entry| entry.platform.is_none());
        match (silent.next(), silent.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(no_platform(&images, platform)),
        }
    }
}

/// Those of the images that say that they are for this platform, and none is better.
pub(crate) fn best<'a>(images: &[&'a Descriptor], platform: &Platform) -> Vec<&'a Descriptor> {
    let fit = |image: &Descriptor| image.platform.as_ref().and_then(|offered| platform.fit(offered));
    let Some(most) = images.iter().filter_map(|image| fit(image)).max() else { return Vec::new() };
    images.iter().copied().filter(|image| fit(image) == Some(most)).collect()
}

/// The error that says what there is instead.
pub(crate) fn no_platform(images: &[&Descriptor], wanted: &Platform) -> ManifestError {
    let of: BTreeSet<_> = images.iter().map(|image| image.platform.as_ref().map(ToString::to_string)).collect();
    let named = |of: &Option<String>| of.clone().unwrap_or_else(|| "some that do not say what they are for".to_owned());
    let mut available: Vec<_> = of.iter().take(LISTED_MAX).map(named).collect();
    match of.len() {
        0 => available.push("none at all".to_owned()),
        more if more > LISTED_MAX => available.push(format!("{} more", more - LISTED_MAX)),
        _ => {}
    }
    ManifestError::NoPlatform { wanted: wanted.clone(), available: available.join(", ") }
}
