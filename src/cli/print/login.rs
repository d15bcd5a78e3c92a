//! Logins: the questions before one, and where it is kept.

use std::io::{self, Write as _};

use sandpen::registry::credentials::Kept;
use sandpen_types::registry::RegistryName;
use sandpen_types::visible::visible;

use super::{CliError, lines, to_stderr};

/// A question, whose answer is typed behind it.
pub fn question(text: &str) {
    to_stderr(&visible(text));
    let _ = io::stderr().flush();
}

/// Somebody is logged in.
pub fn logged_in(registry: &RegistryName, username: &str, kept: &Kept) -> Result<u8, CliError> {
    let told = format!("logged in to {registry} as {username}; kept {}", place(kept));
    lines(std::iter::once(told.as_str()))
}

/// Nobody is any more; nothing where nobody was.
pub fn logged_out(registry: &str, had: &[Kept]) -> Result<u8, CliError> {
    let told: Vec<_> =
        had.iter().map(|kept| format!("logged out of {registry}; it was kept {}", place(kept))).collect();
    lines(told.iter().map(String::as_str))
}

/// Where a login is kept, in words.
fn place(kept: &Kept) -> String {
    match kept {
        Kept::File(path) => format!("in {}", path.display()),
        Kept::Helper { program, path } => format!("by {program}, as {} says", path.display()),
    }
}
