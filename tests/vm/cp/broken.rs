//! Copies that break off: by a daemon's death, a signal, a client's death, the machine's end.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{cp, idle, inside_ok, noise, succeeds_with};
use crate::support::{Home, explain, finish, send, spawn, until};

/// A copy that came to its middle: a tar of one file, `half` of which went in.
fn halfway(home: &Home, tar: &[u8]) -> (Child, std::process::ChildStdin) {
    let mut command = cp(home, &[], "-", "a:/w");
    command.stdin(Stdio::piped());
    let mut child = spawn(command);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&tar[..tar.len() / 2]).unwrap();
    until("some of the file is there, by no name of its own", || {
        inside_ok(home, "ls -A /w").lines().any(|name| name.starts_with(".sandpen-cp-"))
    });
    assert_eq!(inside_ok(home, "ls /w"), "");
    (child, stdin)
}

#[test]
fn copies_go_on_over_the_daemons_death_and_leave_nothing_by_halves() {
    let home = Home::new();
    idle(&home, &[]);
    let dir = home.path().join("host");
    fs::create_dir(&dir).unwrap();
    // More than all that can be on its way.
    let bytes = noise(32 << 20);
    fs::write(dir.join("large"), &bytes).unwrap();
    let mut command = Command::new("tar");
    command.arg("-cC").arg(&dir).arg("large");
    let tar = succeeds_with(command, &[]);
    // In, over the daemon's death.
    let (child, mut stdin) = halfway(&home, &tar);
    home.kill_daemon();
    stdin.write_all(&tar[tar.len() / 2..]).unwrap();
    drop(stdin);
    let output = finish(child);
    assert!(output.status.success(), "{}", explain(&output));
    let there: PathBuf = Path::new(&home.rootfs()).join("w/large");
    assert!(fs::read(&there).unwrap() == bytes, "every byte, once");
    // Out, likewise.
    let mut child = spawn(cp(&home, &[], "a:/w/large", "-"));
    let mut stdout = child.stdout.take().unwrap();
    let mut came = vec![0; 10 << 20];
    stdout.read_exact(&mut came).unwrap();
    home.kill_daemon();
    stdout.read_to_end(&mut came).unwrap();
    let output = finish(child);
    assert!(output.status.success(), "{}", explain(&output));
    let mut command = Command::new("tar");
    command.arg("-xOf").arg("-");
    assert!(succeeds_with(command, &came) == bytes, "every byte, once");
    inside_ok(&home, "rm /w/large");
    // Given up.
    let (child, stdin) = halfway(&home, &tar);
    send(child.id(), Signal::SIGINT);
    let output = finish(child);
    drop(stdin);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("copying - to a:/w: interrupted"), "{said}");
    assert_eq!(inside_ok(&home, "ls -A /w"), "");
    // Killed: the sandbox clears away when nobody has come back.
    let (mut child, stdin) = halfway(&home, &tar);
    send(child.id(), Signal::SIGKILL);
    child.wait().unwrap();
    drop(stdin);
    until("what is not whole is removed", || inside_ok(&home, "ls -A /w").is_empty());
    // The same on this side: whatever moment it is, there is no half of it by its name.
    inside_ok(&home, "mkdir /there");
    let there = Path::new(&home.rootfs()).join("there/large");
    fs::write(&there, &bytes).unwrap();
    let to = home.path().join("to");
    fs::create_dir(&to).unwrap();
    let child = spawn(cp(&home, &[], "a:/there/large", &to));
    let names = || fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    until("it has begun", || !names().is_empty());
    send(child.id(), Signal::SIGKILL);
    finish(child);
    for name in names() {
        let is_whole = name == "large" && fs::read(to.join(&name)).unwrap() == bytes;
        assert!(is_whole || name.as_bytes().starts_with(b".sandpen-cp-"), "{name:?}");
    }
    // The machine's end.
    let (child, stdin) = halfway(&home, &tar);
    send(home.microvm_pid("a"), Signal::SIGKILL);
    let output = finish(child);
    drop(stdin);
    assert_eq!(output.status.code(), Some(1), "{}", explain(&output));
    let names: Vec<_> = fs::read_dir(Path::new(&home.rootfs()).join("w")).unwrap().flatten().collect();
    assert!(names.iter().all(|entry| entry.file_name() != "large"), "{names:?}");
}
