//! What this host has for microVMs: QEMU, and what executes the guest's code.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};

use super::qemu_args::Accelerator;
use crate::kernel::krunfw::{self, KrunfwError};

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
pub fn find_qemu() -> Result<Qemu, QemuError> {
    open_qemu(locate_qemu()?)
}

/// Where QEMU is in `PATH`. Blocking, for microseconds.
pub(super) fn locate_qemu() -> Result<PathBuf, QemuError> {
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

/// [`find_qemu`] for a given program.
///
/// # Errors
/// [`QemuError`].
pub fn open_qemu(path: PathBuf) -> Result<Qemu, QemuError> {
    match known_qemu(&path)? {
        Some(qemu) => Ok(qemu),
        None => ask_qemu(path, |mut command| command.output()),
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
pub(super) fn known_qemu(path: &Path) -> Result<Option<Qemu>, QemuError> {
    let identity = identity_of(path)?;
    let known = KNOWN_QEMU.lock().unwrap_or_else(PoisonError::into_inner);
    let same = known.as_ref().filter(|(of, qemu)| *of == identity && qemu.path == path);
    Ok(same.map(|(_, qemu)| qemu.clone()))
}

/// Asks a QEMU for its version. `output` runs a command to its end.
pub(super) fn ask_qemu(
    path: PathBuf,
    output: impl FnOnce(Command) -> std::io::Result<Output>,
) -> Result<Qemu, QemuError> {
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

/// What executes guests on this host, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceleration {
    /// What.
    pub accelerator: Accelerator,
    /// Why, for people.
    pub reason: String,
}

/// KVM where it runs Linux guests, else emulation. Blocking, for microseconds.
pub fn acceleration() -> Acceleration {
    let device = OpenOptions::new().read(true).write(true).open("/dev/kvm").map(drop);
    let mut cpuinfo = String::new();
    // The flags of the first processor are within the first kilobytes.
    let _ = File::open("/proc/cpuinfo").and_then(|file| file.take(64 << 10).read_to_string(&mut cpuinfo));
    decide(device, &cpuinfo, std::env::consts::ARCH)
}

/// Why libkrun cannot run Linux here.
#[derive(Debug, thiserror::Error)]
pub enum KrunUnusable {
    /// It is left out of this build.
    #[error("this sandpen was built without libkrun (feature krun)")]
    LeftOut,
    /// KVM runs no Linux.
    #[error("libkrun needs KVM: {0}")]
    Kvm(String),
    /// There is no guest kernel for it.
    #[error(transparent)]
    Firmware(KrunfwError),
    /// The guest kernel that was named is of no use. That is a mistake on every host.
    #[error("the libkrunfw that was named cannot be used")]
    Named(#[source] KrunfwError),
}

/// Whether libkrun runs Linux on this host: its libkrunfw, or what is missing. `krunfw` is the one to
/// use, `None` to look for it. Blocking, for milliseconds.
///
/// # Errors
/// [`KrunUnusable`].
pub fn krun(krunfw: Option<&Path>, data_dir: &Path) -> Result<PathBuf, KrunUnusable> {
    if cfg!(not(feature = "krun")) {
        return Err(KrunUnusable::LeftOut);
    }
    // Before KVM, so that a mistake shows on every host.
    let named = krunfw::named(krunfw).map_err(KrunUnusable::Named)?;
    krun_kvm()?;
    krunfw::find(named.as_deref(), data_dir).map_err(KrunUnusable::Firmware)
}

/// Whether KVM runs Linux in libkrun's machines on this host.
///
/// # Errors
/// [`KrunUnusable::Kvm`].
pub fn krun_kvm() -> Result<(), KrunUnusable> {
    let acceleration = acceleration();
    match acceleration.accelerator {
        Accelerator::Kvm => Ok(()),
        Accelerator::Tcg => Err(KrunUnusable::Kvm(acceleration.reason)),
    }
}

fn decide(device: std::io::Result<()>, cpuinfo: &str, architecture: &str) -> Acceleration {
    let tcg = |reason: String| Acceleration {
        accelerator: Accelerator::Tcg,
        reason: format!("{reason}: guests are emulated (slower)"),
    };
    let flags = cpuinfo.lines().find_map(|line| line.strip_prefix("flags")).unwrap_or_default();
    let can_virtualize =
        architecture == "aarch64" || flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm");
    if let Err(error) = device {
        let reason = match error.kind() {
            std::io::ErrorKind::NotFound => "there is no /dev/kvm".to_owned(),
            // Then it would not help to be allowed to.
            _ if !can_virtualize => "the processor shows neither vmx nor svm".to_owned(),
            std::io::ErrorKind::PermissionDenied => {
                "this user may not open /dev/kvm; its group may (often named kvm)".to_owned()
            }
            _ => format!("/dev/kvm cannot be opened ({error})"),
        };
        return tcg(reason);
    }
    if can_virtualize {
        return Acceleration { accelerator: Accelerator::Kvm, reason: "/dev/kvm opens".to_owned() };
    }
    // Such a KVM emulates: it runs small programs, but no stock Linux.
    tcg("/dev/kvm opens, but the processor shows neither vmx nor svm".to_owned())
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
    fn kvm_needs_a_processor_that_runs_linux_in_it() {
        let cpu = "processor\t: 0\nflags\t\t: fpu vme svm sse\n";
        let plain = "processor\t: 0\nflags\t\t: fpu vme svm_lock sse\n";
        assert_eq!(decide(Ok(()), cpu, "x86_64").accelerator, Accelerator::Kvm);
        assert_eq!(decide(Ok(()), plain, "x86_64").accelerator, Accelerator::Tcg);
        assert_eq!(decide(Ok(()), "", "aarch64").accelerator, Accelerator::Kvm);
        let denied = decide(Err(std::io::ErrorKind::PermissionDenied.into()), cpu, "x86_64");
        assert!(denied.accelerator == Accelerator::Tcg && denied.reason.contains("kvm)"));
        assert_eq!(decide(Err(std::io::ErrorKind::NotFound.into()), cpu, "x86_64").accelerator, Accelerator::Tcg);
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
        let nothing = open_qemu(directory.path().join("nothing"));
        assert!(matches!(nothing, Err(QemuError::Run { .. })));
        let broken = script("broken", "#!/bin/sh\necho no library >&2; exit 127\n");
        assert!(matches!(open_qemu(broken), Err(QemuError::Broken { said, .. }) if said.contains("no library")));
        let old = script("old", "#!/bin/sh\necho QEMU emulator version 6.1.1\n");
        assert!(matches!(open_qemu(old), Err(QemuError::TooOld { .. })));
        let new = script("new", "#!/bin/sh\necho QEMU emulator version 8.0.2\n");
        assert_eq!(open_qemu(new).unwrap().version, QemuVersion { major: 8, minor: 0 });
    }
}
