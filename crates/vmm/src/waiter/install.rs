//! Puts the embedded waiter program where it can be executed: once per content, whole or not at all.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::WaiterError;

/// The program that `build.rs` had made.
static PROGRAM: &[u8] = include_bytes!(env!("SANDPEN_WAITER"));

/// The program's path in `bin_dir` (made 0700 if missing), installed if it is not there yet.
pub(super) fn install(bin_dir: &Path) -> Result<PathBuf, WaiterError> {
    let path = bin_dir.join(concat!("sandpen-waiter-", env!("SANDPEN_WAITER_HASH")));
    let failed = |action| {
        let path = path.clone();
        move |source| WaiterError::File { action, path, source }
    };
    let whole = |meta: &fs::Metadata| {
        meta.is_file() && meta.len() == PROGRAM.len() as u64 && meta.permissions().mode() & 0o100 != 0
    };
    match fs::symlink_metadata(&path) {
        Ok(meta) if whole(&meta) => return Ok(path),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("looking for")(error)),
    }
    sandpen_cache::write(&path, 0o700, PROGRAM).map_err(failed("installing"))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each sandbox has one in its memory.
    #[test]
    fn it_is_a_small_static_program() {
        assert!(PROGRAM.len() < 5 << 18, "{} bytes", PROGRAM.len());
        let number =
            |at: usize, bytes: usize| PROGRAM[at..at + bytes].iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
        // ET_EXEC: a position independent one would relocate itself, into pages that no other one shares.
        assert_eq!((&PROGRAM[..4], number(16, 2)), (&b"\x7fELF"[..], 2));
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        // PT_INTERP: it would need a dynamic loader.
        assert!(count > 0 && (0..count).all(|header| number(headers + header * size, 4) != 3));
    }
}
