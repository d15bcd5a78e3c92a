//! What a workload finds in its machine, whatever its root directory is.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;

use sandpen::driver::acceleration::{Accelerator, acceleration};

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

/// Looks at what `run` was asked to arrange, as the user that it was asked to be.
const ARRANGED: &str = r#"
    id; echo "home $HOME in $(pwd)"
    touch /root-file /etc/hosts /ro 2>&1; touch /new/mine 2>&1
    for place in /tmp/x /run/x /dev/shm/x /data/x /named/x /new/mem/x; do echo $place > $place && echo "wrote $place"; done
    stat -c '%a %u:%g' /new/mem; df -k /new/mem /dev/shm | awk 'NR>1{print $2}'
    cat /etc/hosts | head -2; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax
    cat /single /new/dir/single; echo added >> /single; echo no >> /new/dir/single; ls /new/dir
    echo > /dev/stdout; cp /bin/busybox /new/mem/true && /new/mem/true
    "#;

#[test]
fn what_run_was_asked_to_arrange_is_there() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let root = Path::new(&rootfs);
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\nweb:x:1000:100::/home/web:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nusers:x:100:\nlogs:x:4:web\nother:x:7:root\n").unwrap();
    let data = home.path().join("data");
    fs::create_dir(&data).unwrap();
    fs::set_permissions(&data, Permissions::from_mode(0o1777)).unwrap();
    let (single, secret) = (home.path().join("single file"), home.path().join("secret"));
    fs::write(&single, "one\n").unwrap();
    fs::write(&secret, "secret").unwrap();
    fs::set_permissions(&single, Permissions::from_mode(0o666)).unwrap();
    let before = tree(root);
    let volumes = [
        format!("{}:/data", data.display()),
        format!("{}:/single", single.display()),
        format!("{}:/new/dir/single:ro", single.display()),
        "kept:/named".to_owned(),
    ];
    let volumes: Vec<_> = volumes.iter().flat_map(|volume| ["-v", volume]).collect();
    let options = [
        "-u",
        "web",
        "--read-only",
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/new/mem:size=1M,mode=0700,uid=1000,gid=4,noexec",
        "--shm-size",
        "8M",
        "--add-host",
        "db:10.0.0.7",
        "--add-host",
        "db=[fe80::7]",
        "--sysctl",
        "net.core.somaxconn=777",
        "--sysctl",
        "kernel/msgmax=9999",
        "-w",
        "/work/dir",
    ];
    // A volume of a name belongs to root at first.
    home.ok(&["run", "--rm", "-v", "kept:/named", &rootfs, "--", "chmod", "1777", "/named"]);
    let run = [&["run", "-n", "a"], &options[..], &volumes, &[&rootfs, "--", "sh", "-c", ARRANGED]].concat();
    let seen = home.run(&run);
    let output = String::from_utf8_lossy(&seen.stdout).into_owned();
    let expected = "uid=1000(web) gid=100(users) groups=4(logs)\nhome /home/web in /work/dir\n\
        touch: /root-file: Read-only file system\ntouch: /etc/hosts: Permission denied\ntouch: /ro: Read-only file system\n\
        touch: /new/mine: Read-only file system\n\
        wrote /tmp/x\nwrote /dev/shm/x\nwrote /data/x\nwrote /named/x\nwrote /new/mem/x\n700 1000:4\n1024\n8192\n\
        10.0.0.7\tdb\nfe80::7\tdb\n777\n9999\none\none\nsingle\n\n";
    assert_eq!(output, expected, "{}", explain(&seen));
    assert_eq!(seen.status.code(), Some(126), "nothing there is executed: {}", explain(&seen));
    // Nothing was written to the root, not even a mount point; and of the file's directory nothing was seen.
    assert_eq!(tree(root), before);
    assert_eq!(fs::read_to_string(&single).unwrap(), "one\nadded\n");
    assert_eq!(fs::read_to_string(data.join("x")).unwrap(), "/data/x\n");
    // It is all kept for the next start, and by its name for others.
    home.ok(&["start", "a"]);
    home.run(&["wait", "a"]);
    assert!(home.ok(&["logs", "a"]).contains("uid=1000(web)"));
    let other = home.ok(&["run", "--rm", "-v", "kept:/k:ro", &rootfs, "--", "sh", "-c", "cat /k/x; touch /k/y || :"]);
    assert_eq!(other, "/named/x\n");
    let inspected = home.inspect("a");
    assert_eq!(inspected["user"], "web");
    assert_eq!(inspected["read_only"], true);
    assert_eq!(inspected["volumes"][3], serde_json::json!({"name": "kept", "guest": "/named", "read_only": false}));
}

/// All files of a root with their sizes.
fn tree(root: &Path) -> Vec<String> {
    let found = std::process::Command::new("find").arg(root).args(["-printf", "%P %s %y\n"]).output().unwrap();
    let mut lines: Vec<_> = String::from_utf8(found.stdout).unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn what_cannot_be_arranged_is_said() {
    let home = Home::new();
    let rootfs = home.rootfs();
    fs::write(Path::new(&rootfs).join("file"), "").unwrap();
    let single = home.path().join("single");
    fs::write(&single, "").unwrap();
    let onto_directory = format!("{}:/bin", single.display());
    for (options, code, words) in [
        (["-u", "nobody"], 126, "there is no user \"nobody\" in the rootfs's /etc/passwd"),
        (["-u", "0:nobody"], 126, "there is no group \"nobody\" in the rootfs's /etc/group"),
        (["--sysctl", "net.core.nothing=1"], 126, "setting net/core/nothing=1 (below /proc/sys): No such file"),
        (["--sysctl", "net.core.somaxconn=many"], 126, "Invalid argument"),
        (["--tmpfs", "/file"], 126, "the mount point \"/file\" of a volume or tmpfs is not a directory"),
        (["-v", onto_directory.as_str()], 126, "the mount point \"/bin\" of a volume that is a file is a directory"),
    ] {
        let seen = home.run(&["run", "--rm", options[0], options[1], &rootfs, "--", "true"]);
        let told = String::from_utf8_lossy(&seen.stderr).into_owned();
        assert!(told.contains(words) && seen.status.code() == Some(code), "{options:?}: {}", explain(&seen));
    }
}
