//! The confinement of a host process, without a microVM: what a shell in QEMU's place does under a policy of its own.
//! What one that was taken over would try is in `taken_over.rs`.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use sandpen::driver::confine::rights::is_initial_root;
use sandpen::driver::confine::{JailNetwork, JailPlan, Policy, SharedTree, kernel_abi, seccomp_available};
use sandpen_skip::{Reason, skip};

use crate::support;

fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].map(PathBuf::from).into_iter().find(|path| path.exists());
    found.expect("busybox is missing; `make test` installs the package busybox-static").canonicalize().unwrap()
}

/// Runs a script in QEMU's place.
fn confined(dir: &Path, policy: &Policy, script: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
    command.arg("__confine").arg(busybox()).args(["sh", "-c", script]).current_dir(dir);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(&serde_json::to_vec(policy).unwrap()).unwrap();
    support::finish(child)
}

/// What the commands of a script exited with, by their names.
fn codes(dir: &Path, policy: &Policy, commands: &[(&str, &str)]) -> Vec<(String, i32)> {
    let script: String = commands.iter().map(|(name, command)| format!("{command}; echo {name} $? >&3\n")).collect();
    let output = confined(dir, policy, &format!("exec 3>&1 >/dev/null; {script}"));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert_eq!(text.lines().count(), commands.len(), "{}", support::explain(&output));
    let codes = text.lines().map(|line| line.split_once(' ').unwrap());
    codes.map(|(name, code)| (name.to_owned(), code.parse().unwrap())).collect()
}

fn policy(dir: &Path) -> Policy {
    let mut policy = Policy::new("vmm");
    policy.execute.push(busybox());
    policy.modify.push("/dev/null".into());
    policy.shares.push(SharedTree { directory: dir.join("own"), is_file: false, read_only: false, identity: None });
    policy.read.push(dir.join("read"));
    policy
}

fn directory() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in [("own/file", "own"), ("read/file", "read"), ("secret", "secret")] {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    fs::create_dir(dir.path().join("own/other")).unwrap();
    dir
}

#[test]
fn files_and_connections_beyond_the_policy_are_refused() {
    if let Err(why) = kernel_abi() {
        return skip(Reason::NoLandlock, why);
    }
    let dir = directory();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect = format!("nc 127.0.0.1 {port} </dev/null");
    let allowed = [
        ("read", "cat read/file"),
        ("write", "echo x > own/file"),
        ("move", "mv own/file own/other/moved"),
        ("remove", "rm own/other/moved"),
        ("truncate", "echo > own/new"),
    ];
    let mut refused = vec![
        ("other", "cat secret"),
        ("system", "cat /etc/passwd"),
        ("list", "ls /"),
        ("change", "echo x > read/file"),
        ("make", "echo x > new"),
        ("node", "mknod own/node c 1 3"),
        ("execute", "cp /bin/busybox own/program; own/program true"),
    ];
    if kernel_abi().unwrap() >= 4 {
        refused.push(("connect", &connect));
        refused.push(("listen", "nc -l -p 0 </dev/null"));
    }
    if kernel_abi().unwrap() >= 6 {
        refused.push(("signal", "kill -0 $PPID"));
    }
    for (name, code) in codes(dir.path(), &policy(dir.path()), &allowed) {
        assert_eq!(code, 0, "{name}");
    }
    for (name, code) in codes(dir.path(), &policy(dir.path()), &refused) {
        assert_ne!(code, 0, "{name}");
    }
    let mut with_network = policy(dir.path());
    with_network.tcp = true;
    drop(std::thread::spawn(move || listener.accept().map(drop)));
    assert_eq!(codes(dir.path(), &with_network, &[("connect", &connect)])[0].1, 0);
}

#[test]
fn what_it_could_do_before_it_cannot_do_after() {
    let dir = directory();
    let script = "cat /proc/self/status; cat /proc/self/limits; ls -l /proc/self/fd";
    let mut policy = policy(dir.path());
    policy.read.push("/proc".into());
    let output = confined(dir.path(), &policy, script);
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    assert!(text.contains("NoNewPrivs:\t1"), "{}", support::explain(&output));
    assert!(text.contains("CapEff:\t0000000000000000"), "{text}");
    let limit = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().rev().nth(1).unwrap().to_owned()
    };
    assert_eq!((limit("Max core file size"), limit("Max open files")), ("0".into(), "1024".into()));
    let report = sandpen::driver::confine::read(dir.path()).unwrap();
    assert_eq!(report["vmm"].rlimits.open_files, 1024);
    assert_eq!(report["vmm"].landlock.is_none(), report["vmm"].left_out.contains_key("landlock"));
}

/// A jail as the host's root has it, where these tests are run by that one.
fn jailed(policy: Policy) -> Option<Policy> {
    if !is_initial_root() {
        skip(Reason::NotRoot, "a jail without a waiter is root's");
        return None;
    }
    let plan = JailPlan { uid: Some(0x7FFF_FFFD), network: JailNetwork::Own, empty_root: None };
    Some(Policy { jail: Ok(plan), ..policy })
}

#[test]
fn what_is_handed_over_for_reading_is_never_written_to() {
    let dir = directory();
    let file = dir.path().join("read/file");
    let mut policy = policy(dir.path());
    policy.shares.clear();
    let number = policy.inherit(&file, false);
    let Some(policy) = jailed(policy) else { return };
    let script = format!("read -r line < /proc/self/fd/{number}; printf %s \"$line\"; echo x > /proc/self/fd/{number}");
    let output = confined(dir.path(), &policy, &script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "read", "{}", support::explain(&output));
    // The mount refuses, before Landlock is asked: it would where there is none.
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{}", support::explain(&output));
    assert_eq!(fs::read(&file).unwrap(), b"read");
}

#[test]
fn what_is_handed_over_in_memory_is_read_and_never_written_to() {
    let dir = directory();
    let mut policy = policy(dir.path());
    policy.shares.clear();
    // As many files before it as a disk has: each has the number that was said.
    let numbers: Vec<_> = (0..130).map(|_| policy.inherit(&dir.path().join("read/file"), false)).collect();
    let number = policy.inherit_content("text", "in memory\n".to_owned());
    assert_eq!(number, numbers[0] + 130);
    let read = |number: i32| format!("read -r line < /proc/self/fd/{number}; printf %s \"$line\"; ");
    let script = numbers.iter().map(|number| read(*number)).collect::<String>()
        + &read(number)
        + &format!("echo x > /proc/self/fd/{number}; ")
        + &read(number);
    for policy in [Some(policy.clone()), jailed(policy)].into_iter().flatten() {
        let output = confined(dir.path(), &policy, &script);
        let expected = "read".repeat(130) + "in memoryin memory";
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", support::explain(&output));
    }
}

#[test]
fn links_lead_in_the_jail_where_they_lead_outside_and_nothing_outside_is_changed() {
    let dir = directory();
    let elsewhere = dir.path().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::write(elsewhere.join("file"), "elsewhere").unwrap();
    // An absolute one, and files below it.
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("link")).unwrap();
    std::os::unix::fs::symlink("../link/file", dir.path().join("read/again")).unwrap();
    fs::remove_file(dir.path().join("read/file")).unwrap();
    let mut policy = policy(dir.path());
    policy.shares.clear();
    policy.read = ["link", "link/file", "read/again"].map(|name| dir.path().join(name)).into();
    let Some(policy) = jailed(policy) else { return };
    let base = dir.path().display();
    let script = format!(
        "for file in link/file read/again elsewhere/file; do read -r line < {base}/$file; printf %s \"$line\"; done"
    );
    // Over the runtime directory the jail's root is mounted.
    let runtime_dir = tempfile::tempdir().unwrap();
    let output = confined(runtime_dir.path(), &policy, &script);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "elsewhere".repeat(3), "{}", support::explain(&output));
    assert_eq!(fs::read(elsewhere.join("file")).unwrap(), b"elsewhere");
}

#[test]
fn nothing_runs_under_a_policy_that_cannot_be_read() {
    let dir = directory();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
    command.arg("__confine").arg(busybox()).args(["touch", "made"]).current_dir(dir.path()).stdin(Stdio::null());
    let output = support::output(command);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("policy"), "{}", support::explain(&output));
    assert!(!dir.path().join("made").exists());
}

#[test]
fn what_no_vmm_needs_is_refused_to_qemu() {
    if let Err(why) = seccomp_available() {
        return skip(Reason::NoSeccomp, why);
    }
    let dir = directory();
    let mut policy = policy(dir.path());
    // The rest of the confinement must not be what refuses.
    policy.execute.push("/".into());
    policy.shares.push(SharedTree { directory: "/".into(), is_file: false, read_only: false, identity: None });
    policy.capabilities = ["SYS_ADMIN", "SYS_CHROOT"].map(str::to_owned).into();
    let refused = [
        ("namespaces", "unshare -m true"),
        ("mount", "mount -t tmpfs none own"),
        ("chroot", "chroot / true"),
        ("names", "hostname sandpen-test"),
    ];
    for (name, code) in codes(dir.path(), &policy, &refused) {
        assert_ne!(code, 0, "{name}");
    }
    assert_eq!(codes(dir.path(), &policy, &[("fork", "true | cat")])[0].1, 0);
}
