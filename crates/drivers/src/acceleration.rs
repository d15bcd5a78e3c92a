//! What executes guests' code on this host: the processor through KVM, or emulation.

use std::fs::{File, OpenOptions};
use std::io::Read as _;

/// What executes the guest's code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Accelerator {
    /// The processor, through `/dev/kvm`.
    Kvm,
    /// QEMU's emulation.
    Tcg,
}

impl std::fmt::Display for Accelerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
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
}
