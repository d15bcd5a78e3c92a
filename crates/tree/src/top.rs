//! What the path of a source means.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::name;

/// What of a path is copied, and by which name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Top<'a> {
    /// What a directory holds: of `DIR/.`, of `..` and of `/`.
    Contents,
    /// What has this name, in a directory.
    Named {
        /// Where it lies; empty for the current directory.
        parent: &'a Path,
        /// Its name.
        name: &'a OsStr,
        /// A slash behind it says that it has to be a directory, and a link to one is followed.
        must_be_directory: bool,
    },
}

impl<'a> Top<'a> {
    /// The name that the entries of its tar begin with; empty for contents.
    pub fn name(self) -> &'a [u8] {
        match self {
            Self::Contents => b"",
            Self::Named { name, .. } => name.as_bytes(),
        }
    }
}

/// What a path means as a source.
pub fn top(path: &Path) -> Top<'_> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let (parent, last) = name::split(&bytes[..end]);
    match last {
        b"" | b"." | b".." => Top::Contents,
        last => {
            // Of `/etc` that is the root, not nothing.
            let parent = if parent.is_empty() && bytes[0] == b'/' { b"/" } else { parent };
            let parent = Path::new(OsStr::from_bytes(parent));
            Top::Named { parent, name: OsStr::from_bytes(last), must_be_directory: end < bytes.len() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_a_name_or_contents() {
        for (path, expected) in [
            ("a", Some(("", "a", false))),
            ("a/", Some(("", "a", true))),
            ("/a", Some(("/", "a", false))),
            ("/a//", Some(("/", "a", true))),
            ("x/y/a", Some(("x/y", "a", false))),
            ("./a:b", Some((".", "a:b", false))),
            ("...", Some(("", "...", false))),
            ("a/.", None),
            ("a/./", None),
            ("a/..", None),
            (".", None),
            ("..", None),
            ("/", None),
            ("", None),
        ] {
            let named = match top(Path::new(path)) {
                Top::Contents => None,
                Top::Named { parent, name, must_be_directory } => {
                    Some((parent.to_str().unwrap(), name.to_str().unwrap(), must_be_directory))
                }
            };
            assert_eq!(named, expected, "{path:?}");
        }
    }
}
