//! Images by name and by content: references as people write them, and digests.
//!
//! ```text
//!   debian                        ─▶ docker.io/library/debian:latest
//!   ghcr.io/owner/app:1.2         ─▶ ghcr.io/owner/app:1.2
//!   localhost:5000/app@sha256:…   ─▶ localhost:5000/app@sha256:…
//! ```
//!
//! The grammar is that of the distribution project (`reference/regexp.go`), which every registry keeps to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

mod digest;

pub use digest::{DigestError, ImageDigest, id_digits};

/// What a reference without a registry is of.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of the default registry in references.
const HUB_INDEX: &str = "index.docker.io";
/// Where the default registry answers, which tools write for it as well.
pub const HUB_HOST: &str = "registry-1.docker.io";
/// Where the default registry keeps what has no owner.
const DEFAULT_OWNER: &str = "library/";
/// The tag of a reference without one.
pub const DEFAULT_TAG: &str = "latest";
/// Most bytes of registry and name together (`NameTotalLengthMax` of the distribution project).
const NAME_MAX: usize = 255;
/// Most bytes of a tag.
const TAG_MAX: usize = 128;

/// What references call a registry that somebody names by a host of its own.
pub fn registry_at(host: &str) -> &str {
    if matches!(host, HUB_INDEX | HUB_HOST) { DEFAULT_REGISTRY } else { host }
}

/// The name of an image, complete: registry, repository, and a tag or a digest or both.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<ImageDigest>,
}

/// No such name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// Against the grammar.
    #[error("{text:?} is no name of an image: {reason}; one is [REGISTRY/]NAME[:TAG][@sha256:DIGEST]")]
    Form {
        /// As it was given, cut where it is long.
        text: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// Without a registry, where there is no default one.
    #[error("{text:?} does not name its registry, and no default one is set; that of Docker Hub is {instead}")]
    NoRegistry {
        /// As it was given.
        text: String,
        /// With the registry that most people mean.
        instead: String,
    },
    /// What an id may be, where a name has to be.
    #[error("{text:?} would be an id of an image, and a name is wanted; give it a tag ({text}:latest) or its registry")]
    Id {
        /// As it was given.
        text: String,
    },
}

impl ImageReference {
    /// The registry, with its port if it names one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The name within the registry.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; `None` only where there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest of its manifest.
    pub fn digest(&self) -> Option<ImageDigest> {
        self.digest
    }

    /// The same with the digest of its manifest.
    #[must_use]
    pub fn with_digest(self, digest: ImageDigest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// The name by its tag alone; `None` where it has none.
    #[must_use]
    pub fn tagged(&self) -> Option<Self> {
        self.tag.is_some().then(|| Self { digest: None, ..self.clone() })
    }

    /// The name of a text in which the registry may be left out; [`FromStr`] has [`DEFAULT_REGISTRY`] for it.
    ///
    /// # Errors
    /// [`ReferenceError::Form`].
    pub fn with_default(text: &str, default: &str) -> Result<Self, ReferenceError> {
        parse(text, default)
    }

    /// Whether a text of this form names its registry.
    pub fn names_registry(text: &str) -> bool {
        text.split_once('/').is_some_and(|(first, _)| is_registry(first))
    }

    /// As people write it: without what is the default.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        let Some(rest) = full.strip_prefix(DEFAULT_REGISTRY).and_then(|rest| rest.strip_prefix('/')) else {
            return full;
        };
        match rest.strip_prefix(DEFAULT_OWNER) {
            Some(name) if !self.repository[DEFAULT_OWNER.len()..].contains('/') => name.to_owned(),
            _ => rest.to_owned(),
        }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text, DEFAULT_REGISTRY)
    }
}

fn parse(text: &str, default: &str) -> Result<ImageReference, ReferenceError> {
    let refused = |reason| ReferenceError::Form { text: text.chars().take(NAME_MAX).collect(), reason };
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| refused("its digest is none"))?)),
        None => (text, None),
    };
    // A colon behind the last slash begins a tag; one before it a port.
    let name_start = rest.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match rest[name_start..].split_once(':') {
        Some((last, tag)) => (&rest[..name_start + last.len()], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag
        && !is_tag(tag)
    {
        return Err(refused("a tag has letters, digits and . _ -, at most 128, and begins with no . or -"));
    }
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if is_registry(first) => (first.to_owned(), rest.to_owned()),
        _ => (default.to_owned(), name.to_owned()),
    };
    if name.len() == 64 && ImageDigest::from_hex(name).is_ok() {
        return Err(refused("it is a digest without sha256:"));
    }
    let registry = if registry == HUB_INDEX { DEFAULT_REGISTRY.to_owned() } else { registry };
    let repository = match repository.as_str() {
        alone if registry == DEFAULT_REGISTRY && !alone.contains('/') => format!("{DEFAULT_OWNER}{alone}"),
        _ => repository,
    };
    if !has_registry_form(&registry) {
        return Err(refused("its registry is no host"));
    }
    if name.is_empty() || !repository.split('/').all(is_component) {
        let reason = "a name has lower-case letters, digits and separators . _ __ - between them, in parts \
                          between slashes";
        return Err(refused(reason));
    }
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(refused("a name has at most 255 characters"));
    }
    let tag = tag.map(str::to_owned).or_else(|| digest.is_none().then(|| DEFAULT_TAG.to_owned()));
    Ok(ImageReference { registry, repository, tag, digest })
}

impl Serialize for ImageReference {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageReference {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Whether the first part of a name is a registry rather than an owner at the default one.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|byte| byte.is_ascii_uppercase())
}

pub(crate) fn has_registry_form(registry: &str) -> bool {
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok() && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_v6 = |host: &str| {
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        inner.is_some_and(|inner| inner.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let is_label = |label: &str| {
        let ends_well = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && ends_well && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    port.is_none_or(is_port) && (is_v6(host) || host.split('.').all(is_label))
}

fn is_tag(tag: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= TAG_MAX
        && tag.bytes().next().is_some_and(is_word)
        && tag.bytes().all(|byte| is_word(byte) || matches!(byte, b'.' | b'-'))
}

/// `alnum (separator alnum)*`; a separator is `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let is_alnum = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    if !bytes.first().is_some_and(is_alnum) || !bytes.last().is_some_and(is_alnum) {
        return false;
    }
    bytes
        .split(is_alnum)
        .all(|separator| matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_have_their_defaults() {
        let digest = format!("sha256:{}", "a0".repeat(32));
        for (text, full, familiar) in [
            ("debian", "docker.io/library/debian:latest", "debian:latest"),
            ("debian:12-slim", "docker.io/library/debian:12-slim", "debian:12-slim"),
            ("owner/app", "docker.io/owner/app:latest", "owner/app:latest"),
            ("docker.io/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("index.docker.io/library/debian", "docker.io/library/debian:latest", "debian:latest"),
            ("library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"),
            ("ghcr.io/o/app:1", "ghcr.io/o/app:1", "ghcr.io/o/app:1"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app", "localhost:5000/app:latest", "localhost:5000/app:latest"),
            ("[::1]:5000/a__b/c--d:T", "[::1]:5000/a__b/c--d:T", "[::1]:5000/a__b/c--d:T"),
        ] {
            let reference: ImageReference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<ImageReference>().unwrap(), reference, "{text}");
            assert_eq!(familiar.parse::<ImageReference>().unwrap(), reference, "{text}");
        }
        let by_digest: ImageReference = format!("debian@{digest}").parse().unwrap();
        assert_eq!((by_digest.tag(), by_digest.digest().unwrap().to_string()), (None, digest.clone()));
        let both: ImageReference = format!("debian:12@{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/library/debian:12@{digest}"));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(256);
        let hex = "a0".repeat(32);
        for text in [
            "",
            ":tag",
            "UPPER",
            "a//b",
            "a/",
            "/a",
            "a b",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:1",
            "a@md5:00",
            "../a",
            "a/../b",
            "x.y:port/a",
            "x.y:70000/a",
            "a\n",
            "a\0",
            "é",
            &long,
            &hex,
            ".a/b",
            "-.x/b",
        ] {
            assert!(text.parse::<ImageReference>().is_err(), "{text:?}");
        }
        let tag = format!("a:{}", "t".repeat(129));
        assert!(tag.parse::<ImageReference>().is_err());
        let error = "Ab".parse::<ImageReference>().unwrap_err().to_string();
        assert!(error.starts_with("\"Ab\" is no name of an image: "), "{error}");
    }

    #[test]
    fn digests_are_read_as_they_are_written() {
        let digest = ImageDigest::new([0xAB; 32]);
        assert_eq!(digest.to_string().parse::<ImageDigest>().unwrap(), digest);
        assert_eq!(digest.short(), "abababababab");
        for text in ["", "sha256:", "sha512:00", "sha256:AB", &format!("sha256:{}", "AB".repeat(32)), &"ab".repeat(32)]
        {
            assert!(text.parse::<ImageDigest>().is_err(), "{text:?}");
        }
    }
}
