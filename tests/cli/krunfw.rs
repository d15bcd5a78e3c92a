//! `--krunfw` and `SANDPEN_KRUNFW` through the built binary: which libkrunfw is used, and what a file
//! that is none is answered.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::support::{Home, explain, is_there, output, succeeds, until};

/// A shared library with this name in it and one function.
fn library(dir: &Path, soname: &str, function: &str) -> PathBuf {
    let (source, library) = (dir.join(format!("{function}.c")), dir.join(format!("{soname}-{function}")));
    fs::write(&source, format!("void *{function}(void) {{ return 0; }}\n")).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-nostdlib"]).arg(format!("-Wl,-soname,{soname}"));
    let output = cc.arg("-o").arg(&library).arg(&source).output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", explain(&output));
    library
}

fn libkrunfw(dir: &Path) -> PathBuf {
    library(dir, "libkrunfw.so.5", "krunfw_get_kernel")
}

/// Checks the one line of a refusal: the file, the reason, what to do.
fn refuses(output: &Output, file: &str, reason: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{file}: {}", explain(output));
    assert!(error.contains(file) && error.contains(reason) && error.contains("kernel install --krunfw"), "{error}");
}

#[test]
fn a_file_that_is_not_libkrunfw_starts_no_daemon() {
    let home = Home::new();
    let dir = home.path();
    let file = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).unwrap();
        dir.join(name)
    };
    let good = fs::read(libkrunfw(dir)).unwrap();
    let mut foreign = good.clone();
    foreign[0x12..0x14].copy_from_slice(&243_u16.to_le_bytes()); // e_machine: RISC-V
    nix::unistd::mkfifo(&dir.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (path, reason) in [
        (dir.join("missing"), "No such file"),
        (dir.to_owned(), "no regular file"),
        (dir.join("fifo"), "no regular file"),
        ("/dev/zero".into(), "no regular file"),
        (file("empty", b""), "no ELF file"),
        (file("text", b"#!/bin/sh\n"), "no ELF file"),
        (file("cut", &good[..good.len() / 2]), "cut off"),
        (file("foreign", &foreign), "another kind of processor"),
        (library(dir, "libother.so.1", "krunfw_get_kernel"), "DT_SONAME"),
        (library(dir, "libkrunfw.so.5", "something_else"), "holds no kernel"),
    ] {
        let path = path.to_str().unwrap();
        let daemon = home.run(&["daemon", "--krunfw", path]);
        refuses(&daemon, path, reason);
        assert_eq!(String::from_utf8_lossy(&daemon.stderr).lines().count(), 1, "{}", explain(&daemon));
        let doctor = home.run(&["doctor", "--json", "--krunfw", path]);
        assert_eq!(doctor.status.code(), Some(1), "{}", explain(&doctor));
        let report: serde_json::Value = serde_json::from_slice(&doctor.stdout).unwrap();
        let check = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == "krun").unwrap();
        assert_eq!(check["status"], "fail");
        assert!(check["detail"].as_str().unwrap().contains(reason) && check["advice"].is_string(), "{check}");
    }
    assert!(!home.state().join("sandpen.sock").exists());
}

#[test]
fn one_that_the_user_may_not_read_is_refused_with_the_reason() {
    let home = Home::of_ordinary_user();
    let file = libkrunfw(home.path());
    fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o000)).unwrap();
    let file = file.to_str().unwrap();
    refuses(&home.run(&["daemon", "--krunfw", file]), file, "Permission denied");
}

#[test]
fn a_daemon_that_a_command_starts_takes_the_environments() {
    let home = Home::new();
    let mut command = home.sandpen(&["ps"]);
    command.env("SANDPEN_KRUNFW", "/no/such/libkrunfw");
    refuses(&output(command), "/no/such/libkrunfw", "No such file");
    let mut command = home.sandpen(&["ps"]);
    command.env("SANDPEN_KRUNFW", "");
    let listed = output(command);
    assert!(listed.status.success(), "an empty one names none: {}", explain(&listed));
    // A running daemon keeps its own, and is not ended for one that could not start.
    let pid = home.daemon_pid();
    refuses(&home.run(&["daemon", "--replace", "--krunfw", "/no/such"]), "/no/such", "No such file");
    home.ok(&["ps"]);
    assert_eq!(home.daemon_pid(), pid);
}

/// The driver looks at the named file at each start, before it looks at KVM: so what it says of one that
/// has gone tells on every host that this is the file it would use.
#[test]
fn a_relative_name_is_kept_as_what_it_meant_at_first() {
    let home = Home::new();
    let file = libkrunfw(home.path());
    let relative = format!("./{}", file.file_name().unwrap().to_str().unwrap());
    let env = |command: &mut Command| {
        command.env("SANDPEN_KRUNFW", &relative).args(["ps"]);
    };
    let flag = |command: &mut Command| {
        command.env("SANDPEN_KRUNFW", "/no/such").args(["daemon", "--krunfw", &relative]);
    };
    let rootfs = home.path().to_str().unwrap();
    let uses_it = || {
        fs::rename(&file, home.path().join("moved")).unwrap();
        let run = home.run(&["run", "--driver", "krun", rootfs, "--", "true"]);
        fs::rename(home.path().join("moved"), &file).unwrap();
        refuses(&run, file.to_str().unwrap(), "No such file");
    };
    let mut command = home.sandpen(&[]);
    env(command.current_dir(home.path()));
    let _listed = succeeds(command);
    uses_it();
    let pid = home.daemon_pid();
    home.ok(&["shutdown"]);
    until("it is gone", || !is_there(pid));

    let mut command = home.sandpen(&[]);
    flag(command.current_dir(home.path()));
    let mut daemon = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(daemon.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("serving")));
    uses_it();
    home.ok(&["shutdown"]);
    assert!(daemon.wait().unwrap().success(), "{:?}", log.map(Result::unwrap).collect::<Vec<_>>());
}
