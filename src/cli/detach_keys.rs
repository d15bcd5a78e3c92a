//! The keys that leave a sandbox: how they are written, and how they are found in what is typed.
//! Pure.

use std::str::FromStr;

/// Most keys in a row.
const KEYS_MAX: usize = 16;
/// What is used where nothing else is asked for.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A sequence of keys; an empty one is never typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl FromStr for DetachKeys {
    type Err = String;

    /// Reads `ctrl-p,ctrl-q` or `a,b`: characters of ASCII, or `ctrl-` and one of `a`-`z @ [ \ ] ^ _`; nothing for none.
    fn from_str(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let keys: Option<Vec<u8>> = text.split(',').take(KEYS_MAX + 1).map(key).collect();
        match keys {
            Some(keys) if keys.len() <= KEYS_MAX => Ok(Self(keys)),
            Some(_) => Err(format!("more than {KEYS_MAX} keys in a row")),
            None => Err("give keys such as ctrl-p,ctrl-q: ctrl- and one of a-z @ [ \\ ] ^ _, or a single character, \
                         separated by commas; or '' for none"
                .to_owned()),
        }
    }
}

fn key(name: &str) -> Option<u8> {
    match (name.as_bytes(), name.strip_prefix("ctrl-").map(str::as_bytes)) {
        ([byte @ b' '..=b'~'], _) => Some(*byte),
        // As terminals make them: the low five bits.
        (_, Some([byte @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'['..=b'_')])) => Some(byte & 0x1f),
        _ => None,
    }
}

/// Finds the keys in what is typed.
#[derive(Debug)]
pub struct KeyFinder {
    keys: DetachKeys,
    /// Typed keys that may be the beginning of the sequence.
    held: Vec<u8>,
}

impl KeyFinder {
    pub fn new(keys: DetachKeys) -> Self {
        Self { keys, held: Vec::new() }
    }

    /// Takes what was typed. Gives what is not part of the sequence, and whether the sequence is
    /// complete. The beginning of one is held back until it is clear what it is.
    pub fn push(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        let keys = &self.keys.0;
        if keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(typed.len());
        for byte in typed {
            self.held.push(*byte);
            while !keys.starts_with(&self.held) {
                passed.push(self.held.remove(0));
            }
            if self.held.len() == keys.len() {
                self.held.clear();
                return (passed, true);
            }
        }
        (passed, false)
    }

    /// Whether something is held back.
    pub fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// What was held back: nothing followed that would make it the sequence.
    pub fn release(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_written_as_in_docker() {
        assert_eq!(DEFAULT.parse(), Ok(DetachKeys(vec![16, 17])));
        assert_eq!("ctrl-a,d".parse(), Ok(DetachKeys(vec![1, b'd'])));
        assert_eq!("ctrl-@,ctrl-[,ctrl-\\,ctrl-],ctrl-^,ctrl-_".parse(), Ok(DetachKeys(vec![0, 27, 28, 29, 30, 31])));
        assert_eq!("ctrl-Z, ,~".parse(), Ok(DetachKeys(vec![26, b' ', b'~'])));
        let long = vec!["a"; KEYS_MAX].join(",");
        assert!(long.parse::<DetachKeys>().is_ok());
        assert_eq!("".parse(), Ok(DetachKeys(Vec::new())));
        for bad in [",", "a,", ",a", "ctrl-", "ctrl-1", "ctrl-ab", "ab", "ä", "ctrl-ä", "\u{1}", "alt-a", "ctrl p"] {
            assert!(bad.parse::<DetachKeys>().is_err(), "{bad:?}");
        }
        for bad in [format!("{long},a"), "a,".repeat(1 << 20)] {
            assert!(bad.parse::<DetachKeys>().unwrap_err().len() < 200);
        }
    }

    #[test]
    fn without_keys_everything_is_passed_on_and_what_is_held_can_be_had() {
        let mut none = KeyFinder::new("".parse().unwrap());
        assert_eq!(none.push(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
        let mut finder = KeyFinder::new(DEFAULT.parse().unwrap());
        assert_eq!(finder.push(b"a\x10"), (b"a".to_vec(), false));
        assert!(finder.is_holding());
        assert_eq!(finder.release(), b"\x10");
        assert!(!finder.is_holding());
        // It is the workload's by now.
        assert_eq!(finder.push(b"\x11"), (b"\x11".to_vec(), false));
    }

    #[test]
    fn a_beginning_is_held_and_passed_on() {
        let mut finder = KeyFinder::new(DEFAULT.parse().unwrap());
        assert_eq!(finder.push(b"a\x10"), (b"a".to_vec(), false));
        assert_eq!(finder.push(b"\x10"), (b"\x10".to_vec(), false));
        assert_eq!(finder.push(b"b"), (b"\x10b".to_vec(), false));
        assert_eq!(finder.push(b"c\x10\x11rest"), (b"c".to_vec(), true));
    }

    proptest! {
        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = text.parse::<DetachKeys>();
        }

        /// Few different keys, so that sequences overlap with themselves.
        #[test]
        fn found_exactly_where_it_is(keys in vec(0..3_u8, 1..5), pieces in vec(vec(0..3_u8, 0..6), 0..20)) {
            let typed = pieces.concat();
            let place = typed.windows(keys.len()).position(|window| window == keys);
            let mut finder = KeyFinder::new(DetachKeys(keys.clone()));
            let mut passed = Vec::new();
            let mut found = false;
            for piece in &pieces {
                let (some, complete) = finder.push(piece);
                passed.extend(some);
                if complete {
                    found = true;
                    break;
                }
            }
            prop_assert_eq!(found, place.is_some());
            prop_assert!(finder.held.len() < keys.len());
            // Until the end of the sequence, or of everything.
            passed.extend(&finder.held);
            prop_assert_eq!(&passed[..], &typed[..place.unwrap_or(typed.len())]);
        }
    }
}
