//! `sandpen doctor`: looks at everything a microVM needs on this host, and says what to do.

mod report;

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::{AccessFlags, Uid, access};
use sandpen_actors::supervisor::guests_within;
use sandpen_drivers::HostOptions;
use sandpen_drivers::acceleration::{Accelerator, acceleration};
use sandpen_drivers::confine::rights::{self, Rights, UserNamespace};
use sandpen_drivers::confine::{self, cgroup::Hierarchy};
use sandpen_drivers::disk;
use sandpen_drivers::krun_host::{self, KrunUnusable};
use sandpen_drivers::mke2fs;
use sandpen_drivers::qemu::program::{self, QEMU_PACKAGE};
use sandpen_drivers::virtiofs::OPEN_FILES_MIN;

use crate::daemon::inherited;
use crate::kernel::{self, KernelError};
use crate::private_dir::PrivateDir;
pub use report::{Check, CheckStatus, Report};
use sandpen_types::error_chain::error_chain;

/// Looks at this host for a daemon with `options`. Blocks: runs QEMU once to ask its version, and tries to make a jail.
pub fn examine(state_dir: &Path, data_dir: &Path, options: &HostOptions) -> Report {
    let demanded = options.demands_confinement();
    let rights = rights::find(&std::env::current_exe().unwrap_or_default());
    let user_namespaces = user_namespaces(&rights);
    let jail = jail(&rights, user_namespaces.is_some(), demanded);
    let mut for_qemu = vec![qemu(), accelerator(), guest_kernel(data_dir)];
    for_qemu.extend(user_namespaces);
    let for_krun = krun(options.krunfw.as_deref(), data_dir);
    let seccomp = seccomp(confine::seccomp_available(), demanded);
    let for_all = [
        state_directory(state_dir),
        open_files(),
        inherited(),
        pipes(),
        jail,
        landlock(),
        seccomp,
        cgroup(),
        disks(data_dir),
    ];
    let works = |checks: &[Check]| checks.iter().all(|check| check.status != CheckStatus::Fail);
    // A daemon does not start with what `krun` fails for.
    let (auto, reason) = if !works(&for_all) || for_krun.status == CheckStatus::Fail {
        (None, "no microVM can run until what failed above is mended".to_owned())
    } else if for_krun.status == CheckStatus::Ok {
        (Some("krun"), "libkrun works on this host".to_owned())
    } else if works(&for_qemu) {
        (Some("qemu"), format!("QEMU works on this host, with {}", acceleration().accelerator))
    } else {
        (None, "no microVM can run until what failed above is mended".to_owned())
    };
    let checks = for_qemu.into_iter().chain([for_krun]).chain(for_all).collect();
    Report { checks, auto: auto.map(str::to_owned), reason }
}

/// A failure only where a file is named that is of no use: else QEMU does the same, only slower.
fn krun(krunfw: Option<&Path>, data_dir: &Path) -> Check {
    match krun_host::find(krunfw, data_dir) {
        Ok(firmware) => Check::new("krun", CheckStatus::Ok, format!("libkrun with {}", firmware.display())),
        Err(error) => {
            let detail = error_chain(&error);
            let wrongly_named = match error {
                KrunUnusable::Named(_) => true,
                KrunUnusable::LeftOut => krunfw.is_some(),
                KrunUnusable::Firmware(_) | KrunUnusable::Kvm(_) => false,
            };
            let status = if wrongly_named { CheckStatus::Fail } else { CheckStatus::Warn };
            let check = Check::new("krun", status, detail);
            match error {
                KrunUnusable::Firmware(_) => check.advise("sandpen kernel install --krunfw"),
                _ if wrongly_named => check.advise("leave --krunfw and SANDPEN_KRUNFW out, or name another file"),
                _ => check,
            }
        }
    }
}

fn qemu() -> Check {
    match program::find() {
        Ok(qemu) => Check::new("qemu", CheckStatus::Ok, format!("{} version {}", qemu.path.display(), qemu.version)),
        Err(error) => {
            Check::new("qemu", CheckStatus::Fail, error_chain(&error)).advise(format!("apt-get install {QEMU_PACKAGE}"))
        }
    }
}

fn accelerator() -> Check {
    let acceleration = acceleration();
    let status = match acceleration.accelerator {
        Accelerator::Kvm => CheckStatus::Ok,
        Accelerator::Tcg => CheckStatus::Warn,
    };
    Check::new("kvm", status, acceleration.reason)
}

fn guest_kernel(data_dir: &Path) -> Check {
    match kernel::find(data_dir) {
        Ok(kernel) => {
            let found = format!("{} in {}", kernel.version(), data_dir.display());
            let lacks = kernel.not_looked_for();
            if lacks.is_empty() {
                return Check::new("kernel", CheckStatus::Ok, found);
            }
            // It boots as before.
            let lacks = lacks.join(", ");
            Check::new("kernel", CheckStatus::Warn, format!("{found}, installed by an older sandpen, without {lacks}"))
                .advise("sandpen kernel install")
        }
        Err(KernelError::NotInstalled(directory)) => {
            Check::new("kernel", CheckStatus::Fail, format!("none is installed in {}", directory.display()))
                .advise("sandpen kernel install")
        }
        Err(error) => Check::new("kernel", CheckStatus::Fail, error_chain(&error)).advise("sandpen kernel install"),
    }
}

/// What an ordinary user makes jails from: root directories are shared from there.
fn user_namespaces(rights: &Result<&Rights, String>) -> Option<Check> {
    if Uid::effective().is_root() {
        return None;
    }
    let Err(why) = rights else {
        return Some(Check::new("user-namespaces", CheckStatus::Ok, "work"));
    };
    let number = |path: &str| std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let settings = [
        ("/proc/sys/user/max_user_namespaces", 0),
        ("/proc/sys/kernel/unprivileged_userns_clone", 0),
        ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1),
    ];
    let check = |detail| Check::new("user-namespaces", CheckStatus::Fail, detail);
    Some(match settings.into_iter().find(|(path, forbids)| number(path) == Some(*forbids)) {
        Some((path, _)) => check(format!("{path} forbids them to ordinary users"))
            .advise("allow them with sysctl, or run sandpen as root"),
        None => check(why.clone())
            .advise("a container or security module forbids them; allow them there, or run sandpen as root"),
    })
}

/// Never a failure: only `--overlay`, `--disk` and `--keep-disk` need it.
fn disks(data_dir: &Path) -> Check {
    const NEEDED_BY: &str = "--overlay and --disk cannot be used";
    let lacks = kernel::find(data_dir).ok();
    let lacks = lacks.and_then(|kernel| disk::MODULES.into_iter().find(|module| kernel.check_has(module).is_err()));
    match (mke2fs::find(), lacks) {
        (Err(error), _) => Check::new("disks", CheckStatus::Warn, format!("{NEEDED_BY}: {error}"))
            .advise(format!("apt-get install {}", mke2fs::PACKAGE)),
        (Ok(_), Some(module)) => {
            Check::new("disks", CheckStatus::Warn, format!("{NEEDED_BY}: the guest kernel lacks {module}"))
                .advise("sandpen kernel install")
        }
        (Ok(program), None) => Check::new("disks", CheckStatus::Ok, format!("made with {}", program.display())),
    }
}

fn state_directory(state_dir: &Path) -> Check {
    // The directory itself may be made later: what counts is the nearest one that is there.
    let there = state_dir.ancestors().find(|dir| dir.exists()).unwrap_or(state_dir);
    let name = state_dir.display();
    if !there.is_dir() || access(there, AccessFlags::W_OK | AccessFlags::X_OK).is_err() {
        let found = format!("{name} cannot be written ({})", there.display());
        return Check::new("state-dir", CheckStatus::Fail, found)
            .advise("choose another with --state-dir or SANDPEN_STATE_DIR");
    }
    // One that is there is only looked at.
    let looked_at = if there == state_dir { PrivateDir::own(state_dir).map(drop) } else { Ok(()) };
    match looked_at {
        Ok(()) => Check::new("state-dir", CheckStatus::Ok, format!("{name} is writable")),
        Err(error) => Check::new("state-dir", CheckStatus::Fail, error_chain(&error)),
    }
}

fn open_files() -> Check {
    /// With so many, 128 sandboxes run at once.
    const FEW: u64 = 1024;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) if hard < OPEN_FILES_MIN => {
            Check::new("open-files", CheckStatus::Fail, format!("at most {hard}, {OPEN_FILES_MIN} are needed"))
                .advise("raise the hard limit (ulimit -Hn, LimitNOFILE=)")
        }
        Ok((_, hard)) if hard <= FEW => {
            Check::new("open-files", CheckStatus::Warn, format!("at most {hard} for one process"))
                .advise("raise the hard limit (ulimit -Hn, LimitNOFILE=) to run many sandboxes")
        }
        Ok((_, hard)) => {
            Check::new("open-files", CheckStatus::Ok, format!("up to {hard}, about {} sandboxes", guests_within(hard)))
        }
        Err(errno) => Check::new("open-files", CheckStatus::Warn, format!("the limit cannot be read: {errno}")),
    }
}

/// What is missing from the confinement: a failure where it is demanded.
fn missing(name: &str, demanded: bool, detail: impl Into<String>) -> Check {
    Check::new(name, if demanded { CheckStatus::Fail } else { CheckStatus::Warn }, detail)
}

/// With `refers`, the check of the user namespaces says what to do.
fn jail(rights: &Result<&Rights, String>, refers: bool, demanded: bool) -> Check {
    match rights {
        Ok(rights) => {
            let found = match rights.user().map(UserNamespace::ids) {
                None => "each process has one, with a uid of its sandbox's own".to_owned(),
                Some(1) => {
                    "each process has one, in a user namespace; files of shared directories can belong to this user \
                            alone"
                        .to_owned()
                }
                Some(ids) => format!("each process has one, in a user namespace with {ids} ids"),
            };
            Check::new("jail", CheckStatus::Ok, found)
        }
        Err(why) => {
            let found = |why: &str| format!("{why}: no directories are shared, and VMMs see the host's files");
            match refers {
                true => missing("jail", demanded, found("none")).advise("see user-namespaces"),
                false => missing("jail", demanded, found(why))
                    .advise("run as root with CAP_SYS_ADMIN, or allow namespaces and mounts in this container"),
            }
        }
    }
}

/// Never a failure: microVMs run without it, their host processes less confined.
fn landlock() -> Check {
    match confine::kernel_abi() {
        Ok(abi) => Check::new("landlock", CheckStatus::Ok, format!("ABI {abi}")),
        Err(why) => Check::new("landlock", CheckStatus::Warn, format!("{why}: VMMs reach what their user reaches"))
            .advise("use a kernel with CONFIG_SECURITY_LANDLOCK and landlock in lsm= (Linux 6.7 for all of it)"),
    }
}

/// Sharing a root directory with QEMU needs it even where it is not demanded.
fn seccomp(available: Result<(), String>, demanded: bool) -> Check {
    match available {
        Ok(()) => Check::new("seccomp", CheckStatus::Ok, "filters of system calls work"),
        Err(why) => missing("seccomp", demanded, why)
            .advise("use a kernel with CONFIG_SECCOMP_FILTER, or a container that allows the call seccomp(2)"),
    }
}

/// Never a failure: microVMs run without limits of the kernel's. Of a daemon that is started here; one
/// of systemd's is in a cgroup of its own.
fn cgroup() -> Check {
    match Hierarchy::own().and_then(|hierarchy| hierarchy.examine()) {
        Ok(found) => Check::new("cgroup", CheckStatus::Ok, found),
        Err(why) => Check::new("cgroup", CheckStatus::Warn, format!("microVMs get none: {why}"))
            .advise("run the daemon as root or from a systemd unit with Delegate=yes and DelegateSubgroup=daemon"),
    }
}

/// What a daemon that is started here cannot change back. Of a running one its log tells.
fn inherited() -> Check {
    let found = inherited::restrictions();
    match found.is_empty() {
        true => Check::new("inherited", CheckStatus::Ok, "nothing that a daemon started here would suffer from"),
        false => {
            Check::new("inherited", CheckStatus::Warn, format!("a daemon started here keeps: {}", found.join("; ")))
                .advise("start the daemon from a shell without these, or as a service (docs/operations.md)")
        }
    }
}

fn pipes() -> Check {
    const SOFT: &str = "/proc/sys/fs/pipe-user-pages-soft";
    let pages = std::fs::read_to_string(SOFT).ok().and_then(|text| text.trim().parse::<u64>().ok());
    match pages {
        // 16 pages a pipe, about four busy pipes a sandbox.
        Some(pages) if pages > 0 && !Uid::effective().is_root() => Check::new(
            "pipes",
            CheckStatus::Ok,
            format!("{} full-size pipes for an ordinary user; smaller ones, which are slower, beyond that", pages / 16),
        ),
        _ => Check::new("pipes", CheckStatus::Ok, "not limited"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_a_kernel_is_told_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        let report = examine(&dir.path().join("state/deep"), &dir.path().join("data"), &HostOptions::default());
        let check = |name: &str| report.checks.iter().find(|check| check.name == name).unwrap();
        assert_eq!(check("kernel").status, CheckStatus::Fail);
        assert_eq!(check("kernel").advice.as_deref(), Some("sandpen kernel install"));
        assert_eq!(check("state-dir").status, CheckStatus::Ok);
        assert_eq!(report.auto, None);
    }

    #[test]
    fn a_kernel_that_an_older_sandpen_installed_is_told() {
        let data = tempfile::tempdir().unwrap();
        let directory = data.path().join("kernel/6.1.0-1");
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(data.path().join("kernel/current"), "6.1.0-1\n").unwrap();
        std::fs::write(directory.join("vmlinux"), "x").unwrap();
        let manifest = |more: &str| {
            let manifest = format!(
                r#"{{"format": 1, "version": "6.1.0-1", "origin": "", "vmlinux": {{"size": 1, "sha256": ""}},
                     "modules": [], "builtin": ["tun"]{more}}}"#
            );
            std::fs::write(directory.join("manifest.json"), manifest).unwrap();
            guest_kernel(data.path())
        };
        let check = manifest("");
        assert_eq!(check.status, CheckStatus::Warn);
        assert_eq!(check.advice.as_deref(), Some("sandpen kernel install"));
        assert!(check.detail.contains("virtio_balloon") && !check.detail.contains("tun"), "{}", check.detail);
        let all = kernel::find(data.path()).unwrap().not_looked_for();
        let check = manifest(&format!(r#", "wanted": {all:?}"#));
        assert_eq!((check.status, check.advice), (CheckStatus::Ok, None));
    }

    #[test]
    fn a_file_in_the_place_of_the_state_directory_fails() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(state_directory(file.path()).status, CheckStatus::Fail);
        assert_eq!(state_directory(&file.path().join("below")).status, CheckStatus::Fail);
    }

    #[test]
    fn confinement_that_is_missing_fails_where_it_is_demanded() {
        let none = || Err("none".to_owned());
        for (demanded, status) in [(true, CheckStatus::Fail), (false, CheckStatus::Warn)] {
            assert_eq!(jail(&none(), false, demanded).status, status);
            assert_eq!(seccomp(Err("none".to_owned()), demanded).status, status);
            // Nobody makes a jail with the program of these tests.
            let options = HostOptions { require_confinement: Some(demanded), ..HostOptions::default() };
            let report = examine(Path::new("/nowhere/state"), Path::new("/nowhere/data"), &options);
            assert_eq!(report.checks.iter().find(|check| check.name == "jail").unwrap().status, status);
        }
    }

    #[test]
    fn reports_survive_json() {
        let report = examine(Path::new("/nowhere/state"), Path::new("/nowhere/data"), &HostOptions::default());
        let json = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
    }
}
