//! Which images `image ls` lists.

use std::str::FromStr;

use sandpen::api::ImageEntry;
use sandpen_types::default_registry::DefaultRegistry;

use super::super::ps::is_like;

/// Why a filter is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not of the form KEY=VALUE with one of the keys name, used (true or false) and named (true or false)")]
pub struct FilterError;

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    /// A name, in which `*` stands for anything; without a tag it is every one of that repository.
    Name(String),
    /// Whether a sandbox has it.
    Used(bool),
    /// Whether it has a name.
    Named(bool),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let (key, value) = text.split_once('=').ok_or(FilterError)?;
        let flag = || value.parse().map_err(|_| FilterError);
        Ok(match key {
            // The word of other tools for it.
            "name" | "reference" => Self::Name(value.to_owned()),
            "used" => Self::Used(flag()?),
            "named" => Self::Named(flag()?),
            "dangling" => Self::Named(!flag()?),
            _ => return Err(FilterError),
        })
    }
}

impl Filter {
    fn matches(&self, image: &ImageEntry, names_of: &DefaultRegistry) -> bool {
        match self {
            Self::Name(pattern) => image.names.iter().any(|name| {
                let (familiar, whole) = (names_of.familiar(name), name.to_string());
                let bare =
                    name.tag().and_then(|tag| familiar.strip_suffix(tag)).and_then(|bare| bare.strip_suffix(':'));
                [Some(familiar.as_str()), Some(whole.as_str()), bare]
                    .into_iter()
                    .flatten()
                    .any(|name| is_like(pattern, name))
            }),
            Self::Used(used) => image.used_by.is_empty() != *used,
            Self::Named(named) => image.names.is_empty() != *named,
        }
    }
}

/// Whether all kinds of filters let it through; one of several of a kind is enough.
pub fn lets_through(filters: &[Filter], image: &ImageEntry, names_of: &DefaultRegistry) -> bool {
    filters.iter().all(|filter| {
        let same_kind = |other: &&Filter| std::mem::discriminant(*other) == std::mem::discriminant(filter);
        filters.iter().filter(same_kind).any(|other| other.matches(image, names_of))
    })
}

#[cfg(test)]
mod tests {
    use sandpen_types::image::ImageDigest;

    use super::*;

    #[test]
    fn images_are_filtered_by_name_and_use() {
        let image = ImageEntry {
            digest: ImageDigest::new([1; 32]),
            manifest_digest: None,
            names: vec!["debian:12".parse().unwrap(), "ghcr.io/o/app".parse().unwrap()],
            created: None,
            loaded: chrono::DateTime::UNIX_EPOCH,
            last_used: None,
            os: None,
            architecture: None,
            layers: Vec::new(),
            bytes: 0,
            unique_bytes: 0,
            used_by: Vec::new(),
        };
        let passes = |texts: &[&str]| {
            let filters: Vec<Filter> = texts.iter().map(|text| text.parse().unwrap()).collect();
            lets_through(&filters, &image, &DefaultRegistry::default())
        };
        for texts in [
            &["name=debian"][..],
            &["name=debian:12"],
            &["reference=*/app*"],
            &["name=docker.io/library/*"],
            &["name=x", "name=debian", "used=false", "named=true"],
            &["dangling=false"],
            &[],
        ] {
            assert!(passes(texts), "{texts:?}");
        }
        for texts in
            [&["name=debian:11"][..], &["name=deb"], &["used=true"], &["named=false"], &["name=debian", "used=true"]]
        {
            assert!(!passes(texts), "{texts:?}");
        }
        for text in ["", "name", "used=maybe", "size=1", "=x"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
