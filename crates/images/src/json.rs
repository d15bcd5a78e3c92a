//! JSON that a stranger wrote: bounded in bytes and in items while it is read, and errors that name the field.
//!
//! `null` is what is absent: encoders in Go write it for every empty list and map. What no field is for is passed over
//! without being kept. A field given twice is an error, for two readers may take different ones.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use sandpen_types::visible::visible;
use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

/// Most bytes of a document that is read, a manifest, an index or a configuration: as many as the library
/// `containers/image`, and so skopeo and Podman, take.
pub const DOCUMENT_MAX: u64 = 4 << 20;
/// Most characters of somebody else's text in a message.
const SHOWN_MAX: usize = 200;

/// A document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// More than anyone needs.
    #[error("it has {bytes} bytes, and at most {DOCUMENT_MAX} are read")]
    TooLarge {
        /// How many.
        bytes: u64,
    },
    /// Something else: a page of a web server, a binary file, nothing at all.
    #[error("it is no JSON object or list: it begins with \"{begins}\"")]
    NotJson {
        /// Its beginning.
        begins: String,
    },
    /// A field has a wrong value, or the text ends or breaks there.
    #[error("{field} is wrong: {reason}")]
    Field {
        /// Its path from the top.
        field: String,
        /// In words.
        reason: String,
    },
}

/// Reads a document.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, JsonError> {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if len > DOCUMENT_MAX {
        return Err(JsonError::TooLarge { bytes: len });
    }
    let text = bytes.trim_ascii_start();
    if !matches!(text.first(), Some(b'{' | b'[')) {
        let begins = shown(&String::from_utf8_lossy(&text[..text.len().min(60)]));
        return Err(JsonError::NotJson { begins });
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| JsonError::Field {
        field: match error.path().to_string().as_str() {
            "." | "" => "the document".to_owned(),
            path => shown(path),
        },
        reason: shown(&error.inner().to_string()),
    })?;
    let end = deserializer.end();
    end.map_err(|error| JsonError::Field { field: "its end".to_owned(), reason: shown(&error.to_string()) })?;
    Ok(parsed)
}

/// Somebody else's text within a line of ours: harmless on a terminal, and not all of it where it is long.
pub fn shown(text: &str) -> String {
    let mut begins: String = text.chars().take(SHOWN_MAX).collect();
    if begins.len() < text.len() {
        begins.push('…');
    }
    visible(&begins).replace('\n', "\\n")
}

/// A list of at most `MAX` items: with more it is an error before they are kept.
#[derive(Debug)]
pub(crate) struct List<T, const MAX: usize>(pub Vec<T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for List<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Items<T, MAX> {
            type Value = List<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    if list.len() == MAX {
                        return Err(A::Error::custom(format_args!("a list of more than {MAX}")));
                    }
                    list.push(item);
                }
                Ok(List(list))
            }
        }

        deserializer.deserialize_seq(Items(PhantomData))
    }
}

/// A map of at most `MAX` keys, none of them twice.
#[derive(Debug)]
pub(crate) struct Map<T, const MAX: usize>(pub BTreeMap<String, T>);

impl<'de, T: Deserialize<'de>, const MAX: usize> Deserialize<'de> for Map<T, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys<T, const MAX: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MAX: usize> Visitor<'de> for Keys<T, MAX> {
            type Value = Map<T, MAX>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut keys: A) -> Result<Self::Value, A::Error> {
                let mut map = BTreeMap::new();
                while let Some((key, value)) = keys.next_entry::<String, T>()? {
                    if map.len() == MAX {
                        return Err(A::Error::custom(format_args!("a map of more than {MAX} keys")));
                    }
                    if map.contains_key(&key) {
                        return Err(A::Error::custom(format_args!("the key \"{}\" is there twice", shown(&key))));
                    }
                    map.insert(key, value);
                }
                Ok(Map(map))
            }
        }

        deserializer.deserialize_map(Keys(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[expect(dead_code, reason = "what is read is not looked at")]
    struct Sample {
        list: Option<List<u8, 3>>,
        map: Option<Map<String, 2>>,
    }

    fn refused(text: &str) -> String {
        parse::<Sample>(text.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_the_field_and_show_nothing_that_acts() {
        for (text, expected) in [
            ("<!DOCTYPE html>\n<html>", "it is no JSON object or list: it begins with \"<!DOCTYPE html>\\n<html>\""),
            ("", "it is no JSON object or list: it begins with \"\""),
            (r#"{"list":[1,2,"x"]}"#, "list[2] is wrong: invalid type: string \"x\", expected u8"),
            (r#"{"list":[1,2,3,4]}"#, "list is wrong: a list of more than 3"),
            (r#"{"map":{"a":"","b":"","c":""}}"#, "map is wrong: a map of more than 2 keys"),
            (r#"{"map":{"a":"","a":""}}"#, "map is wrong: the key \"a\" is there twice"),
            (
                r#"{"map":{"\u001b[2J\n":3}}"#,
                "map.\\u{1b}[2J\\n is wrong: invalid type: integer `3`, expected a string",
            ),
            (r#"{"list":null,"list":null}"#, "the document is wrong: duplicate field `list`"),
            (r#"{"list":null} x"#, "its end is wrong: trailing characters"),
            (r#"{"list":["#, "list"),
        ] {
            let error = refused(text);
            assert!(error.starts_with(expected), "{error}");
        }
        assert!(parse::<Sample>(br#"{"list":null,"map":null,"other":{"x":[{}]}}"#).is_ok());
    }

    #[test]
    fn what_is_long_or_deep_is_an_error_that_is_short() {
        let error = refused(&format!("{{{}", " ".repeat(4 << 20)));
        assert_eq!(error, "it has 4194305 bytes, and at most 4194304 are read");
        assert!(refused(&format!(r#"{{"list":"{}"}}"#, "x".repeat(1 << 20))).len() < 300);
        assert!(parse::<serde_json::Value>("[".repeat(1 << 20).as_bytes()).is_err());
        let deep = format!(r#"{{"other":{}{}}}"#, "[".repeat(1 << 20), "]".repeat(1 << 20));
        let _ = parse::<Sample>(deep.as_bytes()); // on a stack of 2 MiB
    }
}
