//! Files of a real microVM: a read-only root, a shared directory, a full file system, other users, and what is no file on any
//! disk.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::symlink;
use std::process::{Output, Stdio};

use serde_json::{Value, json};

use crate::support::{Home, explain, finish, spawn, until};

struct Guest {
    home: Home,
}

impl Guest {
    fn file(&self, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.home.sandpen(&[&["file"], args].concat());
        command.stdin(Stdio::piped());
        let mut child = spawn(command);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // Refused before it has read all, it reads no more.
        let writer = std::thread::spawn(move || drop(std::io::Write::write_all(&mut stdin, &input)));
        let output = finish(child);
        writer.join().unwrap();
        output
    }

    fn ok(&self, args: &[&str], input: &[u8]) -> Vec<u8> {
        let output = self.file(args, input);
        assert!(output.status.success(), "{args:?}: {}", explain(&output));
        output.stdout
    }

    fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.ok(args, b"")).unwrap()
    }

    fn fails(&self, args: &[&str], input: &[u8], words: &str) {
        let output = self.file(args, input);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", explain(&output));
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{args:?}: {}", explain(&output));
    }
}

#[test]
fn files_of_a_guest_are_its_own() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let shared = home.path().join("shared");
    fs::create_dir(&shared).unwrap();
    // Where it leads the guest's root decides, and not the host's.
    fs::write(format!("{rootfs}/etc/only-in-the-guest"), "the guest's").unwrap();
    symlink("/etc/only-in-the-guest", shared.join("link")).unwrap();
    let volume = format!("{}:/data", shared.display());
    let run = ["run", "-d", "--idle", "-n", "a", "--read-only", "--tmpfs", "/tmp:size=2M", "-v", &volume, &rootfs];
    home.ok(&run);
    let guest = Guest { home };
    assert_eq!(guest.text(&["read", "a", "/etc/only-in-the-guest"]), "the guest's");
    assert_eq!(guest.text(&["read", "a", "/data/link"]), "the guest's");
    assert!(guest.text(&["read", "a", "/proc/version"]).starts_with("Linux version"), "it says that it has no bytes");
    let zeros = guest.ok(&["read", "-o", "7", "-l", "100000", "a", "/dev/zero"], b"");
    assert!(zeros.len() == 100_000 && zeros.iter().all(|byte| *byte == 0));
    assert!(guest.text(&["ls", "a", "/"]).contains("proc"));
    // Nothing of the root changes.
    for args in [
        &["write", "a", "/etc/only-in-the-guest"][..],
        &["write", "a", "/new"],
        &["append", "a", "/etc/only-in-the-guest"],
        &["rm", "-r", "a", "/etc"],
        &["mkdir", "-p", "a", "/new/directory"],
        &["chmod", "a", "600", "/etc/only-in-the-guest"],
    ] {
        guest.fails(args, b"x", "the file system is read-only");
    }
    assert_eq!(fs::read(format!("{rootfs}/etc/only-in-the-guest")).unwrap(), b"the guest's");
    guest.ok(&["mkdir", "-p", "a", "/etc"], b"");
    // Through a shared directory, whole or not at all.
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    guest.ok(&["write", "-m", "640", "a", "/data/file"], &content);
    assert!(fs::read(shared.join("file")).unwrap() == content);
    assert!(guest.ok(&["read", "a", "/data/file"], b"") == content);
    guest.ok(&["write", "a", "/data/file"], b"short");
    guest.ok(&["append", "a", "/data/file"], b"er");
    assert_eq!(fs::read(shared.join("file")).unwrap(), b"shorter");
    let stat: Value = serde_json::from_slice(&guest.ok(&["stat", "--json", "a", "/data/file"], b"")).unwrap();
    assert_eq!((&stat[0]["mode"], &stat[0]["size"]), (&json!(0o640), &json!(7)), "{stat}");
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 2, "no temporary file is left");
    // A file system that is full keeps what it had.
    guest.ok(&["write", "a", "/tmp/file"], &content[..1 << 20]);
    guest.fails(&["write", "a", "/tmp/file"], &content, "no space is left");
    assert!(guest.ok(&["read", "a", "/tmp/file"], b"") == content[..1 << 20]);
    let listed: Value = serde_json::from_slice(&guest.ok(&["ls", "--json", "a", "/tmp"], b"")).unwrap();
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
    // Another user has his own rights, and what he makes is his.
    guest.ok(&["chmod", "a", "600", "/tmp/file"], b"");
    guest.fails(&["read", "-u", "1000:1000", "a", "/tmp/file"], b"", "permission denied");
    guest.fails(&["write", "-u", "1000:1000", "a", "/tmp/file"], b"x", "permission denied");
    guest.ok(&["rm", "a", "/tmp/file"], b"");
    guest.ok(&["mkdir", "-m", "777", "a", "/tmp/open"], b"");
    guest.ok(&["write", "-u", "1000:1000", "a", "/tmp/open/his"], b"x");
    assert!(guest.text(&["ls", "a", "/tmp/open"]).contains("1000:1000"));
    guest.ok(&["chown", "a", "7:8", "/tmp/open/his"], b"");
    guest.ok(&["write", "a", "/tmp/open/his"], b"again");
    assert!(guest.text(&["stat", "a", "/tmp/open/his"]).contains("7:8"), "its owner is as before");
    // Programs in the guest and files by this way are the same.
    let exec = |script: &str| guest.home.ok(&["exec", "a", "--", "sh", "-c", script]);
    assert_eq!(exec("cat /tmp/open/his; cd /tmp/open; mv his hers; ln -s hers link; mkfifo fifo"), "again");
    assert_eq!(guest.text(&["read", "a", "/tmp/open/link"]), "again");
    guest.fails(&["read", "a", "/tmp/open/fifo"], b"", "neither a regular file nor a directory");
    guest.fails(&["read", "a", "/tmp/open"], b"", "is a directory");
    // What happens is told.
    let mut watch = guest.home.sandpen(&["file", "watch", "-r", "a", "/tmp"]);
    watch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("watching"));
    exec("cd /tmp/open; mv hers his; rm fifo; mkdir -p deep/er");
    assert_eq!(lines.next().as_deref(), Some("renamed    /tmp/open/hers -> /tmp/open/his"));
    assert_eq!(lines.next().as_deref(), Some("removed    /tmp/open/fifo"));
    assert_eq!(lines.next().as_deref(), Some("created    /tmp/open/deep/"));
    watch.kill().unwrap();
    watch.wait().unwrap();
    // Noticed with the next word.
    until("no session is left of all this", || {
        exec("touch /tmp/open/again");
        guest.home.ok(&["sessions", "--json", "a"]).trim() == "[]"
    });
    // It ends under who watches.
    let mut watch = guest.home.sandpen(&["file", "watch", "a", "/tmp"]);
    watch.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut watch = watch.spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().as_deref(), Some("watching"));
    guest.home.ok(&["stop", "a"]);
    let output = finish(watch);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    // A helper has them now.
    assert!(guest.home.ok(&["file", "ls", "a", "/"]).contains(" bin\n"));
}
