//! Standard input of the processes that sandpen starts from its own program: what they are to do, or
//! what they serve. They take it first of all, and leave `/dev/null` in its place.

use std::fs::File;
use std::io::{self, Read as _};

/// Most bytes of a document: a specification or policy with some dozen paths of 4 KiB, escaped.
const DOCUMENT_MAX_BYTES: u64 = 1 << 20;

/// The JSON document on standard input.
///
/// # Errors
/// What the system said.
pub(super) fn take_document() -> io::Result<Vec<u8>> {
    let mut json = Vec::new();
    io::stdin().lock().take(DOCUMENT_MAX_BYTES).read_to_end(&mut json)?;
    put_null()?;
    Ok(json)
}

/// Puts `/dev/null` in the place of standard input.
///
/// # Errors
/// What the system said.
pub(super) fn put_null() -> io::Result<()> {
    Ok(nix::unistd::dup2_stdin(File::open("/dev/null")?)?)
}
