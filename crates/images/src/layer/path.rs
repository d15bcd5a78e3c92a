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

    #[test]
    fn the_root_and_absolute_targets_are_taken() {
        for (name, path) in [("/", ""), ("./a//b/", "a/b")] {
            assert_eq!(clean(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        for (name, path) in [("/a/b", "a/b"), ("//a", "a"), ("a", "a"), ("./a", "a")] {
            assert_eq!(clean_target(name.as_bytes()).unwrap(), path.as_bytes(), "{name}");
        }
        for (name, problem) in [
            ("", NameProblem::Empty),
            ("//", NameProblem::Absolute),
            ("/etc", NameProblem::Absolute),
            ("a/..", NameProblem::Parent),
        ] {
            assert_eq!(clean(name.as_bytes()), Err(problem), "{name:?}");
        }
        for (name, problem) in [("", NameProblem::Empty), ("/", NameProblem::Empty), ("/../a", NameProblem::Parent)] {
            assert_eq!(clean_target(name.as_bytes()), Err(problem), "{name:?}");
        }
    }
}
