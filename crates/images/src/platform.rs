//! Platforms that images are for, `os/architecture[/variant]`, and which image a machine takes of several.
//!
//! Names are those of Go (`GOOS`, `GOARCH`), as the OCI image specification 1.1 (image-index.md) has them. Other names
//! of the same, and variants that say no more than the architecture, are brought to one form as containerd does it
//! (`platforms/database.go`): `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`.

use std::fmt;
use std::str::FromStr;

use crate::json::shown;

/// Most bytes of a part.
const PART_MAX: usize = 64;

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Platform {
    os: String,
    architecture: String,
    variant: Option<String>,
}

/// No such platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is no platform; one is OS/ARCHITECTURE[/VARIANT], as linux/amd64 or linux/arm/v7")]
pub struct PlatformError(String);

impl Platform {
    /// Of its parts.
    pub fn new(os: &str, architecture: &str, variant: Option<&str>) -> Result<Self, PlatformError> {
        let is_part = |part: &str| {
            let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
            (1..=PART_MAX).contains(&part.len()) && part.bytes().all(is_fit)
        };
        let variant = variant.filter(|variant| !variant.is_empty());
        if ![os, architecture].into_iter().chain(variant).all(is_part) {
            let parts = [Some(os), Some(architecture), variant];
            return Err(PlatformError(shown(&parts.into_iter().flatten().collect::<Vec<_>>().join("/"))));
        }
        let [os, architecture] = [os, architecture].map(str::to_ascii_lowercase);
        let variant = variant.map(str::to_ascii_lowercase);
        let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
            ("x86_64" | "x86-64" | "amd64", None | Some("v1")) => ("amd64", None),
            ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
            ("aarch64" | "arm64", None | Some("v8" | "8")) => ("arm64", None),
            ("aarch64" | "arm64", variant) => ("arm64", variant),
            ("armhf" | "arm", None | Some("" | "7")) => ("arm", Some("v7")),
            ("armel", None | Some("6")) | ("arm", Some("6")) => ("arm", Some("v6")),
            ("arm", Some("5")) => ("arm", Some("v5")),
            ("arm", Some("8")) => ("arm", Some("v8")),
            ("i386" | "i686" | "386", None) => ("386", None),
            (other, variant) => (other, variant),
        };
        Ok(Self { os, architecture: architecture.to_owned(), variant: variant.map(str::to_owned) })
    }

    /// Linux on this machine's processor.
    pub fn host() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", None),
            "arm" => ("arm", Some("v7".to_owned())),
            "x86" => ("386", None),
            "powerpc64" => ("ppc64le", None),
            other => (other, None),
        };
        Self { os: "linux".to_owned(), architecture: architecture.to_owned(), variant }
    }

    /// The operating system.
    pub fn os(&self) -> &str {
        &self.os
    }

    /// The processor.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Which of that processor's kinds, where the architecture alone does not say it.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }

    /// How well a machine of this platform runs an image of `offered`: `None` is not at all, and more is better. A
    /// processor of a later variant runs what was made for an earlier one.
    pub fn fit(&self, offered: &Self) -> Option<u32> {
        if (&self.os, &self.architecture) != (&offered.os, &offered.architecture) {
            return None;
        }
        if self.variant == offered.variant {
            return Some(u32::MAX);
        }
        let (has, needs) = (self.level()?, offered.level()?);
        (needs <= has).then_some(needs)
    }

    /// The variant as a number.
    fn level(&self) -> Option<u32> {
        let variant = match (self.architecture.as_str(), self.variant.as_deref()) {
            ("amd64", variant) => variant.unwrap_or("v1"),
            ("arm64", variant) => variant.unwrap_or("v8"),
            ("arm", variant) => variant.unwrap_or("v7"),
            _ => return None,
        };
        let number = variant.strip_prefix('v')?;
        let (major, minor) = number.split_once('.').unwrap_or((number, "0"));
        major.parse::<u32>().ok()?.checked_mul(1000)?.checked_add(minor.parse::<u16>().ok()?.into())
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let refused = || PlatformError(shown(text));
        let mut parts = text.split('/');
        let (Some(os), Some(architecture)) = (parts.next(), parts.next()) else { return Err(refused()) };
        let variant = parts.next();
        if parts.next().is_some() || variant == Some("") {
            return Err(refused());
        }
        Self::new(os, architecture, variant).map_err(|_| refused())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn names_of_the_same_are_one() {
        for (text, expected) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/i386", "linux/386"),
            ("windows/amd64", "windows/amd64"),
        ] {
            assert_eq!(platform(text).to_string(), expected);
        }
        for text in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b", "linux/arm/", "l\u{1b}/x", "é/x"]
        {
            assert!(text.parse::<Platform>().is_err(), "{text:?}");
        }
        assert_eq!(platform(&Platform::host().to_string()), Platform::host());
    }

    #[test]
    fn a_later_variant_runs_what_is_for_an_earlier_one() {
        for (machine, image, fits) in [
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v2", false),
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm64", "linux/arm/v7", false),
            ("linux/arm64", "linux/arm64/v8.2", false),
            ("linux/arm64/v9", "linux/arm64/v8.2", true),
            ("linux/amd64", "windows/amd64", false),
            ("linux/mips/x", "linux/mips/y", false),
            ("linux/mips/x", "linux/mips/x", true),
        ] {
            assert_eq!(platform(machine).fit(&platform(image)).is_some(), fits, "{machine} {image}");
        }
        let v8 = platform("linux/arm/v8");
        assert!(v8.fit(&platform("linux/arm/v7")) > v8.fit(&platform("linux/arm/v6")));
    }
}
