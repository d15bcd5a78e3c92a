//! What is executed, and where: the same rules for a workload and for a session.

use super::{ByteString, SpecError};

/// Looks at program and arguments, environment and working directory; how many bytes they are together, with those that
/// the kernel wants between them.
///
/// # Errors
/// What no kernel could execute.
pub(crate) fn check(
    command: &[ByteString],
    env: &[(ByteString, ByteString)],
    workdir: Option<&ByteString>,
) -> Result<usize, SpecError> {
    let has_nul = |text: &ByteString| text.as_bytes().contains(&0);
    if command.iter().any(has_nul) {
        return Err(SpecError::Nul { what: "the command" });
    }
    for (name, value) in env {
        if name.as_bytes().is_empty() || name.as_bytes().contains(&b'=') || has_nul(name) {
            return Err(SpecError::Env(String::from_utf8_lossy(name.as_bytes()).into_owned()));
        }
        if has_nul(value) {
            return Err(SpecError::Nul { what: "an environment value" });
        }
    }
    if let Some(workdir) = workdir {
        if workdir.as_bytes().first() != Some(&b'/') {
            return Err(SpecError::Workdir(String::from_utf8_lossy(workdir.as_bytes()).into_owned()));
        }
        if has_nul(workdir) {
            return Err(SpecError::Nul { what: "the working directory" });
        }
    }
    Ok(command.iter().map(|part| part.as_bytes().len() + 1).sum::<usize>()
        + env.iter().map(|(k, v)| k.as_bytes().len() + v.as_bytes().len() + 2).sum::<usize>()
        + workdir.map_or(0, |dir| dir.as_bytes().len()))
}
