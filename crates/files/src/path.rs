//! Paths as they may be asked for: absolute ones.

use crate::PATH_MAX;
use crate::error::{FileError, FileErrorKind};

/// The same path, if it can be one.
///
/// # Errors
/// [`FileErrorKind::InvalidName`]: empty, relative, too long, or with a NUL byte.
pub fn checked(path: &[u8]) -> Result<&[u8], FileError> {
    if path.first() == Some(&b'/') && path.len() <= PATH_MAX && !path.contains(&0) {
        return Ok(path);
    }
    let path = path[..path.len().min(PATH_MAX)].to_vec();
    Err(FileError { kind: FileErrorKind::InvalidName, path })
}

/// The directory that a path's last name is in, and that name; `None` where there is no name to make, such as of `/` and
/// `/a/..`.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let begin = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (directory, name) = (&path[..begin], &path[begin..end]);
    let directory = if directory.is_empty() { b"." } else { directory };
    (name != b"." && name != b"..").then_some((directory, name))
}

/// A name in a directory.
pub fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let slash: &[u8] = if directory.ends_with(b"/") { b"" } else { b"/" };
    [directory, slash, name].concat()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_can_be_no_path_is_refused() {
        for path in [&b""[..], b"a", b"./a", b"~", b"/a\0b", b"\0", &[b'/'; PATH_MAX + 1], b"\n/a"] {
            assert_eq!(checked(path).unwrap_err().kind, FileErrorKind::InvalidName, "{path:?}");
        }
        for path in [&b"/"[..], b"/a\nb", b"/\x1b[31m", b"/\xff", b"//a/../b", &[b'/'; PATH_MAX]] {
            assert_eq!(checked(path), Ok(path));
        }
    }

    #[test]
    fn a_path_ends_with_a_name() {
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        assert_eq!(split(b"/a/b/"), Some((&b"/a/"[..], &b"b"[..])));
        assert_eq!(split(b"a"), Some((&b"."[..], &b"a"[..])));
        assert_eq!(split(b"/...//"), Some((&b"/"[..], &b"..."[..])));
        for path in [&b""[..], b"/", b"//", b"/a/.", b"/a/../", b".", b".."] {
            assert_eq!(split(path), None, "{path:?}");
        }
        assert_eq!(join(b"/", b"a"), b"/a");
        assert_eq!(join(b"/a", b"b"), b"/a/b");
    }

    proptest! {
        #[test]
        fn what_is_split_is_joined(path in prop::collection::vec(prop::sample::select(b"/.ab".to_vec()), 0..12)) {
            if let Some((directory, name)) = split(&path) {
                prop_assert!(!name.is_empty() && !name.contains(&b'/'));
                let joined = join(directory, name);
                prop_assert!(joined.ends_with(name));
                let trimmed = path.iter().rposition(|b| *b != b'/').map_or(0, |end| end + 1);
                if path.first() == Some(&b'/') {
                    prop_assert_eq!(joined, path[..trimmed].to_vec());
                }
            }
        }
    }
}
