//! `sandpen exec -d`, `jobs`, and `--job` of `logs`, `wait`, `kill` and `attach`, with the sessions of the `process` driver, which
//! makes it quick; jobs of real microVMs, over the death of their daemon, are in `tests/vm`. And their routes over HTTP.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Output, Stdio};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::http_api::{raw, refused, request};
use crate::support::{Home, explain, feed, finish, output, send, spawn, until};

const JOBS: &str = "/v1/sandboxes/default/a/jobs";

/// A sandbox that waits for jobs.
fn idle() -> Home {
    let home = Home::new();
    begin(&home, "a");
    home
}

fn begin(home: &Home, name: &str) {
    let rootfs = home.path().to_str().unwrap();
    home.ok(&["run", "--driver", "process", "-d", "--idle", "-n", name, rootfs]);
}

/// Begins a job; its number.
fn job(home: &Home, options: &[&str], script: &str) -> String {
    let args = [&["exec", "-d"], options, &["a", "--", "sh", "-c", script]].concat();
    home.ok(&args).trim().to_owned()
}

fn jobs(home: &Home) -> Vec<Value> {
    serde_json::from_str(&home.ok(&["jobs", "--json", "a"])).unwrap()
}

/// Asserts how it ended and what it said.
fn said(output: &Output, code: i32, stdout: &str, stderr: &str) {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!((output.status.code(), &*out), (Some(code), stdout), "{}", explain(output));
    assert!(err.contains(stderr) && err.is_empty() == stderr.is_empty(), "{stderr:?}: {}", explain(output));
}

fn attach(home: &Home, args: &[&str]) -> Command {
    home.sandpen(&[&["attach", "--job"], args, &["a"]].concat())
}

#[test]
fn a_job_needs_no_client_and_its_end_is_on_record() {
    let home = idle();
    let go = home.path().join("go");
    let script = format!(
        "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; echo err >&2
         until [ -e {} ]; do sleep 0.02; done; echo end; exit 7",
        go.display()
    );
    let id = job(&home, &[], &script);
    assert!(id.len() == 16 && id.bytes().all(|digit| digit.is_ascii_hexdigit()), "{id}");
    let lines: String = (0..20_000).map(|number| format!("{number}\n")).collect();
    // More than any window: nobody has to take it.
    until("all of it is on file", || jobs(&home)[0]["bytes"] == lines.len() + 4);
    let listed = &jobs(&home)[0];
    assert_eq!((listed["id"].as_str(), listed.get("end"), listed.get("ended_at")), (Some(&*id), None, None));
    assert!(listed["label"].as_str().unwrap().starts_with("sh -c i=0"), "{listed}");
    let table = home.ok(&["jobs", "a"]);
    assert!(table.starts_with("JOB ") && table.contains(&id) && table.contains("running"), "{table}");
    // It is no session that somebody could take.
    assert_eq!(home.ok(&["sessions", "--json", "a"]).trim(), "[]");
    said(&home.run(&["attach", "--session", &id, "a"]), 125, "", &format!("`sandpen attach --job {id} default/a`"));
    assert_eq!(home.ok(&["logs", "--job", &id, "--stream", "stderr", "a"]), "err\n");
    assert_eq!(home.ok(&["logs", "--job", &id, "--stream", "stdout", "a"]), lines);
    let mut follower = spawn(home.sandpen(&["logs", "-f", "--job", &id, "--stream", "stdout", "--tail", "1", "a"]));
    let waiter = spawn(home.sandpen(&["wait", "--job", &id, "a"]));
    let mut following = BufReader::new(follower.stdout.take().unwrap()).lines();
    assert_eq!(following.next().unwrap().unwrap(), "19999");
    std::fs::write(&go, "").unwrap();
    assert_eq!(following.next().unwrap().unwrap(), "end");
    assert!(following.next().is_none());
    said(&finish(follower), 0, "", "");
    said(&finish(waiter), 7, "7\n", "");
    assert_eq!(jobs(&home)[0]["end"], json!({"exited": {"code": 7}}));
    assert!(home.ok(&["jobs", "a"]).contains("exit code 7"), "{}", home.ok(&["jobs", "a"]));
    // What cannot be executed is no success, and on record.
    said(&output(home.sandpen(&["exec", "-d", "a", "--", "/no/such"])), 127, "", "No such file");
    assert_eq!(jobs(&home)[1]["end"]["not_started"]["code"], 127);
    // All of it is there after the sandbox's end, and another daemon's begin, under another name too.
    home.ok(&["stop", "-t", "1", "a"]);
    home.ok(&["shutdown"]);
    home.ok(&["rename", "a", "b"]);
    said(&home.run(&["wait", "--job", &id, "b"]), 7, "7\n", "");
    assert_eq!(home.ok(&["logs", "--job", &id, "--stream", "stdout", "--tail", "2", "b"]), "19999\nend\n");
    let usage: Value = serde_json::from_str(&home.ok(&["df", "--json"])).unwrap();
    let logs = &usage["kinds"][0];
    assert!(logs["kind"] == "logs" && logs["with_sandboxes_bytes"].as_u64() > Some(lines.len() as u64), "{usage}");
    home.ok(&["rm", "b"]);
    said(&home.run(&["jobs", "b"]), 1, "", "there is no sandbox");
    assert_eq!(std::fs::read_dir(home.state().join("jobs")).unwrap().count(), 0);
}

#[test]
fn a_job_in_the_foreground_is_left_and_found_again() {
    let home = idle();
    let script = "echo one; echo e >&2; while read line; do echo \"got $line\"; done; exit 5";
    let id = job(&home, &["-i"], script);
    let mut client = attach(&home, &[&id]);
    client.stdin(Stdio::piped());
    let mut client = spawn(client);
    let mut stdin = client.stdin.take().unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    stdin.write_all(b"this\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap(), "got this");
    send(client.id(), Signal::SIGINT);
    let left = finish(client);
    assert_eq!(left.status.code(), Some(0), "{}", explain(&left));
    assert!(String::from_utf8_lossy(&left.stderr).contains(&format!("`sandpen attach --job {id} a` comes back")));
    // The end of a client's input is not the job's.
    let mut only_new = attach(&home, &[&id, "--tail", "0"]);
    only_new.stdin(Stdio::piped());
    let mut only_new = spawn(only_new);
    feed(&mut only_new, b"that\n");
    let mut lines = BufReader::new(only_new.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "got that");
    let target = format!("{JOBS}/{id}/stdin");
    assert_eq!(request(&home, "POST", &target, "more\n").0, 200, "its end is the job's");
    assert_eq!(lines.next().unwrap().unwrap(), "got more");
    said(&finish(only_new), 5, "", "");
    // As often as one likes, both streams.
    for _ in 0..2 {
        said(&output(attach(&home, &[&id])), 5, "one\ngot this\ngot that\ngot more\n", "e\n");
    }
    refused(&home, "POST", &target, "more\n", 409, "job_ended");
}

#[test]
fn a_signal_ends_a_job_and_the_end_of_its_sandbox_does() {
    let home = idle();
    let id = job(&home, &[], "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    until("it is ready", || jobs(&home)[0]["bytes"] == 6);
    home.ok(&["kill", "--job", &id, "-s", "TERM", "a"]);
    said(&home.run(&["wait", "--job", &id, "a"]), 9, "9\n", "");
    said(&home.run(&["kill", "--job", &id, "a"]), 1, "", "has ended: exit code 9");
    let killed = job(&home, &[], "exec sleep 1000");
    home.ok(&["kill", "--job", &killed, "a"]);
    said(&home.run(&["wait", "--job", &killed, "a"]), 137, "137\n", "");
    let timed = job(&home, &["--timeout", "100ms"], "exec sleep 1000");
    said(&home.run(&["wait", "--job", &timed, "a"]), 124, "124\n", "time was up");
    let last = job(&home, &[], "exec sleep 1000");
    home.ok(&["stop", "-t", "1", "a"]);
    said(&home.run(&["wait", "--job", &last, "a"]), 137, "137\n", "");
    said(&home.run(&["kill", "--job", &last, "a"]), 1, "", "has ended");
}

/// The sessions of this driver are forgotten with the daemon.
#[test]
fn jobs_whose_guest_has_forgotten_them_are_gone() {
    let home = idle();
    let id = job(&home, &[], "while echo line; do sleep 0.02; done");
    until("it writes", || jobs(&home)[0]["bytes"].as_u64() > Some(10));
    home.kill_daemon();
    said(&home.run(&["wait", "--job", &id, "a"]), 125, "", "nobody knows how");
    assert_eq!(jobs(&home)[0]["end"], "gone");
    assert!(home.ok(&["logs", "--job", &id, "a"]).starts_with("line\nline\n"));
}

#[test]
fn what_cannot_be_is_refused() {
    let home = Home::new();
    for bad in ["../x", "", "0", "0000000000000000", "0123456789ABCDEF", "0123456789abcdef0", "0123456789abcde/"] {
        for (args, code) in [
            (&["logs", "--job", bad, "a"][..], 2),
            (&["wait", "--job", bad, "a"], 125),
            (&["kill", "--job", bad, "a"], 2),
            (&["attach", "--job", bad, "a"], 125),
        ] {
            let error = super::input::refused(&home, args, code);
            assert!(error.contains("16 hexadecimal digits") || error.contains("a value is required"), "{error}");
        }
    }
    for (args, code, word) in [
        (&["logs", "--job", "0123456789abcdef", "--vmm", "a"][..], 2, "cannot be used with"),
        (&["logs", "--job", "0123456789abcdef", "--all", "a"], 2, "cannot be used with"),
        (&["attach", "--tail", "3", "a"], 125, "--job"),
        (&["attach", "--job", "0123456789abcdef", "--session", "0123456789abcdef", "a"], 125, "cannot be used with"),
        (&["kill", "--job", "0123456789abcdef", "a", "b"], 1, "is of one sandbox"),
    ] {
        let error = super::input::refused(&home, args, code);
        assert!(error.contains(word), "{args:?}: {error}");
    }
    let home = idle();
    begin(&home, "b");
    let id = job(&home, &[], "exec sleep 1000");
    for of in ["b", "a"] {
        let unknown = if of == "a" { "0123456789abcdef" } else { &id };
        for (command, code) in [("logs", 1), ("wait", 125), ("kill", 1), ("attach", 125)] {
            said(&home.run(&[command, "--job", unknown, of]), code, "", &format!("has no job {unknown}"));
        }
    }
    said(&home.run(&["jobs", "nope"]), 1, "", "there is no sandbox");
    assert_eq!(home.ok(&["jobs", "--json", "b"]).trim(), "[]");
    home.ok(&["stop", "-t", "1", "b"]);
    said(&home.run(&["exec", "-d", "b", "--", "true"]), 125, "", "sandbox default/b is");
    assert_eq!(home.ok(&["jobs", "--json", "b"]).trim(), "[]", "what was refused is not on record");
    home.ok(&["kill", "--job", &id, "a"]);
}

#[test]
fn jobs_over_http() {
    let home = idle();
    let id = |number: u64| format!("{number:016x}");
    let body = |number: u64, script: &str| {
        json!({"id": id(number), "program": {"command": ["sh", "-c", script]}, "stdin": true}).to_string()
    };
    let (status, info) = request(&home, "POST", JOBS, &body(1, "echo hello; read line; exit 3"));
    assert_eq!((status, info["id"].as_str(), info["stdin"].as_bool()), (201, Some(&*id(1)), Some(true)), "{info}");
    let again = request(&home, "POST", JOBS, &body(1, "echo other"));
    assert_eq!((again.0, &again.1["label"]), (200, &info["label"]));
    let one = format!("{JOBS}/{}", id(1));
    until("it wrote", || request(&home, "GET", &one, "").1["bytes"] == 6);
    let head = format!("GET {one}/output?format=json&tail=1 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let output = raw(&home, head.as_bytes());
    assert!(output.contains("sandpen-position: 0\r\n") && output.contains(r#""text":"hello\n""#), "{output}");
    assert_eq!(request(&home, "POST", &format!("{one}/stdin?close=false"), "x\n"), (200, json!({"bytes": 2})));
    let (status, ended) = request(&home, "GET", &format!("{one}/wait"), "");
    assert_eq!((status, &ended["end"]), (200, &json!({"exited": {"code": 3}})));
    assert_eq!(request(&home, "GET", JOBS, "").1, json!([ended]));
    for (method, rest, with) in [
        ("POST", "/signal", r#"{"signal":15}"#),
        ("POST", "/resize", r#"{"rows":1,"cols":1}"#),
        ("POST", "/stdin", "x"),
    ] {
        refused(&home, method, &format!("{one}{rest}"), with, 409, "job_ended");
        refused(&home, method, &format!("{JOBS}/{}{rest}", id(7)), with, 404, "job_not_found");
    }
    assert_eq!(request(&home, "POST", JOBS, &body(2, "exec sleep 1000")).0, 201);
    let two = format!("{JOBS}/{}", id(2));
    refused(&home, "POST", &format!("{two}/resize"), r#"{"rows":1,"cols":1}"#, 409, "no_terminal");
    refused(&home, "POST", &format!("{two}/signal"), r#"{"signal":0}"#, 400, "invalid_request");
    refused(&home, "GET", &format!("{two}/output?from=x"), "", 400, "invalid_request");
    refused(&home, "GET", &format!("/v1/sandboxes/default/a/sessions/{}", id(2)), "", 404, "session_not_found");
    assert_eq!(request(&home, "POST", &format!("{two}/signal"), r#"{"signal":9}"#).0, 204);
    assert_eq!(request(&home, "GET", &format!("{two}/wait"), "").1["end"], json!({"exited": {"signal": 9}}));
    let deaf = json!({"id": id(3), "program": {"command": ["sleep", "1000"]}}).to_string();
    assert_eq!(request(&home, "POST", JOBS, &deaf).0, 201);
    refused(&home, "POST", &format!("{JOBS}/{}/stdin", id(3)), "x", 409, "no_stdin");
    // A session has its number.
    let session = json!({"id": id(4), "program": {"command": ["sleep", "1000"]}}).to_string();
    assert_eq!(request(&home, "POST", "/v1/sandboxes/default/a/sessions", &session).0, 201);
    refused(&home, "POST", JOBS, &body(4, "true"), 400, "invalid_request");
    for name in ["x", "0", "..", "%2e%2e%2fx", "%00", "0123456789ABCDEF", "0123456789abcdef0"] {
        for (method, rest) in [("GET", ""), ("GET", "/wait"), ("GET", "/output")] {
            refused(&home, method, &format!("{JOBS}/{name}{rest}"), "", 400, "invalid_name");
        }
    }
    refused(&home, "GET", &format!("{JOBS}/{}", id(7)), "", 404, "job_not_found");
    refused(&home, "GET", &format!("{JOBS}/{}/wait", id(7)), "", 404, "job_not_found");
    refused(&home, "GET", &format!("{JOBS}/{}/output", id(7)), "", 404, "job_not_found");
    refused(&home, "DELETE", &one, "", 405, "method_not_allowed");
    for odd in ["{}", r#"{"id":"1","program":"shell"}"#, "["] {
        refused(&home, "POST", JOBS, odd, 400, "invalid_request");
    }
    let odd = json!({"id": id(5), "program": {"command": []}}).to_string();
    refused(&home, "POST", JOBS, &odd, 400, "invalid_spec");
    refused(&home, "GET", "/v1/sandboxes/default/nope/jobs", "", 404, "not_found");
}
