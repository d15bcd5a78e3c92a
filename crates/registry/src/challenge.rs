//! What a registry asks for before it answers: `WWW-Authenticate`.
//!
//! Source: RFC 9110, 11.2 and 11.6.1: schemes with parameters, several in one header or in several, values as tokens or
//! quoted strings. What is no such list is read as far as it is one.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// Most challenges that are looked at.
const CHALLENGES_MAX: usize = 16;

/// A scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter by its name in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str())
    }
}

/// All that are in an answer.
pub(crate) fn challenges(headers: &HeaderMap) -> Vec<Challenge> {
    let texts = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(parse).take(CHALLENGES_MAX).collect()
}

fn parse(text: &str) -> Vec<Challenge> {
    let mut found: Vec<Challenge> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let Some((word, behind)) = token(rest) else { return found };
        let after_spaces = behind.trim_start_matches([' ', '\t']);
        match after_spaces.strip_prefix('=') {
            // `token68`, which no scheme here uses, ends with = as well: it has no value behind it.
            Some(behind) if !found.is_empty() => {
                let Some((value, behind)) = value(behind.trim_start_matches([' ', '\t'])) else { return found };
                if let Some(last) = found.last_mut() {
                    last.parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = behind;
            }
            Some(_) => return found,
            None => {
                found.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
                rest = after_spaces;
            }
        }
    }
}

/// A word of RFC 9110, 5.6.2, and what stands behind it.
fn token(text: &str) -> Option<(&str, &str)> {
    let is_in = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let end = text.find(|c| !is_in(c)).unwrap_or(text.len());
    (end > 0).then(|| text.split_at(end))
}

/// A word or a quoted string, and what stands behind it.
fn value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        // Some registries do not quote URLs, so more than a word is taken.
        let end = text.find([',', ' ', '\t']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut escaped) = (String::new(), false);
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return Some((value, &quoted[at + 1..])),
            _ => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn anything_is_read_as_far_as_it_goes(
            text in "[ -~é\t]{0,80}",
            parts in proptest::collection::vec("[a-z]{1,4}|=|,| |\"|\\\\", 0..30),
        ) {
            for text in [text, parts.concat()] {
                let parameters: usize = parse(&text).iter().map(|challenge| challenge.parameters.len() + 1).sum();
                prop_assert!(parameters <= text.len());
            }
        }
    }

    #[test]
    fn schemes_and_parameters() {
        for (text, expected) in [
            ("Basic realm=\"x\"", vec![("basic", vec![("realm", "x")])]),
            (
                "Bearer realm=\"https://a.b/t?x=1,2\",service=\"a \\\"b\\\"\",scope=\"repository:a/b:pull,push\"",
                vec![(
                    "bearer",
                    vec![
                        ("realm", "https://a.b/t?x=1,2"),
                        ("service", "a \"b\""),
                        ("scope", "repository:a/b:pull,push"),
                    ],
                )],
            ),
            ("BEARER Realm=https://a/t , Basic", vec![("bearer", vec![("realm", "https://a/t")]), ("basic", vec![])]),
            (
                "Negotiate, Basic realm = \"x\", Digest nonce=1",
                vec![("negotiate", vec![]), ("basic", vec![("realm", "x")]), ("digest", vec![("nonce", "1")])],
            ),
            ("Bearer realm=\"never ends", vec![("bearer", vec![])]),
            ("=", vec![]),
            ("realm=\"x\"", vec![]),
            ("", vec![]),
        ] {
            let found = parse(text);
            let found: Vec<_> = found
                .iter()
                .map(|challenge| {
                    let parameters = challenge.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                    (challenge.scheme.as_str(), parameters.collect::<Vec<_>>())
                })
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn several_headers_are_one_list() {
        let mut headers = HeaderMap::new();
        headers.append(WWW_AUTHENTICATE, "Basic realm=a".parse().unwrap());
        headers.append(WWW_AUTHENTICATE, "Bearer realm=b".parse().unwrap());
        let found = challenges(&headers);
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].get("realm"), Some("b"));
    }
}
