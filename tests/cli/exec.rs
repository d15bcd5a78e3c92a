//! `sandpen exec`, `shell`, `sessions`, `top` and `attach --session` with the sessions of the `process` driver, which makes
//! it quick; those of real microVMs are in `tests/vm`.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::pipe2;
use serde_json::{Value, json};

use super::http_api::request;
use super::input::refused;
use crate::support::{Home, explain, feed, finish, output, send, spawn, until};

/// A sandbox that waits for sessions.
fn idle() -> Home {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    assert_eq!(home.ok(&["run", "--driver", "process", "-d", "--idle", "-n", "a", rootfs]), "a\n");
    home
}

fn exec(home: &Home, args: &[&str]) -> Command {
    home.sandpen(&[&["exec"], args].concat())
}

fn sh(home: &Home, script: &str) -> Output {
    output(exec(home, &["a", "--", "sh", "-c", script]))
}

/// Asserts how it ended and what it said.
fn said(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let said = (output.status.code(), String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((said.0, &*said.1), (Some(code), stdout), "{}", explain(output));
    assert!(said.2.contains(stderr) && said.2.is_empty() == stderr.is_empty(), "{stderr:?}: {}", explain(output));
}

/// Begins a shell script as a session that nobody has; its number.
fn detached(home: &Home, script: &str) -> String {
    let id = "0123456789abcdef";
    let body = json!({"id": id, "program": {"command": ["sh", "-c", script]}, "detached": true});
    let (status, info) = request(home, "POST", "/v1/sandboxes/default/a/sessions", &body.to_string());
    assert_eq!(status, 201, "{info}");
    id.to_owned()
}

fn sessions(home: &Home) -> Vec<Value> {
    serde_json::from_str(&home.ok(&["sessions", "--json", "a"])).unwrap()
}

#[test]
fn streams_codes_and_input_are_the_commands() {
    let home = idle();
    said(&sh(&home, "echo out; echo err >&2; exit 3"), 3, "out\n", "err\n");
    said(&sh(&home, "kill -9 $$"), 137, "", "");
    said(&output(exec(&home, &["a", "--", "/no/such"])), 127, "", "No such file");
    said(&output(exec(&home, &["-w", "/no/such", "a", "--", "true"])), 126, "", "No such file");
    said(&output(exec(&home, &["-u", "nobody-here", "a", "--", "true"])), 126, "", "nobody-here");
    said(&output(exec(&home, &["--timeout", "300ms", "a", "--", "sleep", "100"])), 124, "", "time was up");
    said(
        &output(exec(&home, &["-e", "A=b c", "-w", "/tmp", "a", "--", "sh", "-c", "echo $A; pwd"])),
        0,
        "b c\n/tmp\n",
        "",
    );
    // Without -i there is no input; with it every byte and its end.
    let mut none = exec(&home, &["a", "--", "cat"]);
    none.stdin(Stdio::piped());
    said(&finish(spawn(none)), 0, "", "");
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect();
    let mut cat = exec(&home, &["-i", "a", "--", "sh", "-c", "cat; echo end >&2"]);
    cat.stdin(Stdio::piped());
    let mut cat = spawn(cat);
    let mut stdin = cat.stdin.take().unwrap();
    let input = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let cat = finish(cat);
    writer.join().unwrap().unwrap();
    assert!(cat.stdout == bytes && cat.stderr == b"end\n", "{} bytes", cat.stdout.len());
    // What nobody reads holds nobody up.
    let mut deaf = exec(&home, &["-i", "a", "--", "sh", "-c", "exec <&-; sleep 0.2; echo end"]);
    deaf.stdin(Stdio::piped());
    let mut deaf = spawn(deaf);
    let _ = deaf.stdin.take().unwrap().write_all(&bytes);
    said(&finish(deaf), 0, "end\n", "");
    let mut shell = home.sandpen(&["shell", "a"]);
    shell.stdin(Stdio::piped());
    let mut shell = spawn(shell);
    feed(&mut shell, b"echo in a shell; exit 4\n");
    said(&finish(shell), 4, "in a shell\n", "");
    until("every session is forgotten", || sessions(&home).is_empty());
    // And nothing of all that is in the log.
    assert_eq!(home.log("a"), b"");
}

#[test]
fn a_session_in_the_background_is_listed_and_found_again() {
    let home = idle();
    let go = home.path().join("go");
    let script = format!("echo one; until [ -e {} ]; do sleep 0.05; done; echo two; exit 7", go.display());
    let id = &detached(&home, &script);
    let listed = sessions(&home);
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0]["id"].as_str(), listed[0]["detached"].as_bool()), (Some(&**id), Some(true)));
    let table = home.ok(&["sessions", "a"]);
    assert!(table.starts_with("SESSION ") && table.contains(&**id) && table.contains("detached"), "{table}");
    // Left by a signal, it runs on; what was not written yet comes to the next one.
    let mut client = spawn(home.sandpen(&["attach", "--session", id, "a"]));
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    send(client.id(), Signal::SIGINT);
    said(&finish(client), 0, "", &format!("`sandpen attach --session {id} a` comes back"));
    std::fs::write(&go, "").unwrap();
    said(&home.run(&["attach", "--session", id, "a"]), 7, "two\n", "");
    said(&home.run(&["attach", "--session", id, "a"]), 125, "", "there is no session");
    assert_eq!(sessions(&home), [] as [Value; 0]);
}

/// Whoever shares a pipe shares what others have made of it.
#[test]
fn pipes_that_do_not_block_lose_nothing() {
    let home = idle();
    let flags = OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
    let (from, to) = pipe2(flags).unwrap();
    let (mut source, input) = pipe2(flags).map(|(from, to)| (File::from(to), from)).unwrap();
    let mut command = exec(&home, &["-i", "a", "--", "sh", "-c", "cat; seq 50000; echo end >&2"]);
    let room = to.try_clone().unwrap();
    command.stdin(input).stdout(to).stderr(Stdio::piped());
    let client = command.spawn().unwrap();
    drop(command);
    until("it has begun, with nothing to read", || !sessions(&home).is_empty());
    source.write_all(b"input\n").unwrap();
    drop(source);
    // Nobody reads before there is no more room.
    until("the pipe is full", || {
        let flags = PollFlags::POLLOUT;
        poll(&mut [PollFd::new(room.as_fd(), flags)], PollTimeout::ZERO) == Ok(0)
    });
    drop(room);
    let mut read = String::new();
    fcntl(&from, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    File::from(from).read_to_string(&mut read).unwrap();
    said(&finish(client), 0, "", "end\n");
    let expected: String = (1..=50_000).map(|number| format!("{number}\n")).collect();
    assert!(read == format!("input\n{expected}"), "{} bytes", read.len());
}

#[test]
fn a_session_that_was_left_is_ended_by_a_signal() {
    let home = idle();
    let script = "exec 2>/dev/null; trap 'echo hup; exit 5' HUP; echo ready; while :; do sleep 0.05; done";
    let id = &detached(&home, script);
    let mut client = spawn(home.sandpen(&["attach", "--session", id, "a"]));
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    home.ok(&["kill", "--session", id, "-s", "HUP", "a"]);
    assert_eq!(lines.next().unwrap().unwrap(), "hup");
    said(&finish(client), 5, "", "");
    said(&home.run(&["kill", "--session", id, "a"]), 1, "", "there is no session");
    said(&home.run(&["kill", "--session", id, "a", "b"]), 1, "", "is of one sandbox");
    said(&home.run(&["kill", "--session", id, "--job", id, "a"]), 2, "", "cannot be used with");
}

/// What it has not written is there for the next one; what it has, may come twice, as nobody knows how much of it that was.
#[test]
fn a_client_that_is_killed_loses_nothing() {
    let home = idle();
    let script = "i=0; while [ $i -lt 50000 ]; do echo $i; i=$((i+1)); done; exit 3";
    let id = detached(&home, script);
    let mut client = spawn(home.sandpen(&["attach", "--session", id.trim(), "a"]));
    let mut stdout = BufReader::new(client.stdout.take().unwrap());
    let mut first = String::new();
    while !first.ends_with("\n100\n") {
        stdout.read_line(&mut first).unwrap();
    }
    client.kill().unwrap();
    client.wait().unwrap();
    stdout.read_to_string(&mut first).unwrap();
    let second = home.run(&["attach", "--session", id.trim(), "a"]);
    assert_eq!(second.status.code(), Some(3), "{}", explain(&second));
    let second = String::from_utf8(second.stdout).unwrap();
    let whole: String = (0..50_000).map(|number| format!("{number}\n")).collect();
    assert!(whole.starts_with(&first) && whole.ends_with(&second), "{} and {}", first.len(), second.len());
    assert!(first.len() + second.len() >= whole.len(), "{} and {} of {}", first.len(), second.len(), whole.len());
}

#[test]
fn the_latest_client_has_a_session() {
    let home = idle();
    let id = detached(&home, "echo one; exec sleep 1000");
    let mut first = spawn(home.sandpen(&["attach", "--session", id.trim(), "a"]));
    let mut lines = BufReader::new(first.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    let second = spawn(home.sandpen(&["attach", "--session", id.trim(), "a"]));
    said(&finish(first), 125, "", "another client has session");
    // The end of its sandbox is the session's.
    home.ok(&["stop", "-t", "1", "a"]);
    let ended = finish(second);
    assert_eq!(ended.status.code(), Some(137), "{}", explain(&ended));
}

#[test]
fn signals_are_passed_on_and_a_second_one_ends_it() {
    let home = idle();
    let script = "trap 'echo got it; exit 5' INT; echo ready; while :; do sleep 0.05; done";
    let mut one = spawn(exec(&home, &["a", "--", "sh", "-c", script]));
    let mut lines = BufReader::new(one.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    send(one.id(), Signal::SIGINT);
    assert_eq!(lines.next().unwrap().unwrap(), "got it");
    said(&finish(one), 5, "", "SIGINT is passed on");
    let script = "trap '' INT TERM; echo ready; while :; do sleep 0.05; done";
    let mut two = spawn(exec(&home, &["a", "--", "sh", "-c", script]));
    let mut lines = BufReader::new(two.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    send(two.id(), Signal::SIGTERM);
    let mut words = BufReader::new(two.stderr.take().unwrap()).lines();
    assert!(words.next().unwrap().unwrap().contains("SIGTERM is passed on"));
    send(two.id(), Signal::SIGTERM);
    assert!(words.next().unwrap().unwrap().contains("hung up"));
    said(&finish(two), 129, "", "");
    // Who has seen enough ends it: as a filter does.
    let mut three = spawn(exec(&home, &["a", "--", "sh", "-c", "echo $$; exec yes"]));
    let mut lines = BufReader::new(three.stdout.take().unwrap()).lines();
    let pid = lines.next().unwrap().unwrap();
    drop(lines);
    said(&finish(three), 141, "", "");
    until("the session is hung up", || !Path::new("/proc").join(&pid).exists());
}

#[test]
fn what_does_not_run_has_no_sessions() {
    let home = idle();
    home.ok(&["stop", "-t", "1", "a"]);
    for args in [&["exec", "a", "--", "true"][..], &["shell", "a"], &["attach", "--session", "0123456789abcdef", "a"]] {
        said(&home.run(args), 125, "", "sandbox default/a is");
    }
    for args in [&["sessions", "a"][..], &["top", "a"]] {
        said(&home.run(args), 1, "", "sandbox default/a is");
    }
    said(&output(exec(&home, &["nope", "--", "true"])), 125, "", "there is no sandbox");
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_started() {
    let home = Home::new();
    let long = "x".repeat(100_000);
    let many: Vec<&str> = std::iter::repeat_n(long.as_str(), 11).collect();
    let too_long = refused(&home, &[&["exec", "a", "--", "echo"][..], &many].concat(), 125);
    assert!(too_long.contains("at most 1048576"), "{too_long}");
    for (args, word) in [
        (&["exec", "a"][..], "COMMAND"),
        (&["exec", "a", "--", ""], "the command is empty"),
        (&["exec", "-w", "tmp", "a", "--", "true"], "not an absolute path in the guest"),
        (&["exec", "--timeout", "0s", "a", "--", "true"], "time"),
        (&["exec", "-u", "", "a", "--", "true"], "user"),
        (&["exec", "-it", "a", "--", "sh"], "not a terminal"),
        (&["exec", "../a", "--", "sh"], "not allowed"),
        (&["shell", "-u", ":", "a"], "user"),
        (&["attach", "--session", "7", "a"], "16 hexadecimal digits"),
        (&["run", "--idle", "-i", "/"], "cannot be used with"),
        (&["run", "--idle", "/", "--", "true"], "cannot be used with"),
    ] {
        let error = refused(&home, args, 125);
        assert!(error.contains(word), "{args:?}: {error}");
    }
    let home = idle();
    let most: Vec<&str> = many[..10].to_vec();
    let output = output(exec(&home, &[&["a", "--", "sh", "-c", "echo $# ${#10}", "sh"][..], &most].concat()));
    said(&output, 0, "10 100000\n", "");
}

#[test]
fn processes_are_a_table_that_cannot_speak_to_the_terminal() {
    let home = idle();
    let table = home.ok(&["top", "a"]);
    let expected = "PID  PPID  USER          CPU      MEM   STAT  AGE  COMMAND\n\
                    1    0     root          0:01.50  4.0K  S     1m   /init\n\
                    7    1     we\\u{1b}[2Jb  0:00.00  1.0M  R     0s   sh -c \\u{7}\n";
    assert_eq!(table, expected);
    let json: Value = serde_json::from_str(&home.ok(&["top", "--json", "a"])).unwrap();
    assert_eq!((json[1]["pid"].as_u64(), json[1]["user"].as_str()), (Some(7), Some("we\u{1b}[2Jb")));
    let listed = home.ok(&["ps"]);
    assert!(listed.contains("(idle)"), "{listed}");
    assert_eq!(home.inspect("a")["idle"], true);
}

#[test]
fn what_nobody_uses_is_stopped_and_what_somebody_uses_is_not() {
    let home = Home::new();
    let rootfs = home.path().to_str().unwrap();
    let run = |name: &str, rest: &[&str]| {
        let args = ["run", "--driver", "process", "-d", "--idle-timeout", "1s", "--restart", "always", "-n", name];
        home.ok(&[&args[..], rest].concat())
    };
    run("unused", &["--idle", rootfs]);
    run("writes", &[rootfs, "--", "sh", "-c", "while sleep 0.3; do echo; done"]);
    run("a", &["--idle", rootfs]);
    // Longer than twice its time, which a job has, too.
    let id = home.ok(&["exec", "-d", "a", "--", "sleep", "5"]);
    home.ok(&["wait", "unused"]);
    let ended = home.inspect("unused");
    assert_eq!((ended["state"].as_str(), ended["stopped_by"].as_str()), (Some("STOPPED"), Some("request")), "{ended}");
    assert_eq!(ended["idle_timeout_ms"], 1000);
    said(&home.run(&["attach", "--job", id.trim(), "a"]), 0, "", "");
    assert_eq!(home.inspect("writes")["state"], "RUNNING");
    home.ok(&["wait", "a"]);
    home.ok(&["rm", "-f", "writes"]);
}
