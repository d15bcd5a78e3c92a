//! Names of entries: checked, and in one form.

use sandpen_tree::name::{self, NameProblem};

/// A path below the root, without `.`, double and trailing slashes; empty for the root itself.
///
/// # Errors
/// [`NameProblem`].
pub fn clean(name: &[u8]) -> Result<Vec<u8>, NameProblem> {
    // How some write the root.
    if name == b"/" { Ok(Vec::new()) } else { name::clean(name) }
}

/// The path of a hard link's target. Some write it absolute; it is below the root all the same.
///
/// # Errors
/// [`NameProblem`].
pub fn clean_target(name: &[u8]) -> Result<Vec<u8>, NameProblem> {
    let begin = name.iter().position(|byte| *byte != b'/').ok_or(NameProblem::Empty)?;
    clean(&name[begin..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::NAME_MAX;

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
            ("", NameProblem::Empty),
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
}
