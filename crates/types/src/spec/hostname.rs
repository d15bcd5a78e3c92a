//! The name that a machine has for its own programs.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::text::checked_text;

/// Most bytes of a name (`__NEW_UTS_LEN` of Linux).
const MAX: usize = 64;

/// A host name: labels of letters, digits and `-`, with dots between them, of at most 64 bytes together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(String);

checked_text!(Hostname);

impl FromStr for Hostname {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let is_label = |label: &str| {
            !label.is_empty()
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        match text.len() <= MAX && text.split('.').all(is_label) {
            true => Ok(Self(text.to_owned())),
            false => Err(SpecError::Hostname(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_labels_with_dots() {
        let longest = "a".repeat(MAX);
        for name in ["web", "db-1.internal", "A.b.3", longest.as_str()] {
            assert_eq!(name.parse::<Hostname>().unwrap().as_str(), name);
        }
        for name in ["", ".", "web.", "-a", "a-", "a_b", "a b", "ü", "a\n127.0.0.1", &"a".repeat(MAX + 1)] {
            assert!(name.parse::<Hostname>().is_err(), "{name:?}");
            assert!(serde_json::from_value::<Hostname>(name.into()).is_err(), "{name:?}");
        }
    }
}
