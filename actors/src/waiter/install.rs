//! Puts the embedded waiter program where it can be executed: once per content, whole or not at all.

use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::WaiterError;

/// The program that `build.rs` made.
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
    fs::DirBuilder::new().recursive(true).mode(0o700).create(bin_dir).map_err(failed("making the directory of"))?;
    let mut file = tempfile::Builder::new()
        .prefix(".waiter")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempfile_in(bin_dir)
        .map_err(failed("installing"))?;
    file.write_all(PROGRAM).and_then(|()| file.as_file().sync_all()).map_err(failed("installing"))?;
    // Closed before the rename: a file that is open for writing cannot be executed.
    file.into_temp_path().persist(&path).map_err(|error| failed("installing")(error.error))?;
    Ok(path)
}
