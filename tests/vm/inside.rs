//! What a workload finds in its machine, whatever its root directory is.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use sandpen::driver::acceleration::{Accelerator, acceleration};
use sandpen_skip::{Reason, skip};

use crate::memory::rootfs_with_program;
use crate::support::{Home, explain, succeeds, until};

const NOBODY: u32 = 65_534;

/// As of most distributions: nobody, and a service that has a directory below `/run`.
fn prepare(rootfs: &Path) {
    for (file, content) in [
        ("etc/hosts", "10.0.0.7 db"),
        ("etc/passwd", "root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n"),
        ("etc/group", "root:x:0:\nnobody:x:65534:\n"),
    ] {
        fs::write(rootfs.join(file), content).unwrap();
    }
    fs::create_dir_all(rootfs.join("run/server/cache")).unwrap();
    fs::create_dir_all(rootfs.join("var/lock")).unwrap();
    symlink("/run", rootfs.join("var/run")).unwrap();
    fs::set_permissions(rootfs.join("var/lock"), Permissions::from_mode(0o1777)).unwrap();
    fs::set_permissions(rootfs.join("run/server"), Permissions::from_mode(0o2750)).unwrap();
    if nix::unistd::Uid::effective().is_root() {
        chown(rootfs.join("run/server/cache"), Some(NOBODY), Some(NOBODY)).unwrap();
    }
    fs::write(rootfs.join("run/server.pid"), "80").unwrap();
    fs::write(rootfs.join("var/lock/server"), "").unwrap();
}

/// A workload that looks around, leaves what servers leave, and ends when it is asked as it wants to be.
const LOOKS_AROUND: &str = r#"
    trap 'echo asked by INT; exit 7' INT
    trap 'echo asked by TERM; exit 8' TERM
    trap 'echo asked by RTMIN+3; exit 9' 37
    cat /etc/hosts; echo "is $(hostname) in $(pwd)"
    for name in localhost $(hostname); do ping -c 1 -W 20 $name > /dev/null && echo "$name answers"; done
    find /run /var/lock /var/run/server | sort | tr '\n' ' '; echo
    stat -c %a:%u /run/server /run/server/cache /var/lock | tr '\n' ' '; echo
    echo 81 > /run/server.pid; mkdir /run/new; touch /var/lock/mine
    ulimit -n; ulimit -Hn
    su nobody -c 'echo out > /dev/stdout; echo err > /dev/stderr; cat /etc/hosts > /dev/null && echo read'
    cat /sys/devices/system/clocksource/clocksource0/current_clocksource
    grep -m 1 ^flags /proc/cpuinfo
    echo ready; while :; do sleep 0.1; done
"#;

#[test]
fn names_fresh_directories_limits_and_a_processor_of_today() {
    let home = Home::new();
    let rootfs = home.rootfs();
    prepare(Path::new(&rootfs));
    let options = ["--cpus", "2", "--hostname", "web-1.internal", "--stop-signal", "INT", "-w", "/new/dir"];
    home.ok(&[&["run", "-d", "-n", "a"], &options[..], &[&rootfs, "--", "sh", "-c", LOOKS_AROUND]].concat());
    let owner = if nix::unistd::Uid::effective().is_root() { NOBODY } else { 0 };
    let found = format!(
        "10.0.0.7 db\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\tweb-1.internal\n\
         is web-1.internal in /new/dir\nlocalhost answers\nweb-1.internal answers\n\
         /run /run/server /run/server/cache /var/lock /var/run/server /var/run/server/cache \n\
         2750:0 755:{owner} 1777:0 \n65536\n1048576\nout\nread\n"
    );
    let emulated = acceleration().accelerator == Accelerator::Tcg;
    // The second machine over the same root finds nothing of the first one.
    for start in 1..=2 {
        let has_looked = || home.ok(&["logs", "a"]).contains("ready\n");
        until("it has looked around or ended", || has_looked() || home.inspect("a")["ended_at"].is_string());
        let seen = home.ok(&["logs", "--stream", "stdout", "a"]);
        let rest = seen.strip_prefix(&found).unwrap_or_else(|| panic!("start {start}: {seen}\n--- not\n{found}"));
        let (clock, flags) = rest.split_once('\n').unwrap();
        assert!(!emulated || clock == "tsc", "{clock}");
        for flag in ["ssse3", "sse4_1", "sse4_2", "popcnt", "cx16"] {
            assert!(flags.split_whitespace().any(|found| found == flag), "{flag}: {flags}");
        }
        assert_eq!(home.ok(&["logs", "--stream", "stderr", "a"]), "err\n");
        if start == 1 {
            home.ok(&["restart", "-t", "60", "a"]);
        } else {
            home.ok(&["stop", "-t", "60", "-s", "RTMIN+3", "a"]);
        }
    }
    let log = home.ok(&["logs", "--all", "--stream", "stdout", "a"]);
    assert_eq!(log.matches("asked by ").count(), 2, "{log}");
    assert!(log.contains("asked by INT\n") && log.ends_with("asked by RTMIN+3\n"), "{log}");
    assert_eq!(home.inspect("a")["exit_code"], 9);
    // The root itself has what it had, and the directory that was worked in.
    let read = |path: &str| fs::read_to_string(Path::new(&rootfs).join(path));
    assert_eq!((read("etc/hosts").unwrap().as_str(), read("run/server.pid").unwrap().as_str()), ("10.0.0.7 db", "80"));
    assert!(!Path::new(&rootfs).join("run/new").exists() && !Path::new(&rootfs).join("var/lock/mine").exists());
    assert!(Path::new(&rootfs).join("new/dir").is_dir());
}

#[test]
fn a_server_that_gave_up_root_writes_on_its_terminal_and_a_root_without_anything_runs() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let hosts = Path::new(&rootfs).join("etc/hosts");
    assert!(!hosts.exists());
    fs::write(Path::new(&rootfs).join("etc/passwd"), "nobody:x:65534:65534::/:/bin/sh\n").unwrap();
    let script = "grep -c localhost /etc/hosts; exec su nobody -c 'echo out > /dev/stdout; echo err > /dev/stderr'";
    let seen = succeeds(home.sandpen(&["run", "-t", "--stop-signal", "RTMIN+3", &rootfs, "--", "sh", "-c", script]));
    assert_eq!(String::from_utf8_lossy(&seen.stdout), "2\r\nout\r\nerr\r\n", "{}", explain(&seen));
    assert_eq!(fs::read(hosts).unwrap(), b"", "a mount point alone");
}

/// Devices and interfaces of kinds whose modules are loaded when they are asked for.
const NEEDS_MODULES: &str = r"
    stat -c '%n %a %F' /dev/net/tun /dev/fuse /dev/loop-control /dev/loop7
    grep -cE '^(tun|loop|dummy|veth|bridge|stp) ' /proc/modules
    : 3<> /dev/fuse && echo fuse
    /machine tun t0; /machine loop
    dd if=/bin/busybox of=/tmp/part bs=64k count=2 2> /dev/null
    losetup /dev/loop3 /tmp/part && cmp /dev/loop3 /tmp/part && echo same; losetup -d /dev/loop3
    for kind in dummy veth; do ip link add type $kind && echo $kind; done
    modprobe bridge 2> /dev/null && grep -o '^stp ' /proc/modules
    su nobody -c ': 3<> /dev/net/tun && echo opened; : 3<> /dev/loop-control' 2>&1 | sed 's/.*: //'
    ip link add type nosuchkind 2> /dev/null; cat /dev/shm/asked
";

#[test]
fn devices_and_kinds_of_interfaces_come_with_their_modules_when_they_are_needed() {
    let data_dir = std::env::var_os("SANDPEN_DATA_DIR").map_or_else(sandpen::paths::default_data_dir, Into::into);
    if let Err(error) = sandpen::kernel::find(&data_dir).unwrap().check_has("tun") {
        return skip(Reason::NoKernel, error);
    }
    let home = Home::new();
    let rootfs = rootfs_with_program(&home);
    let root = Path::new(&rootfs);
    prepare(root);
    // The root's own is asked for what sandpen does not have.
    fs::create_dir_all(root.join("sbin")).unwrap();
    fs::write(root.join("sbin/modprobe"), "#!/bin/sh\necho \"own $*\" >> /dev/shm/asked\n").unwrap();
    fs::set_permissions(root.join("sbin/modprobe"), Permissions::from_mode(0o755)).unwrap();
    let run = |options: &[&str]| {
        let script = format!("PATH=/bin:/usr/bin; {NEEDS_MODULES}");
        let args = [&["run", "--rm", "--driver", "qemu"], options, &[&rootfs, "--", "sh", "-c", &script]].concat();
        let output = succeeds(home.sandpen(&args));
        String::from_utf8(output.stdout).unwrap()
    };
    let expected = |more: &str| {
        format!(
            "/dev/net/tun 666 character special file\n/dev/fuse 666 character special file\n\
             /dev/loop-control 660 character special file\n/dev/loop7 660 block special file\n0\nfuse\nt0\n0\nsame\n\
             dummy\nveth\n{more}opened\nPermission denied\nown -q -- rtnl-link-nosuchkind\n"
        )
    };
    let seen = run(&[]);
    assert_eq!(seen, expected(""));
    // Larger ones are there together with a network alone.
    assert_eq!(run(&["--net", "published"]), expected("stp \n"));
    let left = fs::read_dir(root.join("lib/modules")).unwrap().map(|entry| entry.unwrap().path());
    assert!(left.into_iter().all(|place| fs::read_dir(place).unwrap().next().is_none()), "mount points alone");
}
