//! Words for programs: a closed set in each version, to which a later one may add.

use std::fmt;

use sandpen_types::state::{FailureKind, Status};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An enum whose values are words on the wire.
pub trait Keyword: Copy + Eq + 'static {
    /// The value of a word; `None` for what this version does not know.
    fn of_word(word: &str) -> Option<Self>;

    /// Its word.
    fn word(self) -> &'static str;
}

impl Keyword for Status {
    fn of_word(word: &str) -> Option<Self> {
        word.parse().ok()
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

impl Keyword for FailureKind {
    fn of_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    fn word(self) -> &'static str {
        self.as_str()
    }
}

/// A word that this version knows, or one of a later version, kept as it came: a client goes on with what it
/// does not know, and shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word<K> {
    /// A known one.
    Known(K),
    /// Of a later version.
    Unknown(String),
}

impl<K: Keyword> Word<K> {
    /// The value, where this version knows it.
    pub fn known(&self) -> Option<K> {
        match self {
            Self::Known(value) => Some(*value),
            Self::Unknown(_) => None,
        }
    }

    /// The word.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Known(value) => value.word(),
            Self::Unknown(word) => word,
        }
    }
}

impl<K> From<K> for Word<K> {
    fn from(value: K) -> Self {
        Self::Known(value)
    }
}

impl<K: Keyword> PartialEq<K> for Word<K> {
    fn eq(&self, other: &K) -> bool {
        self.known() == Some(*other)
    }
}

impl<K: Keyword> fmt::Display for Word<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl<K: Keyword> Serialize for Word<K> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, K: Keyword> Deserialize<'de> for Word<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let word = String::deserialize(deserializer)?;
        Ok(K::of_word(&word).map_or(Self::Unknown(word), Self::Known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_of_a_later_version_is_kept() {
        let read = |json: &str| serde_json::from_str::<Word<Status>>(json).unwrap();
        assert_eq!(read("\"RUNNING\""), Word::Known(Status::Running));
        let later = read("\"PAUSED\"");
        assert_eq!((later.known(), later.to_string().as_str()), (None, "PAUSED"));
        assert!(later != Status::Running && read("\"RUNNING\"") == Status::Running);
        assert_eq!(serde_json::to_string(&later).unwrap(), "\"PAUSED\"");
        assert!(serde_json::from_str::<Word<Status>>("1").is_err());
    }
}
