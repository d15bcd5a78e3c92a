//! Digests, which are what images and layers are known by, and the digits that stand for one.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::sha256;

/// Fewest digits of an image's id that stand for it.
const ID_MIN: usize = 4;
/// Digits of a whole id.
const ID_MAX: usize = 64;
/// What a digest's text begins with.
const ALGORITHM: &str = "sha256:";

/// The SHA-256 of something's bytes; in text `sha256:` and 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ImageDigest([u8; 32]);

/// No such text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no digest; one is sha256: and 64 hexadecimal digits")]
pub struct DigestError(String);

impl ImageDigest {
    /// Of a hash.
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The hash.
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 digits, fit for a file's name.
    pub fn hex(&self) -> String {
        let mut hex = String::with_capacity(64);
        let _ = sha256::write(&self.0, &mut hex); // a String takes everything
        hex
    }

    /// Its first 12 digits, as people are shown it.
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// From 64 digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        sha256::read(hex).map(Self).ok_or_else(|| DigestError(hex.chars().take(80).collect()))
    }
}

impl fmt::Display for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{ALGORITHM}{}", self.hex())
    }
}

impl fmt::Debug for ImageDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ImageDigest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let hex = text.strip_prefix(ALGORITHM).ok_or_else(|| DigestError(text.chars().take(80).collect()))?;
        Self::from_hex(hex)
    }
}

impl Serialize for ImageDigest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ImageDigest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The digits of what an image's id may be: at least four of it, with or without `sha256:`. It may be a name as well.
pub fn id_digits(text: &str) -> Option<&str> {
    let digits = text.strip_prefix(ALGORITHM).unwrap_or(text);
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    ((ID_MIN..=ID_MAX).contains(&digits.len()) && digits.bytes().all(is_digit)).then_some(digits)
}
