//! Real microVMs of an ordinary user: run by root, these tests become another user (and are skipped
//! when this host does not let that user make namespaces); run by an ordinary user they just run.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use nix::sys::signal::Signal;
use sandpen_skip::{Reason, skip};

use crate::support::{Home, explain, send, until};

/// A home of an ordinary user; `None`, which counts as a skip, where such a user cannot share a
/// root directory.
pub fn ordinary_user() -> Option<Home> {
    let home = Home::of_ordinary_user();
    let report: serde_json::Value = serde_json::from_slice(&home.run(&["doctor", "--json"]).stdout).unwrap();
    let checks = report["checks"].as_array().unwrap();
    let namespaces = checks.iter().find(|check| check["name"] == "user-namespaces").unwrap();
    if namespaces["status"] == "fail" {
        skip(Reason::NoUserNamespaces, &namespaces["detail"]);
        return None;
    }
    assert_eq!(report["auto"], "qemu", "{report}");
    Some(home)
}

#[test]
fn output_exit_code_and_the_owner_of_files() {
    let Some(home) = ordinary_user() else { return };
    let rootfs = home.rootfs();
    let script = "echo out; echo err >&2; id -u; mkdir /made; echo data > /made/file; ln -s file /made/link; \
                  chown 5:5 /made/file 2>/dev/null && echo given away; mknod /made/null c 1 3 2>/dev/null && echo device; \
                  exit 42";
    let output = home.run(&["run", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(42), "{}", explain(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "out\n0\n", "{}", explain(&output));
    assert_eq!(output.stderr, b"err\n");
    for path in ["made", "made/file", "made/link"] {
        let meta = fs::symlink_metadata(Path::new(&rootfs).join(path)).unwrap();
        assert_eq!(meta.uid(), home.uid(), "{path}");
    }
    assert!(!Path::new(&rootfs).join("made/null").exists());
    // The same files are root's in a disk of the directory, and in an image of it.
    home.ok(&["image", "import", &rootfs, "mine"]);
    let list = ["--", "sh", "-c", "stat -c '%u:%g %n' /bin/busybox /made/file /made"];
    let owned = "0:0 /bin/busybox\n0:0 /made/file\n0:0 /made\n";
    for root in [&["--root", "image", &rootfs][..], &["mine"], &[&rootfs]] {
        let listed = home.run(&[&["run", "--rm"], root, &list].concat());
        assert_eq!(String::from_utf8_lossy(&listed.stdout), owned, "{root:?}: {}", explain(&listed));
    }
    // Everything of the state directory is the user's, and nobody else's to read.
    let state = fs::metadata(home.state()).unwrap();
    assert_eq!((state.uid(), state.mode() & 0o777), (home.uid(), 0o700));
    assert_eq!(fs::metadata(home.state().join("logs/default/a.log")).unwrap().uid(), home.uid());
}

/// Of a user with subordinate ids, as most distributions give them: the name and the ids are in files that only this test's
/// processes see in the place of the host's.
#[test]
fn with_subordinate_ids_files_belong_to_any_user_of_the_guest() {
    const FIRST: u32 = 700_000;
    if !nix::unistd::Uid::effective().is_root() {
        return skip(Reason::NotRoot, "only root gives others subordinate ids");
    }
    if !Path::new("/usr/bin/newuidmap").exists() {
        return skip(Reason::NoUidmap, "there is no /usr/bin/newuidmap");
    }
    let Some(home) = ordinary_user() else { return };
    let (uid, rootfs) = (home.uid(), home.rootfs());
    let (names, ids) = (home.path().join("passwd"), home.path().join("subuid"));
    fs::write(&names, format!("root:x:0:0::/:/bin/sh\nsandpen-test:x:{uid}:{uid}::/:/bin/sh\n")).unwrap();
    fs::write(&ids, format!("sandpen-test:{FIRST}:65536\n")).unwrap();
    // What a daemon that was started before could do was found out then.
    home.run(&["shutdown"]);
    let script =
        "mkdir /made; echo data > /made/file; chown 1000:1000 /made/file && chown 65534 /made && echo given away";
    let inner = home.sandpen(&["run", "--rm", &rootfs, "--", "sh", "-c", script]);
    let mount = "mount --bind \"$1\" /etc/passwd && mount --bind \"$2\" /etc/subuid && mount --bind \"$2\" /etc/subgid && \
                 shift 2 && exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups \"${@:2}\"";
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "bash", "-c", mount, "bash"]).arg(&names).arg(&ids).arg(uid.to_string());
    command.arg(inner.get_program()).args(inner.get_args()).stdin(std::process::Stdio::null());
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let output = crate::support::output(command);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "given away\n", "{}", explain(&output));
    let owner = |path: &str| fs::symlink_metadata(Path::new(&rootfs).join(path)).unwrap();
    assert_eq!((owner("made/file").uid(), owner("made/file").gid()), (FIRST + 999, FIRST + 999));
    assert_eq!((owner("made").uid(), owner("made").gid()), (FIRST + 65_533, uid));
    home.run(&["shutdown"]);
}

/// A daemon's program and its files in memory are out of reach from the user namespace in which its VMMs run.
#[test]
fn templates_are_used_and_a_daemon_outlives_its_program() {
    let Some(home) = ordinary_user() else { return };
    let rootfs = home.rootfs();
    let restored = |name: &str| {
        home.ok(&["run", "-d", "-n", name, "--root", "image", &rootfs, "--", "sleep", "1000"]);
        let pid = home.inspect(name)["microvm_pid"].as_u64().unwrap();
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        home.ok(&["kill", name]);
        command_line.split(|byte| *byte == 0).any(|argument| argument == b"-incoming")
    };
    if sandpen::driver::acceleration::acceleration().accelerator == sandpen::driver::acceleration::Accelerator::Tcg {
        assert!(restored("a"), "{}", fs::read_to_string(home.state().join("daemon.log")).unwrap());
    }
    if home.uid() == nix::unistd::Uid::effective().as_raw() {
        // Then it is the tests' own program, which others use.
        return;
    }
    let daemon = home.daemon_pid();
    let program = home.path().join("sandpen");
    fs::copy(&program, home.path().join("next")).unwrap();
    fs::rename(home.path().join("next"), &program).unwrap();
    assert_eq!(home.ok(&["run", "--rm", &rootfs, "--", "echo", "up"]), "up\n");
    assert_eq!(home.daemon_pid(), daemon);
}

#[test]
fn another_daemon_takes_over_without_a_gap() {
    let Some(home) = ordinary_user() else { return };
    let rootfs = home.rootfs();
    let script = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done";
    home.ok(&["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", script]);
    until("the first lines are there", || home.ok(&["logs", "a"]).lines().count() > 3);
    let daemon = home.daemon_pid();
    send(daemon, Signal::SIGKILL);
    let before = home.log("a").len();
    until("the next daemon goes on with the log", || {
        home.ok(&["ps"]).contains("RUNNING") && home.log("a").len() > before + 10
    });
    assert_ne!(home.daemon_pid(), daemon);
    home.ok(&["stop", "a"]);
    let log = home.ok(&["logs", "a"]);
    let lines: Vec<usize> = log.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines, (1..=lines.len()).collect::<Vec<_>>());
    assert_eq!(home.inspect("a")["state"], "STOPPED");
}

#[test]
fn what_this_user_may_not_do_is_said_with_its_reason() {
    let home = Home::of_ordinary_user();
    let rootfs = home.rootfs();
    let doctor = home.run_with_files(256, &["doctor"]);
    assert_eq!(doctor.status.code(), Some(1), "{}", explain(&doctor));
    let refused = home.run_with_files(256, &["run", &rootfs, "--", "true"]);
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("at most 256 open files"), "{}", explain(&refused));
    home.ok(&["shutdown"]);

    fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o000)).unwrap();
    let refused = home.run(&["run", &rootfs, "--", "true"]);
    fs::set_permissions(&rootfs, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(refused.status.code(), Some(125), "{}", explain(&refused));
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(message.contains(&rootfs) && message.contains("Permission denied"), "{}", explain(&refused));
}
