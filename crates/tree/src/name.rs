//! Names of entries: checked, and in one form.

/// Most bytes of a path in a stream (`PATH_MAX` of Linux, with its NUL).
pub const PATH_MAX: usize = 4095;
/// Most bytes of a name (`NAME_MAX` of Linux).
pub const NAME_MAX: usize = 255;

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameProblem {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// `/…`.
    #[error("it is absolute")]
    Absolute,
    /// `..` as a part.
    #[error("a part of it is \"..\"")]
    Parent,
    /// A byte 0.
    #[error("it has a NUL byte")]
    Nul,
    /// More than [`PATH_MAX`] bytes.
    #[error("it has more than {PATH_MAX} bytes")]
    TooLong,
    /// A part with more than [`NAME_MAX`] bytes.
    #[error("a part of it has more than {NAME_MAX} bytes")]
    PartTooLong,
}

/// A path below the root, without `.`, double and trailing slashes; empty for the root itself.
///
/// # Errors
/// [`NameProblem`].
pub fn clean(name: &[u8]) -> Result<Vec<u8>, NameProblem> {
    if name.is_empty() {
        return Err(NameProblem::Empty);
    }
    if name[0] == b'/' {
        return Err(NameProblem::Absolute);
    }
    if name.contains(&0) {
        return Err(NameProblem::Nul);
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(NameProblem::Parent),
            long if long.len() > NAME_MAX => return Err(NameProblem::PartTooLong),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > PATH_MAX { Err(NameProblem::TooLong) } else { Ok(path) }
}

/// A path as its directory, empty for the root, and its name.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// A path below another one, either of which may be the root.
pub fn join(above: &[u8], below: &[u8]) -> Vec<u8> {
    match (above, below) {
        (b"", below) => below.to_owned(),
        (above, b"") => above.to_owned(),
        _ => [above, b"/", below].concat(),
    }
}

/// What of a path is below another one; `None` where it is not.
pub fn below<'a>(path: &'a [u8], above: &[u8]) -> Option<&'a [u8]> {
    if above.is_empty() {
        return Some(path);
    }
    match path.strip_prefix(above)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_one_form_or_not_at_all() {
        for (name, path) in
            [("a", "a"), ("./a/b/", "a/b"), ("./", ""), (".", ""), ("a//b/./c", "a/b/c"), ("...", "...")]
        {
            assert_eq!(clean(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        let part = "p".repeat(NAME_MAX);
        assert!(clean(part.as_bytes()).is_ok());
        let long = format!("{part}/").repeat(17);
        for (name, problem) in [
            ("", NameProblem::Empty),
            ("/", NameProblem::Absolute),
            ("//", NameProblem::Absolute),
            ("/etc/passwd", NameProblem::Absolute),
            ("..", NameProblem::Parent),
            ("a/../b", NameProblem::Parent),
            ("a\0b", NameProblem::Nul),
            (&format!("{part}p"), NameProblem::PartTooLong),
            (&long, NameProblem::TooLong),
        ] {
            assert_eq!(clean(name.as_bytes()), Err(problem), "{name:?}");
        }
    }

    #[test]
    fn paths_lie_below_one_another() {
        assert_eq!(split(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
        assert_eq!(split(b"c"), (&b""[..], &b"c"[..]));
        for (path, above, rest) in [
            ("a/b", "a", Some("b")),
            ("a", "a", Some("")),
            ("ab", "a", None),
            ("b/a", "a", None),
            ("x/y", "", Some("x/y")),
        ] {
            assert_eq!(below(path.as_bytes(), above.as_bytes()), rest.map(str::as_bytes), "{path} {above}");
        }
        assert_eq!(join(b"a", b""), b"a");
        assert_eq!(join(b"", b"a"), b"a");
        assert_eq!(join(b"a/b", b"c"), b"a/b/c");
    }
}
