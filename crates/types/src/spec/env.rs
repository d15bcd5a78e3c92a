//! An entry of a workload's environment, as it is written in one line.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use super::{ByteString, SpecError};

/// `NAME=VALUE`, byte for byte. The value may be a secret: `Debug` does not show it, and no error does.
#[derive(Clone, PartialEq, Eq)]
pub struct EnvEntry {
    /// Not empty, without `=`.
    pub name: ByteString,
    /// Anything.
    pub value: ByteString,
}

impl EnvEntry {
    /// Reads `NAME=VALUE`.
    ///
    /// # Errors
    /// [`SpecError::Env`].
    pub fn parse(text: &OsStr) -> Result<Self, SpecError> {
        let bytes = text.as_bytes();
        let owned = |bytes: &[u8]| ByteString::from(OsString::from_vec(bytes.to_vec()));
        match bytes.iter().position(|byte| *byte == b'=') {
            Some(at) if at > 0 => Ok(Self { name: owned(&bytes[..at]), value: owned(&bytes[at + 1..]) }),
            // Without a name the rest may be a secret.
            Some(_) => Err(SpecError::Env("=…".to_owned())),
            None => Err(SpecError::Env(text.display().to_string())),
        }
    }
}

impl fmt::Debug for EnvEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EnvEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_has_no_name_is_refused_and_no_value_is_shown() {
        let parse = |text: &str| EnvEntry::parse(OsStr::new(text));
        for text in ["", "A", "=s3cret", "=", "=A=s3cret"] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains("NAME=VALUE") && !error.contains("s3cret"), "{error}");
        }
        assert!(!format!("{:?}", parse("A=s3cret").unwrap()).contains("s3cret"));
    }

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_is_written(name in proptest::collection::vec(any::<u8>(), 1..9), value in proptest::collection::vec(any::<u8>(), 0..20)) {
            prop_assume!(!name.contains(&b'='));
            let text = [&name[..], b"=", &value[..]].concat();
            let entry = EnvEntry::parse(&OsString::from_vec(text)).unwrap();
            prop_assert_eq!((entry.name.as_bytes(), entry.value.as_bytes()), (&name[..], &value[..]));
        }
    }
}
