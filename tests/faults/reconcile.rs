//! What is on record against what is there: leftovers of nobody, starts and ends meanwhile, a host that was
//! restarted.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;
use serde_json::Value;

use super::deaths::{assert_clean, kill_daemon};
use crate::support::{Home, explain, output, run_named as run, send_if_there, until};

#[test]
fn what_belongs_to_nobody_is_found_removed_and_told() {
    let home = Home::new();
    output(run(&home, "a", &["-d"], "echo ready; exec sleep 1000"));
    output(run(&home, "ended", &[], "exit 3"));
    // The sandbox loses its directory; a strange one, a process, a disk and a mount have no sandbox.
    let state = home.state().canonicalize().unwrap();
    let id = sandpen::paths::state_id(&sandpen_types::state_dir::StateDir::new(state.clone()));
    let tag = |name: &str| format!("{id}/default/{name}/1");
    let sleeper = |tag: &str| {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000; :", tag]).current_dir(home.path());
        command.spawn().unwrap()
    };
    let mut orphan = sleeper(&tag("ghost"));
    let mut stranger = sleeper("0123456789ab/default/ghost/1");
    let runtime = state.join("run/default/ghost");
    fs::create_dir_all(runtime.join("mnt")).unwrap();
    let root = nix::unistd::geteuid().is_root();
    if root {
        let nothing: Option<&str> = None;
        let point = runtime.join("mnt");
        nix::mount::mount(Some("tmpfs"), &point, Some("tmpfs"), nix::mount::MsFlags::empty(), nothing).unwrap();
    } else {
        sandpen_skip::skip(sandpen_skip::Reason::NotRoot, "a mount that is left behind");
    }
    let disk = state.join("disks/sandbox/default/ghost.img");
    fs::create_dir_all(disk.parent().unwrap()).unwrap();
    fs::write(&disk, "x").unwrap();

    let report: Value = serde_json::from_str(&home.ok(&["reconcile", "--json"])).unwrap();
    let mut kinds: Vec<_> =
        report["leftovers"].as_array().unwrap().iter().map(|found| found["kind"].as_str().unwrap()).collect();
    kinds.sort_unstable();
    let mount = if root { vec!["mount"] } else { Vec::new() };
    assert_eq!(kinds, [vec!["disk"], mount, vec!["process", "runtime_dir"]].concat(), "{report}");
    assert!(orphan.wait().unwrap().code().is_none(), "it was killed");
    assert!(stranger.try_wait().unwrap().is_none(), "another state directory's is let alone");
    assert!(!disk.exists() && !runtime.exists());
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    assert_eq!(home.inspect("ended")["exit_code"], 3);
    assert_eq!(home.ok(&["reconcile"]), "nothing was left over\n");

    // Without its directory a sandbox cannot be found again, its processes can.
    kill_daemon(&home);
    fs::remove_dir_all(state.join("run")).unwrap();
    let found = home.inspect("a");
    assert_eq!((&found["state"], &found["failure_kind"]), (&"FAILED".into(), &"lost".into()), "{found}");
    until("only the stranger is left", || {
        let ours = |line: &str| !line.contains(" daemon ") && !line.contains("sleep 1000");
        !home.processes().iter().any(|(_, line)| ours(line))
    });
    let events = home.ok(&["events", "--json"]);
    assert!(events.lines().any(|line| line.contains("\"reconciled\"") && line.contains("\"resolved\":1")), "{events}");
    for (pid, _) in home.processes().iter().filter(|(_, line)| line.contains("sleep")) {
        send_if_there(*pid, Signal::SIGKILL);
    }
    stranger.wait().unwrap();
}

#[test]
fn reconciliation_disturbs_nothing_that_starts_or_ends() {
    let home = Home::new();
    home.ok(&["ps"]);
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reconciler = scope.spawn(|| {
            let mut times = 0;
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(home.ok(&["reconcile"]), "nothing was left over\n");
                times += 1;
            }
            times
        });
        let home = &home;
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    for round in 0..10 {
                        let name = format!("w{worker}");
                        let rm: &[&str] = if round % 2 == 0 { &["--rm"] } else { &[] };
                        let result = output(run(home, &name, rm, "echo one; exit 7"));
                        assert_eq!(result.status.code(), Some(7), "{}", explain(&result));
                        assert_eq!(result.stdout, b"one\n", "{}", explain(&result));
                    }
                })
            })
            .collect();
        let ended: Vec<_> = workers.into_iter().map(std::thread::ScopedJoinHandle::join).collect();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        ended.into_iter().for_each(Result::unwrap);
        assert!(reconciler.join().unwrap() > 5);
    });
    assert_clean(&home);
}

#[test]
fn after_a_restart_of_the_host_the_first_answer_is_true_and_what_shall_comes_back() {
    let home = Home::new();
    for (name, restart) in [("gone", "no"), ("back", "unless-stopped")] {
        output(run(&home, name, &["-d", "--restart", restart], "echo start; exec sleep 1000"));
    }
    until("both run", || home.log("gone") == b"start\n" && home.log("back") == b"start\n");
    // Nothing of ours runs any more, and the records are of another boot.
    let ours: Vec<_> = home.processes();
    kill_daemon(&home);
    for (pid, _) in &ours {
        send_if_there(*pid, Signal::SIGKILL);
    }
    for name in ["gone", "back"] {
        let record = home.state().join("run/default").join(name).join("processes");
        let text = fs::read_to_string(&record).unwrap();
        let boot = text.lines().nth(1).unwrap().to_owned();
        fs::write(&record, text.replace(&boot, "boot 00000000-0000-0000-0000-000000000000")).unwrap();
    }
    let found = home.inspect("gone");
    assert_eq!((&found["state"], &found["failure_kind"]), (&"FAILED".into(), &"lost".into()), "{found}");
    until("it is back", || home.inspect("back")["state"] == "RUNNING" && home.log("back") == b"start\nstart\n");
    assert_eq!(home.inspect("back")["restarts"], 1);
    home.ok(&["stop", "-t", "0", "back"]);
    assert_clean(&home);
}
