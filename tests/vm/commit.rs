//! `sandpen commit`: what was written to a root becomes an image, of a sandbox that runs and of one that has ended.

use std::fs;
use std::path::PathBuf;

use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::daemon::daemon;
use crate::support::{self, Home, explain, finish, output, send, spawn, until};

/// What the tree says of itself: kinds, modes, owners, times, links and contents.
const TREE: &str = "cd /; find data made link -type d -print0 | sort -z | xargs -0 stat -c '%n %F %a %u:%g %Y'; \
    find data made link ! -type d -print0 | sort -z | xargs -0 stat -c '%n %F %a %u:%g %Y %h %s'; \
    find data made -type f -print0 | sort -z | xargs -0 sha256sum; readlink link; \
    ls /gone /data/gone /etc/moved /data/hidden 2>&1; true";

/// What is done in the sandbox.
const CHANGES: &str = "set -e
    mkdir -p /made/deep && echo one > /made/one && ln /made/one /made/two && ln -s /made/one /link
    chmod 4711 /made/one && chown 7:8 /made/deep && touch -t 196001020304.05 /made/deep
    mkfifo /made/fifo && truncate -s 64M /made/sparse && echo end >> /made/sparse
    echo more >> /data/kept && rm /data/gone && rm -r /data/hidden && mkdir /data/hidden && echo new > /data/hidden/new
    rm -r /gone && mv /etc/moved /made/moved && touch \"/made/$(printf 'odd\\n\\033name')\"";

/// A home with the image `base`.
fn home() -> Home {
    let home = Home::with_data();
    let root: PathBuf = home.path().join("root");
    support::make_rootfs(&root);
    for (path, text) in
        [("etc/moved", "moved"), ("data/kept", "kept\n"), ("data/gone", ""), ("data/hidden/old", "old"), ("gone/x", "")]
    {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    home.ok(&["image", "import", root.to_str().unwrap(), "base:1"]);
    home
}

fn tree(home: &Home, image: &str) -> String {
    home.ok(&["run", "--rm", image, "--", "sh", "-c", TREE])
}

fn digest(home: &Home, image: &str) -> String {
    let images: Vec<Value> = serde_json::from_str(&home.ok(&["image", "inspect", image])).unwrap();
    images[0]["digest"].as_str().unwrap().to_owned()
}

fn refused(home: &Home, arguments: &[&str], why: &str) {
    let output = output(home.sandpen(arguments));
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains(why), "{}", explain(&output));
}

#[test]
fn what_was_written_is_an_image_wherever_it_is_loaded() {
    let home = home();
    home.ok(&["run", "-d", "--idle", "-n", "a", "-e", "SECRET=s3cret", "-w", "/data", "base:1"]);
    home.ok(&["exec", "a", "--", "sh", "-c", CHANGES]);
    let expected = home.ok(&["exec", "a", "--", "sh", "-c", TREE]);
    assert!(
        expected.contains("odd") && expected.contains("/gone: No such file") && expected.contains("4711"),
        "{expected}"
    );
    // While somebody writes, who goes on afterwards.
    home.ok(&["exec", "-d", "a", "--", "sh", "-c", "while :; do date >> /tmp/ticks; echo x >> /ticks; done"]);
    home.ok(&["commit", "--cmd", "serve", "-e", "MODE=prod", "-l", "team=a", "-m", "first", "a", "new:1"]);
    let ticks = || home.ok(&["exec", "a", "--", "wc", "-c", "/ticks"]);
    let before = ticks();
    until("the root is not frozen", || ticks() != before);
    home.ok(&["stop", "a"]);
    assert_eq!(tree(&home, "new:1"), expected);
    let inspected = home.ok(&["image", "inspect", "new:1"]);
    assert!(inspected.contains("MODE=prod") && inspected.contains("\"serve\"") && inspected.contains("\"/data\""));
    assert!(!inspected.contains("s3cret"), "{inspected}");
    // It has ended: a helper packs it, twice the same, and it can be started again at once.
    home.ok(&["commit", "a", "ended:1"]);
    home.ok(&["commit", "a", "ended:2"]);
    assert_eq!(digest(&home, "ended:1"), digest(&home, "ended:2"));
    assert_eq!(home.inspect("a")["state"], "STOPPED");
    assert_eq!(tree(&home, "ended:1"), expected);
    home.ok(&["start", "a"]);
    assert_eq!(home.ok(&["exec", "a", "--", "cat", "/made/one"]), "one\n");
    home.ok(&["stop", "a"]);
    // Elsewhere.
    let archive = home.path().join("saved.tar");
    home.ok(&["image", "save", "-o", archive.to_str().unwrap(), "ended:1"]);
    let other = Home::with_data();
    other.ok(&["image", "load", archive.to_str().unwrap()]);
    assert_eq!(digest(&other, "ended:1"), digest(&home, "ended:1"));
    assert_eq!(tree(&other, "ended:1"), expected);
}

#[test]
fn what_cannot_be_committed_is_said_and_a_commit_that_breaks_off_leaves_nothing() {
    let home = home();
    let rootfs = home.rootfs();
    refused(&home, &["commit", "nobody", "new:1"], "nobody");
    refused(&home, &["commit", "--env", "x", "nobody", "new:1"], "NAME=VALUE");
    home.ok(&["run", "-n", "native", &rootfs, "--", "true"]);
    refused(&home, &["commit", "native", "new:1"], "runs no image");
    let volume = home.path().join("volume");
    fs::create_dir(&volume).unwrap();
    fs::write(volume.join("file"), "of the volume\n").unwrap();
    let volume = format!("{}:/data/volume", volume.display());
    home.ok(&["run", "-n", "read-only", "--read-only", "-v", &volume, "base:1", "--", "true"]);
    refused(&home, &["commit", "read-only", "new:1"], "nothing can be written");
    // Its helper has its volumes, and may write no more than it.
    let archive = home.path().join("root/data/kept");
    refused(&home, &["cp", archive.to_str().unwrap(), "read-only:/data/new"], "Read-only file system");
    refused(&home, &["file", "mkdir", "read-only", "/new"], "read-only");
    home.ok(&["cp", archive.to_str().unwrap(), "read-only:/data/volume/new"]);
    assert_eq!(home.ok(&["file", "read", "read-only", "/data/volume/file"]), "of the volume\n");
    assert_eq!(fs::read_to_string(home.path().join("volume/new")).unwrap(), "kept\n");
    home.ok(&["run", "-d", "--idle", "-n", "a", "base:1"]);
    home.ok(&["exec", "a", "--", "sh", "-c", "echo x > /data/.wh.x"]);
    refused(&home, &["commit", "a", "new:1"], ".wh.x");
    home.ok(&["exec", "a", "--", "sh", "-c", "rm /data/.wh.x; head -c 30000000 /dev/urandom > /large"]);
    // The client goes, and then the daemon: nothing of it is there, and the workload writes.
    for is_daemon in [false, true] {
        let mut client = spawn(home.sandpen(&["commit", "a", "new:1"]));
        until("it is being packed", || home.ok(&["sessions", "a"]).contains("changes of the root"));
        if is_daemon {
            home.kill_daemon();
        } else {
            send(client.id(), Signal::SIGKILL);
        }
        client.wait().unwrap();
        until("the root is not frozen", || {
            output(home.sandpen(&["exec", "--timeout", "1s", "a", "--", "touch", "/data/touched"])).status.success()
        });
        refused(&home, &["image", "inspect", "new:1"], "new:1");
    }
    // How much it is is the guest's to say: no more than the disk takes.
    let successor = daemon(&home, &["--replace", "--reserve", "1000000G"]);
    refused(&home, &["commit", "a", "new:1"], "nearly full");
    home.kill_daemon();
    finish(successor);
    refused(&home, &["image", "inspect", "new:1"], "new:1");
    home.ok(&["commit", "a", "new:1"]);
    home.ok(&["kill", "a"]);
}
