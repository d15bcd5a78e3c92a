//! What this host offers for microVMs: QEMU, KVM, namespaces. Looks, changes nothing.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::qemu_args::Accelerator;

/// Oldest QEMU that is known to work.
pub const QEMU_MIN: (u32, u32) = (7, 2);

/// Name of QEMU's program for this architecture.
pub const QEMU_PROGRAM: &str = "qemu-system-x86_64";

/// Why QEMU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QemuMissing {
    /// It is not installed.
    #[error("{QEMU_PROGRAM} is not in PATH; install the package qemu-system-x86 (or qemu-kvm, qemu-system, by distribution)")]
    NotFound,
    /// Its answer to `--version` cannot be read.
    #[error("{0:?} does not answer --version as QEMU does")]
    NotQemu(PathBuf),
    /// It is too old.
    #[error("{path:?} is version {}.{}; at least {}.{} is needed", version.0, version.1, QEMU_MIN.0, QEMU_MIN.1)]
    TooOld {
        /// The program.
        path: PathBuf,
        /// Its version.
        version: (u32, u32),
    },
}

/// QEMU's program in `PATH`.
///
/// # Errors
/// [`QemuMissing::NotFound`].
pub fn find_qemu() -> Result<PathBuf, QemuMissing> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    let candidates = std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(QEMU_PROGRAM));
    let mut executable = candidates.filter(|file| nix::unistd::access(file, nix::unistd::AccessFlags::X_OK).is_ok());
    executable.next().ok_or(QemuMissing::NotFound)
}

/// The version of a QEMU program. Runs it.
///
/// # Errors
/// [`QemuMissing`] when it does not answer or is too old.
pub fn qemu_version(path: &Path) -> Result<(u32, u32), QemuMissing> {
    let output = Command::new(path).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let version = parse_version(&text).ok_or_else(|| QemuMissing::NotQemu(path.to_owned()))?;
    if version < QEMU_MIN { Err(QemuMissing::TooOld { path: path.to_owned(), version }) } else { Ok(version) }
}

/// `QEMU emulator version 7.2.22 (Debian …)`
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split_once("version ")?.1.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Why KVM is or is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kvm {
    /// Stock Linux guests run with it.
    Usable,
    /// There is no `/dev/kvm`.
    NoDevice,
    /// This user may not open it.
    NoAccess,
    /// It opens, but the processor shows neither vmx nor svm: such a KVM runs tiny guests and hangs
    /// with a stock Linux kernel.
    NoExtensions,
}

/// Looks at `/dev/kvm` and the processor.
pub fn kvm() -> Kvm {
    match OpenOptions::new().read(true).write(true).open("/dev/kvm") {
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Kvm::NoAccess,
        Err(_) => Kvm::NoDevice,
        Ok(_) if cfg!(target_arch = "aarch64") => Kvm::Usable,
        Ok(_) => {
            let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
            if shows_extensions(&cpuinfo) { Kvm::Usable } else { Kvm::NoExtensions }
        }
    }
}

fn shows_extensions(cpuinfo: &str) -> bool {
    let flags = cpuinfo.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    flags.split_whitespace().any(|flag| flag == "vmx" || flag == "svm")
}

/// KVM where it is usable, else emulation.
pub fn accelerator() -> Accelerator {
    match kvm() {
        Kvm::Usable => Accelerator::Kvm,
        _ => Accelerator::Tcg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(parse_version("QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\n"), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 10.0.2"), Some((10, 0)));
        for odd in ["", "version ", "version x.y", "QEMU emulator version 7"] {
            assert_eq!(parse_version(odd), None, "{odd:?}");
        }
    }

    #[test]
    fn processor_flags() {
        assert!(shows_extensions("processor : 0\nflags\t\t: fpu vmx sse\n"));
        assert!(shows_extensions("flags : svm"));
        assert!(!shows_extensions("flags : fpu vmxoff\nbugs : svm\n"));
        assert!(!shows_extensions(""));
    }
}
