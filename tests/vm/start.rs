//! `start` and `restart` of real microVMs: what goes on, and what does not.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::{self, Home, explain};

#[test]
fn a_start_of_the_same_goes_on_with_its_disk_and_a_new_run_does_not() {
    if !support::has_mke2fs() {
        return;
    }
    let home = Home::new();
    let rootfs = home.rootfs();
    let run = || {
        home.ok(&["run", "-d", "-n", "a", "--disk", "64M", &rootfs, "--", "sh", "-c", "cat /kept; echo x >> /kept"]);
        home.run(&["wait", "a"]);
    };
    run();
    home.ok(&["start", "a"]);
    home.run(&["wait", "a"]);
    home.ok(&["restart", "a"]);
    home.run(&["wait", "a"]);
    assert_eq!(home.inspect("a")["generation"], 3);
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "a"]), "x\nx\n");
    assert_eq!(home.ok(&["logs", "--all", "--stream", "stdout", "a"]), "x\nx\nx\n");
    // A new run of the name has an empty one.
    run();
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "a"]), "");
    assert_eq!(home.ok(&["logs", "--all", "--stream", "stdout", "a"]), "x\nx\nx\n");
}

#[test]
fn one_whose_program_is_gone_is_no_success() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let program = Path::new(&rootfs).join("program");
    fs::write(&program, "#!/bin/sh\nexit 0\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    home.ok(&["run", "-n", "a", &rootfs, "--", "/program"]);
    fs::remove_file(program).unwrap();
    let failed = home.run(&["start", "a"]);
    assert_eq!((failed.status.code(), failed.stdout.as_slice()), (Some(127), &b""[..]), "{}", explain(&failed));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("/program"), "{}", explain(&failed));
}
