//! Bodies in which every field must be known: a field that would be ignored is one whose wish would
//! not come true. The database's reading of what it keeps is lenient.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

/// A `T` without unknown fields at any depth; the error names the first one with its path.
#[derive(Debug)]
pub struct Strict<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Strict<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut unknown = None;
        let value = serde_ignored::deserialize(deserializer, |path| {
            unknown.get_or_insert_with(|| path.to_string());
        })?;
        match unknown {
            None => Ok(Self(value)),
            Some(path) => Err(D::Error::custom(format!("unknown field {path}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use sandpen_api::CreateSandbox;
    use sandpen_types::spec::{Rootfs, SandboxKey, SandboxName};

    use super::*;

    #[test]
    fn a_specification_has_known_fields_only() {
        let name = SandboxName::new("a").unwrap();
        let spec = CreateSandbox::new(SandboxKey::new(name), Rootfs::Native("/".into()), vec!["x".into()]);
        let json = serde_json::to_value(&spec).unwrap();
        assert_eq!(serde_json::from_value::<Strict<CreateSandbox>>(json.clone()).unwrap().0, spec);
        for (pointer, path) in [("", "memroy"), ("/resources", "resources.memroy"), ("/log", "log.memroy")] {
            let mut odd = json.clone();
            odd.pointer_mut(pointer).unwrap()["memroy"] = 1.into();
            let error = serde_json::from_value::<Strict<CreateSandbox>>(odd.clone()).unwrap_err().to_string();
            assert!(error.contains(&format!("unknown field {path}")), "{error}");
            assert_eq!(serde_json::from_value::<CreateSandbox>(odd).unwrap(), spec);
        }
    }
}
