//! `run --rm` in the foreground: the client removes the sandbox, and the daemon where the client cannot.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::support::{Home, expect, explain, finish, output, run_on_host as run, spawn, until};

const SLOW_BYTES: usize = 16_000_000;

/// Starts a client whose workload says `begin` and then waits for the file `NAME.go`.
fn waiting(home: &Home, name: &str) -> Child {
    let go = home.path().join(format!("{name}.go"));
    let script = format!("echo begin; until test -e {}; do sleep 0.05; done; echo end", go.display());
    let mut command: Command = run(home, &["--rm", "-n", name], &script);
    let mut client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    expect(&mut client, b"begin\n");
    client
}

fn kill_client(mut client: Child) {
    client.kill().unwrap();
    client.wait().unwrap();
}

fn names(home: &Home) -> Vec<String> {
    home.rows().iter().map(|row| row["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_client_removes_it_at_once() {
    let home = Home::new();
    let result = output(run(&home, &["--rm", "-n", "a"], "echo x; exit 3"));
    assert_eq!((result.status.code(), &result.stdout[..]), (Some(3), &b"x\n"[..]), "{}", explain(&result));
    assert!(names(&home).is_empty());
    let refused = output(run(&home, &["--rm", "--restart", "always"], "true"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("restart policy"), "{}", explain(&refused));
}

#[test]
fn the_daemon_removes_what_a_killed_client_left_and_waits_for_a_slow_one() {
    let home = Home::new();
    // Its client does not get rid of its output, of which there is more than buffers on the way hold.
    let script = &format!("head -c {SLOW_BYTES} /dev/zero | tr '\\0' x");
    let slow = run(&home, &["--rm", "-n", "slow"], script);
    let slow = spawn(slow);
    until("the slow one's workload ends", || {
        let row = home.run(&["inspect", "slow"]);
        String::from_utf8_lossy(&row.stdout).contains("\"STOPPED\"")
    });
    kill_client(waiting(&home, "a"));
    fs::write(home.path().join("a.go"), "").unwrap();
    until("the daemon removes it", || names(&home) == ["slow"]);
    assert!(!home.state().join("logs/default/a.log").exists());
    let result = finish(slow);
    assert!(result.status.success() && result.stdout == vec![b'x'; SLOW_BYTES], "{}", result.status);
    assert!(names(&home).is_empty());
}

#[test]
fn the_next_daemon_removes_what_a_client_and_a_daemon_left() {
    let home = Home::new();
    kill_client(waiting(&home, "a"));
    home.kill_daemon();
    fs::write(home.path().join("a.go"), "").unwrap();
    until("another daemon removes it", || home.run(&["ps"]).status.success() && names(&home).is_empty());
    assert!(!home.state().join("logs/default/a.log").exists());
}
