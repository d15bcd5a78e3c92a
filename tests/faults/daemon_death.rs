//! The daemon's sudden death at random moments, and at each stage of a start. After it, logs are gap-free and not
//! doubled, exit codes true, and nothing is left. The `process` driver makes it quick. `SANDPEN_TEST_SEED` repeats
//! a run.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use nix::sys::signal::Signal;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::deaths::{LINES, assert_clean, assert_same, flood, kill_daemon, numbered, row};
use crate::support::dice::Dice;
use crate::support::{
    self, Home, expect, explain, finish, is_connected, output, run_named as run, send, send_if_there, spawn, until,
};

/// What became of a start over the death of its daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Outcome {
    /// Nothing of it was on record.
    NeverRecorded,
    /// It was on record, and nothing had run.
    NeverRan,
    /// The next daemon took it over: all its output, and its own exit code.
    Recovered,
}

/// Waits for the end of a start and says what became of it; anything else fails.
fn outcome(home: &Home, name: &str, client: Child, expected: &str, round: u64) -> Outcome {
    let result = finish(client);
    let Some(found) = row(home, name) else {
        assert!(!result.status.success(), "round {round}: no row, but: {}", explain(&result));
        return Outcome::NeverRecorded;
    };
    assert_ne!(found["state"], "CREATED", "round {round}: a start that was never answered left its row");
    let code = home.run(&["wait", name]);
    let found = row(home, name).unwrap_or(found);
    if found["state"] == "FAILED" {
        // The daemon died before the waiter had its specification: nothing ever ran.
        assert!(home.ok(&["logs", name]).is_empty(), "round {round}: {found}");
        assert_eq!(found["failure_kind"], "lost", "round {round}: {found}");
        assert!(!result.status.success(), "round {round}: {}", explain(&result));
        return Outcome::NeverRan;
    }
    assert_eq!(code.stdout, b"42\n", "round {round}: {} {found}", explain(&code));
    assert_same(home.ok(&["logs", name]).as_bytes(), expected, round);
    Outcome::Recovered
}

/// Stops the daemon as soon as a sandbox is on record. Whether that was before its waiter was started:
/// else it goes on.
fn freeze_before_the_launch(home: &Home, name: &str) -> bool {
    let daemon = home.daemon_pid();
    let options = SqliteConnectOptions::new().filename(home.state().join("sandpen.db")).read_only(true);
    actix_rt::Runtime::new().unwrap().block_on(async {
        let mut database = SqliteConnection::connect_with(&options).await.unwrap();
        let end = Instant::now() + support::DEADLINE;
        let query = "SELECT COUNT(*) FROM sandboxes WHERE name = ?";
        while sqlx::query_scalar::<_, i64>(query).bind(name).fetch_one(&mut database).await.unwrap() == 0 {
            assert!(Instant::now() < end, "{name} is not recorded");
        }
        send(daemon, Signal::SIGSTOP);
        database.close().await.unwrap();
    });
    let stat = format!("/proc/{daemon}/stat");
    until("it is stopped", || fs::read_to_string(&stat).unwrap().contains(") T "));
    let early = !home.processes().iter().any(|(_, line)| line.starts_with("sandpen-waiter"));
    if !early {
        send(daemon, Signal::SIGCONT);
    }
    early
}

#[test]
fn a_daemon_killed_at_any_moment_loses_and_doubles_nothing() {
    let home = Home::new();
    let mut dice = Dice::of_this_run();
    let mut seen = std::collections::BTreeMap::<_, u32>::new();
    for round in 0..8_u64 {
        let name = format!("r{round}");
        let client = spawn(run(&home, &name, &["-d"], &flood()));
        for _ in 0..=dice.below(3) {
            dice.pause(200);
            kill_daemon(&home);
            home.ok(&["ps"]);
        }
        *seen.entry(outcome(&home, &name, client, &numbered(LINES), round)).or_default() += 1;
        assert_clean(&home);
    }
    // Chance alone shows neither that one is taken over nor that one is not: both are in the next two tests.
    println!("{seen:?}");
}

#[test]
fn a_sandbox_that_runs_is_taken_over_from_a_daemon_killed_at_each_stage() {
    let home = Home::new();
    let all = format!("ready\n{}", numbered(LINES));
    // After that many bytes: with the first line, amid the flood, at its end.
    for (round, bytes) in [6, all.len() / 2, all.len()].into_iter().enumerate() {
        let (name, go, end) = (format!("r{round}"), home.path().join(format!("go{round}")), home.path().join("end"));
        let wait = |sign: &std::path::Path| format!("while [ ! -e '{}' ]; do sleep 0.01; done", sign.display());
        let lines = flood().replace("; exit 42", "");
        let script = format!("echo ready; {}; {lines}; {}; exit 42", wait(&go), wait(&end));
        let client = spawn(run(&home, &name, &["-d"], &script));
        until("it runs", || home.log(&name).len() >= 6);
        if bytes > 6 {
            fs::write(&go, "").unwrap();
            until("it has written so much", || home.log(&name).len() >= bytes);
        }
        kill_daemon(&home);
        home.ok(&["ps"]);
        assert_eq!(home.inspect(&name)["state"], "RUNNING", "round {round}");
        fs::write(&go, "").unwrap();
        fs::write(&end, "").unwrap();
        assert_eq!(outcome(&home, &name, client, &all, round as u64), Outcome::Recovered, "round {round}");
        fs::remove_file(&end).unwrap();
        assert_clean(&home);
    }
}

#[test]
fn a_start_whose_daemon_dies_before_the_launch_fails_and_leaves_nothing() {
    const TRIES: u64 = 50;
    let home = Home::new();
    home.ok(&["ps"]);
    for round in 0..TRIES {
        let name = format!("r{round}");
        let client = spawn(run(&home, &name, &["-d"], &flood()));
        if freeze_before_the_launch(&home, &name) {
            kill_daemon(&home);
            home.ok(&["ps"]);
        }
        let outcome = outcome(&home, &name, client, &numbered(LINES), round);
        assert_clean(&home);
        if outcome != Outcome::Recovered {
            println!("killed before the launch in round {round}: {outcome:?}");
            return;
        }
    }
    panic!("the daemon was never stopped in time");
}

#[test]
fn a_foreground_client_over_deaths_of_the_daemon_shows_everything_once() {
    let home = Home::new();
    let mut dice = Dice::of_this_run();
    for round in 0..4_u64 {
        let go = home.path().join(format!("go{round}"));
        let script = format!("echo ready; while [ ! -e '{}' ]; do sleep 0.01; done; {}", go.display(), flood());
        let name = format!("f{round}");
        let mut client = spawn(run(&home, &name, &["-i"], &script));
        expect(&mut client, b"ready\n");
        fs::write(go, "").unwrap();
        if round % 2 == 0 {
            dice.pause(300);
        } else {
            // Nobody reads: what is under way to the client's stdout is stuck when the daemon dies.
            until("more is on file than the pipe holds", || home.log(&name).len() > 150_000);
        }
        kill_daemon(&home);
        let result = finish(client);
        assert_eq!(result.status.code(), Some(42), "round {round}: {}", explain(&result));
        assert_same(home.ok(&["logs", &name]).as_bytes(), &format!("ready\n{}", numbered(LINES)), round);
        assert_same(&result.stdout, &numbered(LINES), round);
        assert_eq!(home.ok(&["logs", &name]).len(), "ready\n".len() + result.stdout.len());
        assert_clean(&home);
    }
}

#[test]
fn a_daemon_killed_while_it_stops_a_sandbox_has_it_stopped_by_the_next() {
    let home = Home::new();
    let mut dice = Dice::of_this_run();
    for round in 0..4_u64 {
        let name = format!("a{round}");
        let script = "trap 'echo asked; exit 5' TERM; echo ready; while :; do sleep 0.02; done";
        let mut client = spawn(run(&home, &name, &[], script));
        expect(&mut client, b"ready\n");
        let stop = spawn(home.sandpen(&["stop", &name]));
        dice.pause(60);
        kill_daemon(&home);
        finish(stop);
        // The stop may have died with the daemon before it was durable.
        let again = home.run(&["stop", &name]);
        let found = home.inspect(&name);
        assert_eq!(found["state"], "STOPPED", "round {round}: {} {found}", explain(&again));
        assert_eq!(found["exit_code"], 5, "round {round}: {found}");
        let result = finish(client);
        assert_eq!(result.status.code(), Some(5), "round {round}: {}", explain(&result));
        assert_eq!(home.ok(&["logs", &name]), "ready\nasked\n", "round {round}");
        assert_clean(&home);
    }
}

#[test]
fn who_waits_does_so_over_the_death_of_the_daemon() {
    let home = Home::new();
    let go = home.path().join("go");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.02; done; exit 42", go.display());
    output(run(&home, "a", &["-d"], &script));
    let waiting = spawn(home.sandpen(&["wait", "a"]));
    let daemon = home.daemon_pid();
    until("it is connected", || is_connected(&waiting));
    kill_daemon(&home);
    until("it has started another one", || home.lock_holder().is_some_and(|holder| holder != daemon));
    fs::write(go, "").unwrap();
    let result = finish(waiting);
    assert_eq!(result.stdout, b"42\n", "{}", explain(&result));
}

#[test]
fn a_kept_daemon_comes_back_by_itself_and_ends_when_it_is_told_to() {
    let home = Home::new();
    let mut keeper = home.sandpen(&["daemon", "--keep"]).stderr(Stdio::piped()).spawn().unwrap();
    let holder = || home.lock_holder();
    until("it runs", || holder().is_some());
    output(run(&home, "a", &["-d"], "exec sleep 1000"));
    let pid = home.inspect("a")["microvm_pid"].clone();
    for _ in 0..3 {
        let killed = holder().unwrap();
        assert_ne!(killed, keeper.id());
        send_if_there(killed, Signal::SIGKILL);
        // Nobody asks for anything meanwhile.
        until("another one runs", || holder().is_some_and(|holder| holder != killed));
    }
    assert_eq!(home.inspect("a")["microvm_pid"], pid);
    assert!(keeper.try_wait().unwrap().is_none());
    home.ok(&["kill", "a"]);
    send_if_there(keeper.id(), Signal::SIGTERM);
    let ended = finish(keeper);
    assert!(ended.status.success(), "{}", explain(&ended));
    assert!(home.processes().is_empty(), "{:?}", home.processes());
}

/// Before a daemon sees to signals itself, and while there is none.
#[test]
fn what_keeps_a_daemon_ends_when_it_is_told_to_at_any_time() {
    const SANDPEN: &str = env!("CARGO_BIN_EXE_sandpen");
    for program in [&[SANDPEN, "__unblocked", "sleep", "1000"][..], &["sh", "-c", "sleep 0.3; kill -9 $$"]] {
        let mut keeper = Command::new(SANDPEN);
        keeper.arg("__keep").args(program).stdout(Stdio::null()).stderr(Stdio::null());
        let keeper = spawn(keeper);
        let children = format!("/proc/{0}/task/{0}/children", keeper.id());
        let child = || fs::read_to_string(&children).unwrap_or_default().trim().to_owned();
        if program[0] == SANDPEN {
            let name = || fs::read_to_string(format!("/proc/{}/comm", child())).unwrap_or_default();
            until("it runs", || name() == "sleep\n");
        } else {
            let mut seen = std::collections::BTreeSet::new();
            until("it has crashed, and was started again", || {
                seen.extend(Some(child()).filter(|child| !child.is_empty()));
                seen.len() > 1
            });
        }
        send(keeper.id(), Signal::SIGTERM);
        let ended = finish(keeper);
        assert_eq!(ended.status.code(), Some(0), "{}", explain(&ended));
    }
}

#[test]
fn a_daemon_that_a_command_started_comes_back_by_itself() {
    let home = Home::new();
    let holder = || home.lock_holder();
    let count = || fs::read_to_string(home.state().join("logs/default/a.log")).map_or(0, |log| log.lines().count());
    let mut first = run(&home, "a", &["-d", "--restart", "always"], "echo start; exec sleep 1000");
    output_of_kept(&mut first);
    let vmm = home.microvm_pid("a");
    let killed = holder().unwrap();
    send_if_there(killed, Signal::SIGKILL);
    send_if_there(vmm, Signal::SIGKILL);
    // Nobody asks for anything, and the sandbox runs again.
    until("it was restarted", || count() == 2);
    assert_ne!(holder().unwrap(), killed);
    assert_eq!(home.inspect("a")["restarts"], 1);
    home.ok(&["shutdown", "--stop-sandboxes"]);
    until("daemon and parent have ended", || home.processes().is_empty());
}

/// Runs a command whose daemon is kept, as without tests.
fn output_of_kept(command: &mut Command) {
    let output = command.env_remove("SANDPEN_NO_KEEP").output().unwrap();
    assert!(output.status.success(), "{}", explain(&output));
}
