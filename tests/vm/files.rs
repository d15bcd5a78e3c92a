//! What real microVMs see of a shared directory: more files than there may be open ones, what the host changes
//! meanwhile, and attributes that count in the guest only.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::{Home, explain, until};
use crate::user::ordinary_user;

/// Directories of the tree, and files in each.
const TREE: (usize, usize) = (50, 100);
/// Open files of each process: some 80 for the guest, each of whose open files costs two.
const OPEN_FILES: u32 = 700;

/// Sees every file of the tree, and opens more than it may.
const WALK: &str = "
    ls -lR /tree | grep -c '^-.*7 '
    /files open 100 /tree/1
    cat /tree/7/*9 | tail -1";

/// A root directory with a tree and the program of `tests/workloads/files.c`.
fn rootfs(home: &Home) -> String {
    let rootfs = home.rootfs();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/workloads/files.c");
    let mut cc = Command::new("cc");
    cc.args(["-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o"]).arg(Path::new(&rootfs).join("files")).arg(source);
    let output = cc.output().expect("a C compiler (package gcc)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for dir in 0..TREE.0 {
        let dir = Path::new(&rootfs).join("tree").join(dir.to_string());
        fs::create_dir_all(&dir).unwrap();
        (0..TREE.1).for_each(|file| fs::write(dir.join(file.to_string()), "123456\n").unwrap());
    }
    rootfs
}

/// What [`WALK`] says first; the rest.
fn walked(output: &str) -> Vec<&str> {
    let all = (TREE.0 * TREE.1).to_string();
    let mut lines = output.lines();
    assert_eq!(lines.next(), Some(all.as_str()), "{output}");
    let (opened, error) = lines.next().unwrap().split_once(' ').unwrap();
    assert_eq!(error, "ENFILE", "{output}");
    assert!((20..60).contains(&opened.parse::<u32>().unwrap()), "{output}");
    assert_eq!(lines.next(), Some("123456"), "closed files make room: {output}");
    lines.collect()
}

#[test]
fn a_tree_of_any_size_is_walked_with_few_open_files_and_what_the_host_replaces_is_new() {
    let home = Home::new();
    let rootfs = rootfs(&home);
    let root = Path::new(&rootfs);
    fs::write(root.join("file"), "old").unwrap();
    // As a package of the host's would be unpacked: `cap_net_admin=ep`.
    let is_root = nix::unistd::Uid::effective().is_root();
    if is_root {
        let given = root.join("given/grep");
        fs::create_dir(root.join("given")).unwrap();
        fs::copy(root.join("bin/busybox"), &given).unwrap();
        let capability = [1, 0, 0, 2, 0, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        rustix::fs::lsetxattr(&given, "security.capability", &capability, rustix::fs::XattrFlags::empty()).unwrap();
    }
    let script = format!(
        "{WALK}
        cp /files /su; chmod 4755 /su; /files as 1000 /su id
        mkdir /cap; cp /bin/busybox /cap/grep
        /files set security.capability /cap/grep; /files set trusted.t /cap/grep; /files set user.u /cap/grep
        /files list /cap/grep | sort; /files as 1000 /cap/grep CapEff /proc/self/status
        [ ! -e /given ] || /files as 1000 /given/grep CapEff /proc/self/status
        echo >> /cap/grep; /files get security.capability /cap/grep; /files get user.u /cap/grep
        exec 3< /file; cat /file; echo; echo seen
        until [ -e /go ]; do sleep 0.1; done; sleep 1.5
        cat /file; echo; cat <&3; echo"
    );
    let output = home.run_with_files(OPEN_FILES, &["run", "-d", "-n", "a", &rootfs, "--", "sh", "-c", &script]);
    assert!(output.status.success(), "{}", explain(&output));
    until("the guest has seen the file", || home.ok(&["logs", "a"]).contains("seen"));
    fs::write(root.join("new"), "new").unwrap();
    fs::rename(root.join("new"), root.join("file")).unwrap();
    fs::write(root.join("go"), "").unwrap();
    home.ok(&["wait", "a"]);
    let log = home.ok(&["logs", "a"]);
    let mut expected = vec![
        "0",
        "security.capability",
        "trusted.t",
        "user.u",
        "CapEff:\t0000000000002000",
        "CapEff:\t0000000000001000",
        "ENODATA",
        "20",
        "old",
        "seen",
        "new",
        "old",
    ];
    expected.retain(|line| is_root || !line.ends_with("1000"));
    assert_eq!(walked(&log), expected, "{log}");
    let names = fs::canonicalize(root.join("cap/grep")).map(|file| {
        let mut names = [0; 1024];
        let len = rustix::fs::llistxattr(&file, &mut names[..]).unwrap();
        String::from_utf8(names[..len].to_vec()).unwrap()
    });
    let names = names.unwrap();
    assert!(names.split('\0').filter(|name| !name.is_empty()).all(|name| name.starts_with("user.")), "{names}");
    let vmm_log = home.ok(&["logs", "--vmm", "a"]);
    assert!(vmm_log.contains("the guest needs more files at once than"), "{vmm_log}");
    let met = home.ok(&["events", "--json"]).lines().filter(|line| line.contains("files_limit_met")).count();
    assert_eq!(met, 1);
}

#[test]
fn an_ordinary_user_sees_as_much_and_cannot_give_files_away() {
    let Some(home) = ordinary_user() else { return };
    let rootfs = rootfs(&home);
    home.own(&rootfs);
    let script = format!(
        "{WALK}
        echo x > /mine; chown 5 /mine 2>&1; chgrp 5 /mine 2>&1; chmod 777 /tmp
        /files as 5 /bin/touch /tmp/theirs 2>&1; /files as 5 /bin/mkdir /tmp/theirs 2>&1
        /files set security.capability /mine; /files set trusted.t /mine; /files list /mine | sort"
    );
    let output = home.run_with_files(OPEN_FILES, &["run", "-n", "a", &rootfs, "--", "sh", "-c", &script]);
    let said = String::from_utf8_lossy(&output.stdout);
    let expected = [
        "chown: /mine: Operation not permitted",
        "chgrp: /mine: Operation not permitted",
        "touch: /tmp/theirs: Operation not permitted",
        "mkdir: can't create directory '/tmp/theirs': Operation not permitted",
        "security.capability",
        "trusted.t",
    ];
    assert_eq!(walked(&said), expected, "{}", explain(&output));
}
