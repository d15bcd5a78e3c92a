//! Kernel modules that wait until something in the guest needs them, a network interface of a kind or a device for
//! example: the kernel then runs this program once more, as its modprobe.
//!
//! ```text
//!   open("/dev/net/tun") ─▶ kernel: char-major-10-200? ─▶ /proc/1/exe -q -- char-major-10-200
//!                               ◀── finit_module ─── tun.ko of the initramfs, by a descriptor of PID 1
//! ```
//!
//! The workload's root hides the initramfs, so PID 1 holds its directory open under a number that the helper knows.
//! What is not in there is left to the root's own modprobe, which may have modules of its own.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use crate::boot::load_module;
use crate::log::log;

/// In the initramfs.
const DIRECTORY: &str = "/on-demand";
/// PID 1's descriptor of it, for as long as the machine lives; its others are few and below.
const DESCRIPTOR: i32 = 200;
/// The kernel's setting (`Documentation/admin-guide/sysctl/kernel.rst`), and what it is set to: a link that leads to this
/// program from every root that has a `/proc`.
const SETTING: &str = "/proc/sys/kernel/modprobe";
const HELPER: &str = "/proc/1/exe";
/// The root's own, by the kernel's default.
const OWN_MODPROBE: &str = "/sbin/modprobe";
const MODPROBES: [&str; 4] = [OWN_MODPROBE, "/usr/sbin/modprobe", "/bin/modprobe", "/usr/bin/modprobe"];
/// Where programs look for modules.
const MODULES: &str = "/lib/modules";

/// Has the kernel ask this program for modules, if the initramfs has any that wait.
pub fn offer() {
    let directory = match open(DIRECTORY, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::ENOENT) => return,
        Err(error) => return log!("{DIRECTORY}: {error}"),
    };
    match fcntl(&directory, FcntlArg::F_DUPFD_CLOEXEC(DESCRIPTOR)) {
        Ok(DESCRIPTOR) => {}
        other => return log!("{DIRECTORY} cannot be held open: {other:?}"),
    }
    if let Err(error) = fs::write(SETTING, HELPER) {
        log!("{SETTING}: {error}");
    }
}

/// The directory of [`offer`], from anywhere.
fn held() -> PathBuf {
    format!("/proc/1/fd/{DESCRIPTOR}").into()
}

/// What the kernel asks for, if that is what this program was run for: `-q -- NAME` (`call_modprobe` in
/// kernel/module/kmod.c).
pub fn asked(arguments: impl Iterator<Item = String>) -> Option<String> {
    match arguments.collect::<Vec<_>>().as_slice() {
        [quiet, end, name] if quiet == "-q" && end == "--" => Some(name.clone()),
        _ => None,
    }
}

/// Loads the modules of this name or alias.
pub fn load(name: &str) -> ExitCode {
    let directory = held();
    let lists = Lists::read(&directory);
    let found = lists.find(name);
    if found.is_empty() {
        // Comes back only when there is none.
        let _ = Command::new(OWN_MODPROBE).args(["-q", "--", name]).exec();
        return ExitCode::FAILURE;
    }
    for file in found {
        if let Err(error) = load_module(&directory.join(&file), "") {
            log!("loading module {file}, for {name}: {error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Whether a device with this number (admin-guide/devices.txt) is there, or comes when it is opened: one of the kernel's
/// "misc" devices, which have the major number 10.
pub fn has_misc_device(minor: u32) -> bool {
    let listed = fs::read_to_string("/proc/misc").unwrap_or_default();
    is_listed(&listed, minor) || !Lists::read(&held()).find(&format!("char-major-10-{minor}")).is_empty()
}

fn is_listed(misc: &str, minor: u32) -> bool {
    misc.lines().any(|line| line.split_whitespace().next() == Some(&minor.to_string()))
}

/// Shows the modules to the workload's own modprobe, where it has one and none for this kernel. Call it inside of the
/// new root, with `/proc` mounted.
pub fn show() {
    let has = |path: &str| fs::metadata(path).is_ok();
    if !has(&held().display().to_string()) || !(has(MODULES) || MODPROBES.into_iter().any(has)) {
        return;
    }
    let shown = fs::read_to_string("/proc/sys/kernel/osrelease").and_then(|version| {
        let target = Path::new(MODULES).join(version.trim());
        if fs::read_dir(&target).is_ok_and(|mut entries| entries.next().is_some()) {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&target)?;
        let flags = MsFlags::MS_BIND | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some(&held()), &target, None::<&str>, MsFlags::MS_BIND, None::<&str>)?;
        mount(None::<&str>, &target, None::<&str>, flags | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY, None::<&str>)?;
        Ok(())
    });
    if let Err(error) = shown {
        log!("the root directory has no {MODULES} of this kernel: {error}");
    }
}

/// `modules.dep` and `modules.alias` (depmod(8)).
struct Lists {
    dependencies: String,
    aliases: String,
}

impl Lists {
    fn read(directory: &Path) -> Self {
        let read = |name| fs::read_to_string(directory.join(name)).unwrap_or_default();
        Self { dependencies: read("modules.dep"), aliases: read("modules.alias") }
    }

    /// Files of the modules that `wanted` stands for, each behind those that it depends on.
    fn find(&self, wanted: &str) -> Vec<String> {
        let wanted = normalised(wanted);
        let aliased = self.aliases.lines().filter_map(|line| {
            let (alias, module) = line.strip_prefix("alias ")?.rsplit_once(' ')?;
            matches(&normalised(alias), &wanted).then_some(module)
        });
        let names: BTreeSet<String> = aliased.map(normalised).chain([wanted.clone()]).collect();
        let mut files = Vec::new();
        for line in self.dependencies.lines() {
            let Some((file, depends)) = line.split_once(':') else { continue };
            if file.strip_suffix(".ko").is_some_and(|name| names.contains(&normalised(name))) {
                files.extend(depends.split_whitespace().rev().chain([file]).map(str::to_owned));
            }
        }
        files
    }
}

/// The kernel takes `-` and `_` in names for the same.
fn normalised(name: &str) -> String {
    name.replace('-', "_")
}

/// `*` at an alias's end stands for anything; those of devices that are found on a bus are not asked for here.
fn matches(alias: &str, wanted: &str) -> bool {
    alias.strip_suffix('*').map_or(alias == wanted, |start| wanted.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_found_by_name_and_alias_behind_what_they_depend_on() {
        let lists = Lists {
            dependencies:
                "tun.ko:\nloop.ko:\nllc.ko:\nstp.ko: llc.ko\nbridge.ko: stp.ko llc.ko\nxt_MASQUERADE.ko:\nx\n"
                    .to_owned(),
            aliases: "alias char-major-10-200 tun\nalias block-major-7-* loop\nalias rtnl-link-bridge bridge\n\
                      alias ipt_MASQUERADE xt_MASQUERADE\nalias\n# no\n"
                .to_owned(),
        };
        for (name, files) in [
            ("tun", &["tun.ko"][..]),
            ("char-major-10-200", &["tun.ko"]),
            ("char-major-10-20", &[]),
            ("block-major-7-3", &["loop.ko"]),
            ("rtnl-link-bridge", &["llc.ko", "stp.ko", "bridge.ko"]),
            ("ipt_MASQUERADE", &["xt_MASQUERADE.ko"]),
            ("xt-MASQUERADE", &["xt_MASQUERADE.ko"]),
            ("", &[]),
            ("../tun", &[]),
        ] {
            assert_eq!(lists.find(name), files, "{name}");
        }
    }

    #[test]
    fn the_kernels_question_is_told_from_anything_else() {
        let asked = |line: &str| super::asked(line.split(' ').map(str::to_owned));
        assert_eq!(asked("-q -- fs-overlay").as_deref(), Some("fs-overlay"));
        for other in ["", "-q", "-q -- a b", "-- -q a"] {
            assert_eq!(asked(other), None, "{other}");
        }
    }

    #[test]
    fn misc_devices_are_known_by_their_number() {
        let misc = "229 fuse\n 20 x\n237 loop-control\n";
        assert!(is_listed(misc, 229) && is_listed(misc, 20) && !is_listed(misc, 2) && !is_listed("", 0));
    }
}
