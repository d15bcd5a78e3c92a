//! Names for sandboxes that were given none: two words and four hexadecimal digits.

use std::hash::{BuildHasher, RandomState};

use sandpen_types::spec::{SandboxName, SpecError};

const FIRST: [&str; 32] = [
    "amber", "bold", "brisk", "calm", "clever", "crisp", "deft", "eager", "fair", "fleet", "gentle", "glad", "hardy",
    "keen", "kind", "lively", "lucid", "mellow", "merry", "mild", "neat", "nimble", "plain", "proud", "quick", "quiet",
    "rapid", "sober", "steady", "sunny", "swift", "witty",
];
const SECOND: [&str; 32] = [
    "badger", "beaver", "bison", "crane", "curlew", "dipper", "ferret", "finch", "gannet", "goose", "hare", "heron",
    "ibex", "jackdaw", "kestrel", "lapwing", "lark", "lynx", "marten", "mole", "newt", "otter", "owl", "plover",
    "puffin", "raven", "seal", "shrew", "stoat", "swift", "vole", "wren",
];

/// A name of its own. Two of 67 million may be the same; the start is refused then.
pub fn random() -> Result<SandboxName, SpecError> {
    // The standard library seeds its hash keys from the system's random bytes.
    let random = RandomState::new().hash_one(std::process::id());
    let [first, second, third, fourth, ..] = random.to_le_bytes();
    let pick = |words: &[&'static str; 32], byte: u8| words[usize::from(byte) % words.len()];
    SandboxName::new(format!("{}-{}-{third:02x}{fourth:02x}", pick(&FIRST, first), pick(&SECOND, second)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_makes_a_valid_name_and_names_differ() {
        for (first, second) in FIRST.iter().zip(SECOND) {
            SandboxName::new(format!("{first}-{second}-0000")).unwrap();
        }
        let names: std::collections::HashSet<_> = (0..50).map(|_| random().unwrap()).collect();
        assert!(names.len() > 45, "{names:?}");
    }
}
