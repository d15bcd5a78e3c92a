//! Which sandboxes need which images: as it was when somebody looked, and as it is when an image would go.

use std::collections::BTreeMap;
use std::sync::Arc;

use sandpen_actors::database::EverySandbox;
use sandpen_types::image::ImageDigest;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{Rootfs, SandboxKey};

/// Says what sandboxes there are now, and blocks for it; `None` where that is not to be had.
pub(in super::super) type AskAgain = Arc<dyn Fn() -> Option<EverySandbox> + Send + Sync>;

/// Which sandboxes need which images.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct ImageUsers {
    users: BTreeMap<ImageDigest, Vec<SandboxKey>>,
    /// Sandboxes on record that cannot be read, and may need any image.
    unknown: usize,
}

impl ImageUsers {
    pub fn of(every: &EverySandbox) -> Self {
        Self::without(every, |_| false)
    }

    /// As if these were gone.
    pub fn without(every: &EverySandbox, is_gone: impl Fn(&SandboxRow) -> bool) -> Self {
        let mut users: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for spec in every.rows.iter().filter(|row| !is_gone(row)).map(|row| &row.spec) {
            if let Rootfs::Image(image) = &spec.rootfs
                && let Some(digest) = image.digest
            {
                users.entry(digest).or_default().push(spec.key.clone());
            }
        }
        Self { users, unknown: every.left_out }
    }

    /// The sandboxes that have an image.
    pub fn of_image(&self, digest: &ImageDigest) -> &[SandboxKey] {
        self.users.get(digest).map_or(&[], Vec::as_slice)
    }

    /// Whom an image is kept for, in words.
    pub fn keep(&self, digest: &ImageDigest) -> Option<String> {
        match self.of_image(digest) {
            [] if self.unknown > 0 => {
                let unknown = self.unknown;
                Some(format!("{unknown} of the sandboxes on record, perhaps, which cannot be read"))
            }
            [] => None,
            [key] => Some(format!("sandbox {key}")),
            [key, others @ ..] => Some(format!("sandbox {key} and {} more", others.len())),
        }
    }

    /// The same for whoever removes what nobody needs, and has the store's lock by now: of what nobody needed before it is
    /// asked again, for a sandbox may have begun and ended since.
    pub fn keep_now(&self, digest: &ImageDigest, again: &AskAgain) -> Option<String> {
        self.keep(digest).or_else(|| match again() {
            Some(every) => Self::of(&every).keep(digest),
            None => Some("a sandbox on record, perhaps, which cannot be read now".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_nobody_needed_it_is_asked_again() {
        let digest = ImageDigest::new([1; 32]);
        let every = |left_out| EverySandbox { rows: Vec::new(), left_out };
        let before = ImageUsers::of(&every(0));
        let keep = |answer: Option<usize>| {
            let again: AskAgain = Arc::new(move || answer.map(every));
            before.keep_now(&digest, &again)
        };
        assert_eq!(keep(Some(0)), None);
        assert!(keep(Some(1)).is_some(), "one has come since");
        assert!(keep(None).is_some(), "nobody knows");
        let unasked: AskAgain = Arc::new(|| panic!("it was known before"));
        assert!(ImageUsers::of(&every(1)).keep_now(&digest, &unasked).is_some());
    }
}
