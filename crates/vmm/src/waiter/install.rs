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
