//! What users say of a sandbox, for themselves and for programs that look for it.

use std::collections::BTreeMap;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::SpecError;
use super::text::checked_text;

/// Most labels of a sandbox.
pub const LABELS_MAX: usize = 64;
/// Most bytes of a key.
const KEY_MAX: usize = 128;
/// Most bytes of a value.
const VALUE_MAX: usize = 4096;

/// Labels by their keys. They mean nothing to sandpen.
pub type Labels = BTreeMap<LabelKey, String>;

/// A label's key: letters, digits, `.`, `_`, `-` and `/`, beginning and ending with a letter or digit, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LabelKey(String);

checked_text!(LabelKey);

impl FromStr for LabelKey {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
        let ends = [text.bytes().next(), text.bytes().next_back()];
        let is_key = text.len() <= KEY_MAX
            && text.bytes().all(inside)
            && ends.iter().all(|end| end.is_some_and(|byte| byte.is_ascii_alphanumeric()));
        if is_key { Ok(Self(text.to_owned())) } else { Err(SpecError::LabelKey(text.to_owned())) }
    }
}

/// One label, written as `KEY=VALUE`, or `KEY` for an empty value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its key.
    pub key: LabelKey,
    /// Its value.
    pub value: String,
}

impl FromStr for Label {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Self, SpecError> {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        check_value(value)?;
        Ok(Self { key: key.parse()?, value: value.to_owned() })
    }
}

fn check_value(value: &str) -> Result<(), SpecError> {
    if value.len() > VALUE_MAX { Err(SpecError::LabelValue { bytes: value.len(), max: VALUE_MAX }) } else { Ok(()) }
}

/// Checks a sandbox's.
pub(super) fn check(labels: &Labels) -> Result<(), SpecError> {
    if labels.len() > LABELS_MAX {
        return Err(SpecError::Labels(labels.len()));
    }
    labels.values().try_for_each(|value| check_value(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_a_key_with_perhaps_a_value() {
        for (text, key, value) in
            [("team=a=b", "team", "a=b"), ("example.com/build-id=7", "example.com/build-id", "7"), ("x", "x", "")]
        {
            let label: Label = text.parse().unwrap();
            assert_eq!((label.key.as_str(), label.value.as_str()), (key, value));
        }
        let long = "k".repeat(KEY_MAX + 1);
        for text in ["", "=1", "a b=1", "-a=1", "a.=1", "ä=1", "a\n=1", long.as_str()] {
            assert!(text.parse::<Label>().is_err(), "{text:?}");
        }
        assert!(format!("a={}", "v".repeat(VALUE_MAX + 1)).parse::<Label>().is_err());
        assert!(serde_json::from_str::<Labels>(r#"{"a b":"1"}"#).is_err());
        let many: Labels = (0..=LABELS_MAX).map(|n| (format!("k{n}").parse().unwrap(), String::new())).collect();
        assert_eq!(check(&many), Err(SpecError::Labels(65)));
    }
}
