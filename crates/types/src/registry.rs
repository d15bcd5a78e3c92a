//! Registries and mirrors by name, as people write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::{DEFAULT_REGISTRY, ImageReference, has_registry_form, registry_at};

/// Most bytes of a name that an error shows.
const SHOWN_MAX: usize = 80;
/// Most bytes of a registry's name, or a mirror's: those of an image's name.
const NAME_MAX: usize = 255;

/// No registry, or no mirror.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RegistryNameError {
    /// A URL.
    #[error("a registry is named without {0}, as HOST[:PORT]")]
    Scheme(&'static str),
    /// Somebody's name, and maybe a password, which is not shown.
    #[error("a registry is named as HOST[:PORT], without who logs in; that is for `sandpen login`")]
    Credentials,
    /// Something else.
    #[error("{0:?} is no registry; one is HOST[:PORT], for example ghcr.io or localhost:5000")]
    Registry(String),
    /// No place that a mirror could be.
    #[error("{0:?} is no mirror; one is HOST[:PORT][/PREFIX]")]
    Mirror(String),
    /// No pair.
    #[error(
        "{0:?} is no mirror of a registry; give REGISTRY=HOST[:PORT][/PREFIX], for example docker.io=mirror.example"
    )]
    MirrorOf(String),
}

/// A registry as references name it: `HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryName(String);

impl RegistryName {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RegistryName {
    fn default() -> Self {
        Self(DEFAULT_REGISTRY.to_owned())
    }
}

impl fmt::Display for RegistryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RegistryName {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, RegistryNameError> {
        look_at(text)?;
        if !is_host(text) {
            return Err(RegistryNameError::Registry(cut(text)));
        }
        Ok(Self(registry_at(text).to_owned()))
    }
}

/// Where a mirror of a registry is: `HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorPlace(String);

impl MirrorPlace {
    /// The host, with its port if it names one.
    pub fn host(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// What stands before the names of images there, without slashes around it; empty for nothing.
    pub fn prefix(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, prefix)| prefix)
    }
}

impl fmt::Display for MirrorPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MirrorPlace {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, RegistryNameError> {
        look_at(text)?;
        let place = text.strip_suffix('/').unwrap_or(text);
        let (host, prefix) = place.split_once('/').map_or((place, None), |(host, prefix)| (host, Some(prefix)));
        let is_part = |part: &str| {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            !part.is_empty() && !part.bytes().all(|byte| byte == b'.') && part.bytes().all(is_fit)
        };
        if !is_host(host) || text.len() > NAME_MAX || !prefix.is_none_or(|prefix| prefix.split('/').all(is_part)) {
            return Err(RegistryNameError::Mirror(cut(text)));
        }
        Ok(Self(place.to_owned()))
    }
}

impl Serialize for MirrorPlace {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for MirrorPlace {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A mirror and what it is one of: `REGISTRY=HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Whose images it has.
    pub registry: RegistryName,
    /// Where it is.
    pub place: MirrorPlace,
}

impl FromStr for Mirror {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, RegistryNameError> {
        look_at(text)?;
        let (registry, place) = text.split_once('=').ok_or_else(|| RegistryNameError::MirrorOf(cut(text)))?;
        Ok(Self { registry: registry.parse()?, place: place.parse()? })
    }
}

/// Refuses what people take for a registry.
fn look_at(text: &str) -> Result<(), RegistryNameError> {
    if text.contains('@') {
        return Err(RegistryNameError::Credentials);
    }
    match ["https://", "http://", "docker://"].into_iter().find(|scheme| text.contains(scheme)) {
        Some(scheme) => Err(RegistryNameError::Scheme(scheme)),
        None => Ok(()),
    }
}

/// A host that references can name: one of a single word is an owner there, unless it is localhost or has a port.
fn is_host(text: &str) -> bool {
    text.len() <= NAME_MAX && has_registry_form(text) && ImageReference::names_registry(&format!("{text}/x"))
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_registry_is_refused_and_no_password_shown() {
        for text in [
            "",
            "ghcr",
            "a b.example",
            " ghcr.io",
            "ghcr.io ",
            "ghcr.io/owner",
            "https://ghcr.io",
            "user:hunter2@ghcr.io",
            "https://user:hunter2@ghcr.io/v2/",
            "ghcr.io:port",
            "ghcr.io:70000",
            "..",
            "a..b",
            "-a.example",
            "a.example\n",
            "é.example",
            "\u{1b}[2J.example",
            &format!("{}.example", "a".repeat(255)),
        ] {
            let error = text.parse::<RegistryName>().unwrap_err().to_string();
            assert!(!error.contains("hunter2") && !error.contains('\u{1b}'), "{error}");
            assert!(error.contains("HOST[:PORT]"), "{error}");
            assert!(text.parse::<crate::default_registry::DefaultRegistry>().is_err(), "{text}");
            assert!(format!("docker.io={text}").parse::<Mirror>().is_err() || text == "ghcr.io/owner", "{text}");
            assert!(format!("{text}=mirror.example").parse::<Mirror>().is_err(), "{text}");
        }
        for text in ["ghcr.io", "localhost", "localhost:5000", "10.0.0.1", "[::1]:5000", "registry:5000", "A.example"] {
            assert_eq!(text.parse::<RegistryName>().unwrap().as_str(), text);
        }
        assert_eq!("index.docker.io".parse::<RegistryName>().unwrap(), RegistryName::default());
    }

    #[test]
    fn mirrors_are_of_a_registry() {
        let mirror: Mirror = "docker.io=mirror.example:5000/hub/x/".parse().unwrap();
        assert_eq!(
            (mirror.registry.as_str(), mirror.place.to_string()),
            ("docker.io", "mirror.example:5000/hub/x".to_owned())
        );
        assert_eq!((mirror.place.host(), mirror.place.prefix()), ("mirror.example:5000", "hub/x"));
        for text in ["docker.io", "docker.io=", "=mirror.example", "docker.io=m.example/../x", "docker.io=m.example//x"]
        {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
        for text in ["docker.io=m.example/a b", "docker.io=m.example/?x", "docker.io=m.example/a%2fb", "a=m.example"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }
}
