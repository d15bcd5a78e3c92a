//! mke2fs, the program that makes the file systems of disks that are written to: where it is.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// The program.
const PROGRAM: &str = "mke2fs";
/// The package it is in, on Debian and its derivatives.
pub const PACKAGE: &str = "e2fsprogs";
/// Where it is when `PATH` is an ordinary user's.
const SYSTEM_DIRS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Why there is no file system.
#[derive(Debug, thiserror::Error)]
pub enum Mke2fsError {
    /// No program to make one.
    #[error("{PROGRAM} was not found in PATH, /usr/sbin or /sbin; install the package {PACKAGE}")]
    NoProgram,
    /// It cannot be run.
    #[error("running {PROGRAM}")]
    Run(#[from] io::Error),
    /// It failed.
    #[error("{PROGRAM} says: {0}")]
    Failed(String),
}

/// `mke2fs`, absolute.
///
/// # Errors
/// [`Mke2fsError::NoProgram`].
pub fn find() -> Result<PathBuf, Mke2fsError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let directories = std::env::split_paths(&path).filter(|directory| directory.is_absolute());
    let mut programs = directories.chain(SYSTEM_DIRS.map(PathBuf::from)).map(|directory| directory.join(PROGRAM));
    let runs = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    programs.find(runs).ok_or(Mke2fsError::NoProgram)
}
