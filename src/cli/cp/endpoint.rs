//! What SRC and DST mean.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

use sandpen_types::spec::ByteString;

use super::CopyError;

/// An end of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// Standard input or output.
    Stream,
    /// A path of this host.
    Local(PathBuf),
    /// A path of a sandbox.
    Sandbox {
        /// NAME or CONFIG/NAME.
        name: String,
        /// From its root.
        path: ByteString,
    },
}

impl Endpoint {
    /// As `docker cp` has it: what begins with a slash or a dot is a local path, and so is what has no colon.
    pub fn parse(text: &OsStr) -> Result<Self, CopyError> {
        let bytes = text.as_bytes();
        let form = || CopyError::Form(text.to_string_lossy().into_owned());
        let colon = bytes.iter().position(|byte| *byte == b':');
        match (bytes, colon) {
            (b"-", _) => Ok(Self::Stream),
            (b"", _) => Err(form()),
            ([b'/' | b'.', ..], _) | (_, None) => Ok(Self::Local(text.into())),
            (_, Some(colon)) => {
                let (name, path) = (&bytes[..colon], &bytes[colon + 1..]);
                let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty());
                let name = name.filter(|_| !path.is_empty()).ok_or_else(form)?.to_owned();
                Ok(Self::Sandbox { name, path: ByteString::from(OsStr::from_bytes(path).to_owned()) })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_makes_a_sandbox() {
        let parse = |text: &str| Endpoint::parse(OsStr::new(text));
        let local = |text: &str| Endpoint::Local(text.into());
        let sandbox = |name: &str, path: &str| Endpoint::Sandbox { name: name.to_owned(), path: path.into() };
        assert_eq!(parse("-").unwrap(), Endpoint::Stream);
        for text in ["a", "a/b", "./a:b", "../a:b", "/a:b", ".", "/", "./-", "..:x"] {
            assert_eq!(parse(text).unwrap(), local(text));
        }
        for (text, name, path) in [
            ("web:/srv", "web", "/srv"),
            ("web:srv/", "web", "srv/"),
            ("prod/web:/a:b", "prod/web", "/a:b"),
            ("web:-", "web", "-"),
            ("web:.", "web", "."),
        ] {
            assert_eq!(parse(text).unwrap(), sandbox(name, path));
        }
        for text in ["", ":", "web:", ":/srv"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
