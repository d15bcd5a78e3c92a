//! Registries and mirrors by name, and the one that is meant where none is named.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::image::{DEFAULT_REGISTRY, ImageReference, ReferenceError, has_registry_form};

/// Most bytes of a name that an error shows.
const SHOWN_MAX: usize = 80;
/// Most bytes of a registry's name, or a mirror's: those of an image's name.
const NAME_MAX: usize = 255;
/// Fewest digits of an image's id that stand for it.
pub const ID_MIN: usize = 4;
/// Digits of a whole id.
const ID_MAX: usize = 64;
/// What switches the default registry off.
const NONE: &str = "none";

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
        Ok(Self(match text {
            "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
            other => other.to_owned(),
        }))
    }
}

/// Where a mirror of a registry is: `HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MirrorPlace(String);

impl MirrorPlace {
    /// Its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

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

/// What a name without a registry belongs to. Whoever types names has one; what goes over the wire and what is kept
/// names its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultRegistry(Option<RegistryName>);

/// What a person called an image by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageCalled {
    /// Its name.
    Name(ImageReference),
    /// The first digits of its id, or all of them.
    Id(String),
}

impl Default for DefaultRegistry {
    fn default() -> Self {
        Self(Some(RegistryName::default()))
    }
}

impl DefaultRegistry {
    /// The registry; `None` where it is switched off.
    pub fn registry(&self) -> Option<&RegistryName> {
        self.0.as_ref()
    }

    fn is_built_in(&self) -> bool {
        self.0.as_ref().is_some_and(|registry| registry.as_str() == DEFAULT_REGISTRY)
    }

    /// The name that a text is.
    ///
    /// # Errors
    /// All of [`ReferenceError`].
    pub fn name(&self, text: &str) -> Result<ImageReference, ReferenceError> {
        match self.called(text)? {
            ImageCalled::Name(name) => Ok(name),
            ImageCalled::Id(_) => Err(ReferenceError::Id { text: text.to_owned() }),
        }
    }

    /// What a text calls an image by. With the built-in default what may be an id is a name all the same: whoever looks
    /// for it tries both.
    ///
    /// # Errors
    /// [`ReferenceError::Form`] and [`ReferenceError::NoRegistry`].
    pub fn called(&self, text: &str) -> Result<ImageCalled, ReferenceError> {
        if !self.is_built_in()
            && let Some(id) = id(text)
        {
            return Ok(ImageCalled::Id(id.to_owned()));
        }
        let built_in: ImageReference = text.parse()?;
        let Some(registry) = &self.0 else {
            if ImageReference::names_registry(text) {
                return Ok(ImageCalled::Name(built_in));
            }
            let instead = format!("{DEFAULT_REGISTRY}/{}", text.trim_start_matches('/'));
            let instead = if text.contains('/') { instead } else { format!("{DEFAULT_REGISTRY}/library/{text}") };
            return Err(ReferenceError::NoRegistry { text: text.to_owned(), instead });
        };
        ImageReference::with_default(text, registry.as_str()).map(ImageCalled::Name)
    }

    /// How a daemon, which knows no other default than the built-in one, is told what a text calls an image by.
    ///
    /// # Errors
    /// As [`DefaultRegistry::called`]; with the built-in default it is for the daemon to say what is wrong.
    pub fn spelled_out(&self, text: &str) -> Result<String, ReferenceError> {
        if self.is_built_in() {
            return Ok(text.to_owned());
        }
        self.called(text).map(|called| match called {
            ImageCalled::Name(name) => name.to_string(),
            ImageCalled::Id(id) => format!("sha256:{id}"),
        })
    }

    /// A name as people write it: without what is the default, if typed again it means the same.
    pub fn familiar(&self, name: &ImageReference) -> String {
        let full = name.to_string();
        let short = match &self.0 {
            None => return full,
            Some(_) if self.is_built_in() => name.familiar(),
            Some(registry) => match full.strip_prefix(registry.as_str()).and_then(|rest| rest.strip_prefix('/')) {
                Some(short) => short.to_owned(),
                None => return full,
            },
        };
        if self.called(&short).is_ok_and(|called| called == ImageCalled::Name(name.clone())) { short } else { full }
    }
}

impl fmt::Display for DefaultRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_ref().map_or(NONE, RegistryName::as_str))
    }
}

impl FromStr for DefaultRegistry {
    type Err = RegistryNameError;

    fn from_str(text: &str) -> Result<Self, RegistryNameError> {
        if text == NONE { Ok(Self(None)) } else { text.parse().map(Some).map(Self) }
    }
}

/// The digits of what can be nothing but an id, if the text is such a one.
fn id(text: &str) -> Option<&str> {
    let digits = text.strip_prefix("sha256:").unwrap_or(text);
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    ((ID_MIN..=ID_MAX).contains(&digits.len()) && digits.bytes().all(is_digit)).then_some(digits)
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

    fn default(text: &str) -> DefaultRegistry {
        text.parse().unwrap()
    }

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
            assert!(text.parse::<DefaultRegistry>().is_err(), "{text}");
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
        assert_eq!((mirror.registry.as_str(), mirror.place.as_str()), ("docker.io", "mirror.example:5000/hub/x"));
        assert_eq!((mirror.place.host(), mirror.place.prefix()), ("mirror.example:5000", "hub/x"));
        for text in ["docker.io", "docker.io=", "=mirror.example", "docker.io=m.example/../x", "docker.io=m.example//x"]
        {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
        for text in ["docker.io=m.example/a b", "docker.io=m.example/?x", "docker.io=m.example/a%2fb", "a=m.example"] {
            assert!(text.parse::<Mirror>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_name_without_a_registry_is_of_the_default_one() {
        for (of, text, full, familiar) in [
            ("docker.io", "debian", "docker.io/library/debian:latest", "debian:latest"),
            ("docker.io", "cafe", "docker.io/library/cafe:latest", "cafe:latest"),
            ("ghcr.io", "debian", "ghcr.io/debian:latest", "debian:latest"),
            ("ghcr.io", "owner/app:1", "ghcr.io/owner/app:1", "owner/app:1"),
            ("ghcr.io", "docker.io/debian", "docker.io/library/debian:latest", "docker.io/library/debian:latest"),
            ("ghcr.io", "ghcr.io/owner/app", "ghcr.io/owner/app:latest", "owner/app:latest"),
            // What stands behind the registry would be one itself.
            ("ghcr.io", "ghcr.io/localhost/app", "ghcr.io/localhost/app:latest", "ghcr.io/localhost/app:latest"),
            (
                "docker.io",
                "docker.io/a.example/app",
                "docker.io/a.example/app:latest",
                "docker.io/a.example/app:latest",
            ),
            ("localhost:5000", "cafe:1", "localhost:5000/cafe:1", "cafe:1"),
            // Typed again it would be an id.
            ("ghcr.io", "ghcr.io/sha256:cafe", "ghcr.io/sha256:cafe", "ghcr.io/sha256:cafe"),
            ("none", "docker.io/debian", "docker.io/library/debian:latest", "docker.io/library/debian:latest"),
        ] {
            let name = default(of).name(text).unwrap();
            assert_eq!(
                (name.to_string().as_str(), default(of).familiar(&name).as_str()),
                (full, familiar),
                "{of} {text}"
            );
            assert_eq!(default(of).name(familiar).unwrap(), name, "{of} {familiar}");
        }
    }

    #[test]
    fn without_a_default_it_is_said_what_to_write() {
        for (text, instead) in [
            ("debian", "docker.io/library/debian"),
            ("debian:12", "docker.io/library/debian:12"),
            ("owner/app", "docker.io/owner/app"),
        ] {
            let error = default("none").name(text).unwrap_err().to_string();
            assert!(error.contains("no default one is set") && error.ends_with(instead), "{error}");
        }
        assert!(matches!(default("none").name("A b"), Err(ReferenceError::Form { .. })));
    }

    #[test]
    fn digits_alone_are_an_id_where_the_default_is_another() {
        let digits = "0a".repeat(32);
        for of in ["ghcr.io", "none"] {
            for text in ["cafe", "sha256:cafe", &digits] {
                let id = text.trim_start_matches("sha256:").to_owned();
                assert_eq!(default(of).spelled_out(text).unwrap(), format!("sha256:{id}"));
                assert_eq!(default(of).called(text).unwrap(), ImageCalled::Id(id));
                assert!(matches!(default(of).name(text), Err(ReferenceError::Id { .. })), "{text}");
            }
        }
        assert_eq!(default("ghcr.io").spelled_out("bed").unwrap(), "ghcr.io/bed:latest");
        for text in ["cafe", "sha256:cafe", "A b", "debian"] {
            assert_eq!(default("docker.io").spelled_out(text).unwrap(), text);
        }
    }
}
