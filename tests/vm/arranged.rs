//! What `run` is asked to arrange inside: whom the command runs as, what it finds beside its root and what it cannot write.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::storage::contents;
use crate::support::{Home, explain};

/// Looks at what `run` was asked to arrange, as the user that it was asked to be.
const ARRANGED: &str = r#"
    id; echo "home $HOME in $(pwd)"
    touch /root-file /etc/hosts /ro 2>&1; touch /new/mine 2>&1
    for place in /tmp/x /run/x /dev/shm/x /data/x /named/x /new/mem/x; do echo $place > $place && echo "wrote $place"; done
    stat -c '%a %u:%g' /new/mem; df -k /new/mem /dev/shm | awk 'NR>1{print $2}'
    cat /etc/hosts | head -2; cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax
    cat /single /new/dir/single; echo added >> /single; echo no >> /new/dir/single; ls /new/dir
    echo > /dev/stdout; echo '#!/bin/sh' > /new/mem/true; chmod +x /new/mem/true; /new/mem/true
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
    let before = contents(&rootfs);
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
        "/made/here",
    ];
    // A volume of a name belongs to root at first.
    home.ok(&["run", "--rm", "--read-only", "-v", "kept:/named", &rootfs, "--", "chmod", "1777", "/named"]);
    let run = [&["run", "-n", "a"], &options[..], &volumes, &[&rootfs, "--", "sh", "-c", ARRANGED]].concat();
    let seen = home.run(&run);
    let output = String::from_utf8_lossy(&seen.stdout).into_owned();
    let expected = "uid=1000(web) gid=100(users) groups=4(logs)\nhome /home/web in /made/here\n\
        touch: /root-file: Read-only file system\ntouch: /etc/hosts: Permission denied\ntouch: /ro: Read-only file system\n\
        touch: /new/mine: Read-only file system\n\
        wrote /tmp/x\nwrote /dev/shm/x\nwrote /data/x\nwrote /named/x\nwrote /new/mem/x\n700 1000:4\n1024\n8192\n\
        10.0.0.7\tdb\nfe80::7\tdb\n777\n9999\none\none\nsingle\n\n";
    assert_eq!(output, expected, "{}", explain(&seen));
    assert_eq!(seen.status.code(), Some(126), "nothing there is executed: {}", explain(&seen));
    // Nothing was written to the root, not even a mount point; and of the file's directory nothing was seen.
    assert_eq!(contents(&rootfs), before);
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
