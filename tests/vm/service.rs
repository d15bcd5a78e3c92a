//! A daemon as the unit of `contrib/systemd` starts it: with what is left to it, microVMs do what they do else.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use sandpen_skip::{Reason, skip};

use crate::support::{Home, send, until};

/// The value of a setting of the unit.
fn setting<'a>(unit: &'a str, name: &str) -> &'a str {
    unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('=')).unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn the_units_restrictions_leave_sandboxes_what_they_need() {
    if !nix::unistd::geteuid().is_root() {
        return skip(Reason::NotRoot, "capabilities are taken from root");
    }
    let home = Home::new();
    let unit =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib/systemd/sandpen.service")).unwrap();
    assert_eq!(setting(&unit, "NoNewPrivileges"), "yes");
    let taken = setting(&unit, "CapabilityBoundingSet").strip_prefix('~').unwrap().split(' ');
    let taken: Vec<_> = taken.map(|name| format!("-{}", name.strip_prefix("CAP_").unwrap().to_lowercase())).collect();
    let sandpen = home.sandpen(&["daemon"]);
    let mut daemon = Command::new("setpriv");
    daemon.args(["--no-new-privs", "--inh-caps=-all", &format!("--bounding-set={}", taken.join(","))]);
    daemon.arg(sandpen.get_program()).args(sandpen.get_args());
    daemon.envs(sandpen.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut daemon = daemon.spawn().unwrap();
    until("it serves", || home.state().join("sandpen.sock").exists());
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.id())).unwrap();
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap();
    assert_eq!(u64::from_str_radix(bounding, 16).unwrap() >> 16 & 1, 0, "no CAP_SYS_MODULE");

    // A root directory and a volume of root's, changed as only root may; and a root of layers, which has a disk.
    let rootfs = home.rootfs();
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    let script = "echo x > /v/file && chmod 4755 /v/file && chown 7:8 /v/file && echo shared";
    // A change of owner clears the bit.
    let script = format!("{script}; chmod 4755 /v/file; id -u");
    let bound = format!("{}:/v", volume.display());
    let shared = home.ok(&["run", "--rm", "-v", &bound, "-p", "0:80", &rootfs, "--", "sh", "-c", &script]);
    assert_eq!(shared, "shared\n0\n");
    let file = fs::metadata(volume.join("file")).unwrap();
    assert_eq!((file.uid(), file.gid(), file.permissions().mode() & 0o7777), (7, 8, 0o4755));
    if crate::support::has_mke2fs() {
        let layered = home.ok(&["run", "--rm", "--disk", "64M", &rootfs, "--", "sh", "-c", "echo y > /y && cat /y"]);
        assert_eq!(layered, "y\n");
    }
    send(daemon.id(), Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
}
