//! Names of entries: checked, and in one form.

use super::{NAME_MAX, PATH_MAX};

/// What is wrong with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathProblem {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// `/…`.
    #[error("it is absolute")]
    Absolute,
    /// `..` as a part.
    #[error("a part of it is `..`")]
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
/// [`PathProblem`].
pub fn clean(name: &[u8]) -> Result<Vec<u8>, PathProblem> {
    if name.is_empty() {
        return Err(PathProblem::Empty);
    }
    // `/` alone is how some write the root.
    if name[0] == b'/' && name.len() > 1 {
        return Err(PathProblem::Absolute);
    }
    if name.contains(&0) {
        return Err(PathProblem::Nul);
    }
    let mut path = Vec::with_capacity(name.len());
    for part in name.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => continue,
            b".." => return Err(PathProblem::Parent),
            long if long.len() > NAME_MAX => return Err(PathProblem::PartTooLong),
            _ => {}
        }
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(part);
    }
    if path.len() > PATH_MAX { Err(PathProblem::TooLong) } else { Ok(path) }
}

/// The path of a hard link's target. Some write it absolute; it is below the root all the same.
///
/// # Errors
/// [`PathProblem`].
pub fn clean_target(name: &[u8]) -> Result<Vec<u8>, PathProblem> {
    let begin = name.iter().position(|byte| *byte != b'/').ok_or(PathProblem::Empty)?;
    clean(&name[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_in_one_form_or_not_at_all() {
        for (name, path) in
            [("a", "a"), ("./a/b/", "a/b"), ("./", ""), (".", ""), ("/", ""), ("a//b/./c", "a/b/c"), ("...", "...")]
        {
            assert_eq!(clean(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        let part = "p".repeat(NAME_MAX);
        assert!(clean(part.as_bytes()).is_ok());
        let long = format!("{part}/").repeat(17);
        for (name, problem) in [
            ("", PathProblem::Empty),
            ("//", PathProblem::Absolute),
            ("/etc/passwd", PathProblem::Absolute),
            ("..", PathProblem::Parent),
            ("a/../b", PathProblem::Parent),
            ("a\0b", PathProblem::Nul),
            (&format!("{part}p"), PathProblem::PartTooLong),
            (&long, PathProblem::TooLong),
        ] {
            assert_eq!(clean(name.as_bytes()), Err(problem), "{name:?}");
        }
    }
}
