//! State directories of somebody else, and with links in them: no daemon is started there, and nothing is changed. What
//! the daemon keeps in its memory is dumped nowhere.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, chown, symlink};
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use sandpen::actors::state_dir::StateDir;
use sandpen_skip::{Reason, skip};

use crate::support::{Home, explain, is_there, output, send, until};

/// A user that no package makes.
const STRANGER: u32 = 61_617;

/// Every command that would start a daemon in the place of one that is down, and what takes its place.
const STARTERS: [&[&str]; 5] = [&["ps"], &["events"], &["run", "/", "--", "x"], &["daemon"], &["daemon", "--replace"]];

fn make_private(path: &Path) {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).unwrap();
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = entries.collect();
    names.sort();
    names
}

#[test]
fn root_starts_no_daemon_in_somebody_elses_directory() {
    if !nix::unistd::geteuid().is_root() {
        return skip(Reason::NotRoot, "only root can give files away");
    }
    let home = Home::new();
    make_private(&home.state());
    // What that user could wait with: a lock that leads elsewhere.
    let outside = home.path().join("outside");
    fs::write(&outside, "as it was").unwrap();
    symlink(&outside, home.state().join("daemon.lock")).unwrap();
    chown(home.state(), Some(STRANGER), Some(STRANGER)).unwrap();
    for starter in STARTERS {
        let error = home.fails(starter);
        assert!(error.contains("belongs to user id 61617") && error.contains("run this as that user"), "{error}");
        assert_eq!(names(&home.state()), ["daemon.lock"], "{starter:?}");
        assert_eq!(fs::read(&outside).unwrap(), b"as it was");
    }
    fs::remove_file(home.state().join("daemon.lock")).unwrap();
    // Nor is one made below a directory of theirs.
    let below = home.state().join("state");
    for starter in STARTERS {
        let error = home.fails(&[&["--state-dir", below.to_str().unwrap()], starter].concat());
        assert!(error.contains("user id 61617 may change"), "{error}");
        assert!(!below.exists(), "{starter:?}");
    }
    assert!(home.processes().is_empty(), "{:?}", home.processes());
}

#[test]
fn root_looks_after_somebody_elses_daemon_and_puts_none_in_its_place() {
    let home = Home::of_user_without_kernel();
    if home.uid() == nix::unistd::geteuid().as_raw() {
        return skip(Reason::NotRoot, "only root can be two users");
    }
    let by_root = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sandpen"));
        command.args(args).env("SANDPEN_STATE_DIR", home.state()).env("SANDPEN_NO_KEEP", "1");
        output(command)
    };
    home.ok(&["ps"]);
    let daemon = home.daemon_pid();
    let seen = by_root(&["ps", "--json"]);
    assert_eq!(seen.stdout, b"[]\n", "{}", explain(&seen));
    let refused = by_root(&["daemon", "--replace"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("belongs to user id"), "{}", explain(&refused));
    assert!(is_there(daemon), "it was not ended either");
    home.kill_daemon();
    until("it is dead", || !is_there(daemon));
    let refused = by_root(&["ps"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("belongs to user id"), "{}", explain(&refused));
    assert_eq!(home.lock_holder(), Some(daemon), "nobody has taken the lock since");
    home.ok(&["ps"]);
}

#[test]
fn what_leads_elsewhere_is_refused_by_name() {
    let home = Home::new();
    let state = home.path().join("hostile");
    let outside = home.path().join("outside");
    let there = |name: &str| if StateDir::FILES.contains(&name) { outside.join("file") } else { outside.clone() };
    make_private(&outside);
    fs::write(outside.join("file"), "as it was").unwrap();
    for name in StateDir::FILES.into_iter().chain(StateDir::DIRECTORIES) {
        make_private(state.join(name).parent().unwrap());
        symlink(there(name), state.join(name)).unwrap();
        let before = names(&state);
        for starter in [&["ps"][..], &["daemon"]] {
            let error = home.fails(&[&["--state-dir", state.to_str().unwrap()], starter].concat());
            assert!(error.contains(&format!("{name}\" is a symbolic link")), "{name}: {error}");
            assert_eq!(names(&state), before, "{name}");
            assert_eq!((names(&outside).len(), fs::read(outside.join("file")).unwrap()), (1, b"as it was".to_vec()));
        }
        fs::remove_dir_all(&state).unwrap();
    }
    let report = home.run(&["doctor", "--state-dir", outside.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&report.stdout).contains("is writable"), "{}", explain(&report));
    symlink("/", outside.join("run")).unwrap();
    let report = home.run(&["doctor", "--state-dir", outside.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&report.stdout).contains("run\" is a symbolic link"), "{}", explain(&report));
}

#[test]
fn a_daemon_dumps_no_core_nor_does_what_it_starts_or_who_asks_it() {
    let home = Home::new();
    home.ok(&["ps"]);
    let mut client = home.sandpen(&["events", "-f"]).spawn().unwrap();
    let limited = |pid: u32| {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        let (soft, hard) = (core.split_whitespace().nth(4).unwrap(), core.split_whitespace().nth(5).unwrap());
        let memory = fs::read_to_string(format!("/proc/{pid}/coredump_filter")).unwrap();
        (soft == "1" && hard == "1" || soft == "0" && hard == "0") && memory == "00000000\n"
    };
    assert!(limited(home.daemon_pid()));
    until("the client has begun", || limited(client.id()));
    send(client.id(), Signal::SIGKILL);
    client.wait().unwrap();
    #[cfg(feature = "testing")]
    {
        let run = crate::support::run_on_host(&home, &["-d", "-n", "a"], "exec sleep 1000");
        assert!(output(run).status.success());
        assert!(limited(home.waiter("a").unwrap()));
        home.ok(&["kill", "a"]);
    }
}
