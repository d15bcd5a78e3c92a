//! QEMU on this host: where the program is, and whether it is new enough.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

/// The program.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";
/// The package it is in, on Debian and its derivatives.
pub const QEMU_PACKAGE: &str = "qemu-system-x86";
/// The oldest version that was tried.
pub const QEMU_MIN: QemuVersion = QemuVersion { major: 7, minor: 2 };

/// Why QEMU cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QemuError {
    /// The guests' architecture is another one.
    #[error("microVMs are supported on x86-64 hosts only, this is {0}")]
    Architecture(&'static str),
    /// It is not in the search path.
    #[error("{QEMU_PROGRAM} was not found in PATH; install the package {QEMU_PACKAGE} (Debian and its derivatives)")]
    NotFound,
    /// It cannot be executed.
    #[error("cannot run {path:?}")]
    Run {
        /// The program.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// It does not say its version.
    #[error("{path:?} does not work: `--version` says {said:?}")]
    Broken {
        /// The program.
        path: PathBuf,
        /// What it said.
        said: String,
    },
    /// It is too old.
    #[error("{path:?} is version {version}, {QEMU_MIN} is the least; install a newer package {QEMU_PACKAGE}")]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: QemuVersion,
    },
}

/// A version of QEMU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct QemuVersion {
    /// The first number.
    pub major: u32,
    /// The second number.
    pub minor: u32,
}

impl std::fmt::Display for QemuVersion {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A QEMU that can be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Qemu {
    /// The program, absolute.
    pub path: PathBuf,
    /// Its version.
    pub version: QemuVersion,
}

/// Finds QEMU in `PATH`. Runs it once for its version, again only when the file changed. Blocking.
///
/// # Errors
/// [`QemuError`].
pub fn find() -> Result<Qemu, QemuError> {
    open(locate()?)
}

/// Where QEMU is in `PATH`. Blocking, for microseconds.
pub(super) fn locate() -> Result<PathBuf, QemuError> {
    if std::env::consts::ARCH != "x86_64" {
        return Err(QemuError::Architecture(std::env::consts::ARCH));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        // A relative entry would mean another program in each directory.
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(QEMU_PROGRAM))
        .find(|program| is_executable(program))
        .ok_or(QemuError::NotFound)
}

/// [`find`] for a given program.
///
/// # Errors
/// [`QemuError`].
pub fn open(path: PathBuf) -> Result<Qemu, QemuError> {
    match known(&path)? {
        Some(qemu) => Ok(qemu),
        None => ask(path, |mut command| command.output()),
    }
}

type QemuIdentity = (u64, u64, i64, i64);

/// The one that was asked last.
static KNOWN_QEMU: Mutex<Option<(QemuIdentity, Qemu)>> = Mutex::new(None);

fn identity_of(path: &Path) -> Result<QemuIdentity, QemuError> {
    let meta = std::fs::metadata(path).map_err(|source| QemuError::Run { path: path.to_owned(), source })?;
    Ok((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// What is known of a QEMU that has not changed since it was asked. Blocking, for microseconds.
pub(super) fn known(path: &Path) -> Result<Option<Qemu>, QemuError> {
    let identity = identity_of(path)?;
    let known = KNOWN_QEMU.lock().unwrap_or_else(PoisonError::into_inner);
    let same = known.as_ref().filter(|(of, qemu)| *of == identity && qemu.path == path);
    Ok(same.map(|(_, qemu)| qemu.clone()))
}

/// Asks a QEMU for its version. `output` runs a command to its end.
pub(super) fn ask(path: PathBuf, output: impl FnOnce(Command) -> std::io::Result<Output>) -> Result<Qemu, QemuError> {
    let identity = identity_of(&path)?;
    let mut command = Command::new(&path);
    command.arg("--version").stdin(Stdio::null());
    let output = output(command).map_err(|source| QemuError::Run { path: path.clone(), source })?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let Some(version) = parse_version(&said) else {
        let said = if said.trim().is_empty() { String::from_utf8_lossy(&output.stderr).into_owned() } else { said };
        return Err(QemuError::Broken { path, said: said.chars().take(200).collect() });
    };
    if version < QEMU_MIN {
        return Err(QemuError::TooOld { path, version });
    }
    let qemu = Qemu { path, version };
    *KNOWN_QEMU.lock().unwrap_or_else(PoisonError::into_inner) = Some((identity, qemu.clone()));
    Ok(qemu)
}

fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// The version in `QEMU emulator version 7.2.22 (Debian …)`.
fn parse_version(said: &str) -> Option<QemuVersion> {
    let numbers = said.lines().next()?.strip_prefix("QEMU emulator version ")?;
    let mut numbers = numbers.split(|c: char| !c.is_ascii_digit());
    let (major, minor) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
    Some(QemuVersion { major, minor })
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (said, version) in [
            ("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright", Some((7, 2))),
            ("QEMU emulator version 10.0.0", Some((10, 0))),
            ("QEMU emulator version 9", None),
            ("bash: qemu: not found", None),
            ("", None),
        ] {
            assert_eq!(parse_version(said).map(|version| (version.major, version.minor)), version, "{said}");
        }
        assert!(QemuVersion { major: 10, minor: 0 } > QEMU_MIN && QemuVersion { major: 7, minor: 1 } < QEMU_MIN);
    }

    #[test]
    fn programs_that_are_not_qemu_are_told_apart() {
        let directory = tempfile::tempdir().unwrap();
        let script = |name: &str, text: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let nothing = open(directory.path().join("nothing"));
        assert!(matches!(nothing, Err(QemuError::Run { .. })));
        let broken = script("broken", "#!/bin/sh\necho no library >&2; exit 127\n");
        assert!(matches!(open(broken), Err(QemuError::Broken { said, .. }) if said.contains("no library")));
        let old = script("old", "#!/bin/sh\necho QEMU emulator version 6.1.1\n");
        assert!(matches!(open(old), Err(QemuError::TooOld { .. })));
        let new = script("new", "#!/bin/sh\necho QEMU emulator version 8.0.2\n");
        assert_eq!(open(new).unwrap().version, QemuVersion { major: 8, minor: 0 });
    }
}
