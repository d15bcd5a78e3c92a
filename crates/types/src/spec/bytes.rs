//! Text from users that need not be UTF-8.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Bytes that are usually text: an argument, an environment value, a guest path.
///
/// In JSON a string where they are UTF-8, else `{"base64": "…"}`, so that nothing is changed.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct ByteString(Vec<u8>);

impl ByteString {
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, owned.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The bytes as the system's string type.
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Debug for ByteString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl<T: Into<OsString>> From<T> for ByteString {
    fn from(text: T) -> Self {
        Self(text.into().into_vec())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ByteStringJson {
    Text(String),
    Bytes { base64: String },
}

impl Serialize for ByteString {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => ByteStringJson::Bytes { base64: BASE64.encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for ByteString {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match ByteStringJson::deserialize(deserializer)? {
            ByteStringJson::Text(text) => Ok(Self(text.into_bytes())),
            ByteStringJson::Bytes { base64 } => BASE64.decode(base64).map(Self).map_err(serde::de::Error::custom),
        }
    }
}
