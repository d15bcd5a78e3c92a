//! What is meant by the name of an image that names no registry.

use std::fmt;
use std::str::FromStr;

use crate::image::{DEFAULT_REGISTRY, ImageReference, ReferenceError, id_digits};
use crate::registry::{RegistryName, RegistryNameError};

/// What switches the default registry off.
const NONE: &str = "none";

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
            && let Some(id) = id_digits(text)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn default(text: &str) -> DefaultRegistry {
        text.parse().unwrap()
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
