//! The command line with real workloads, but without microVMs: the `process` driver runs host
//! commands. Quick, hence thorough about streams, signals, exit codes and the daemon's end.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::{
    Home, expect, explain, finish, is_connected, is_there, output, run_named, run_on_host as run, send, spawn,
    succeeds, until,
};

#[test]
fn streams_and_exit_codes_are_the_workloads() {
    let home = Home::new();
    let result = output(run(&home, &["-n", "a"], "printf 'o\\000\\377'; printf e >&2; exit 42"));
    assert_eq!((&result.stdout[..], &result.stderr[..]), (&b"o\0\xff"[..], &b"e"[..]), "{}", explain(&result));
    assert_eq!(result.status.code(), Some(42));
    let result = output(run(&home, &["-n", "a"], "kill -9 $$"));
    assert_eq!(result.status.code(), Some(137), "{}", explain(&result));
    assert!(result.stderr.is_empty(), "{}", explain(&result));
    assert_eq!(home.ok(&["wait", "a"]), "137\n");
    let result = home.run(&["run", "--driver", "process", home.path().to_str().unwrap(), "--", "/no/such/program"]);
    assert_eq!(result.status.code(), Some(127), "{}", explain(&result));
    assert!(String::from_utf8_lossy(&result.stderr).contains("/no/such/program"), "{}", explain(&result));
}

#[test]
fn the_json_has_these_fields() {
    let home = Home::new();
    let result = output(run(&home, &["-n", "conf/a", "-e", "TOKEN=s3cret", "--timeout", "90s"], "echo x; exit 3"));
    assert_eq!(result.status.code(), Some(3), "{}", explain(&result));
    let text = home.ok(&["ps", "-a", "--json"]);
    assert!(!text.contains("s3cret") && text.contains("TOKEN"), "{text}");
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    let row = list[0].as_object().unwrap();
    let fields: Vec<_> = row.keys().map(String::as_str).collect();
    assert_eq!(
        fields.join(" "),
        "command config_file confinement cpus created_at disk driver driver_wanted ended_at env_names exit_code exit_signal extra_hosts failure \
         failure_kind generation health health_check hostname kernel kernel_sha256 labels log log_backlog log_dropped memory_mib microvm_pid name network ports read_only remove_on_end restart restart_at \
         restart_backoff restarts rlimits root_device rootfs shm_bytes started_at state stdin stop_signal stopped_by sysctls terminal timeout_ms timings tmpfs user vmm_log volumes workdir"
    );
    assert_eq!((row["name"].as_str(), row["config_file"].as_str()), (Some("a"), Some("conf")));
    assert_eq!((row["exit_code"].as_i64(), row["state"].as_str()), (Some(3), Some("STOPPED")));
    assert_eq!(row["rootfs"], format!("native:{}", home.path().canonicalize().unwrap().display()));
    assert_eq!(row["timeout_ms"], 90_000);
    let inspected = home.inspect("conf/a");
    let history: Vec<_> =
        inspected["history"].as_array().unwrap().iter().map(|record| record["state"].as_str().unwrap()).collect();
    assert_eq!(history, ["STARTING", "RUNNING", "STOPPING", "STOPPED"]);
    assert!(Path::new(inspected["log"].as_str().unwrap()).exists());
    assert_eq!(home.ok(&["ps", "--json"]), "[]\n");
    let table = home.ok(&["ps", "-a"]);
    assert!(table.lines().nth(1).unwrap().starts_with("conf/a"), "{table}");
}

#[test]
fn stdin_is_passed_on_with_its_end() {
    let home = Home::new();
    let data: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
    let mut child = run(&home, &["-i"], "cat; echo end").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let writer = std::thread::spawn({
        let data = data.clone();
        move || stdin.write_all(&data).unwrap()
    });
    let result = finish(child);
    writer.join().unwrap();
    assert!(result.status.success());
    assert!(result.stdout.ends_with(b"end\n") && result.stdout[..data.len()] == data, "{} bytes", result.stdout.len());

    // An input that never ends does not hold the end.
    let (reader, _writer) = std::io::pipe().unwrap();
    let result = output({
        let mut command = run(&home, &["-i"], "exit 4");
        command.stdin(reader);
        command
    });
    assert_eq!((result.status.code(), result.stderr.as_slice()), (Some(4), &b""[..]), "{}", explain(&result));
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_and_with_rm_the_sandbox() {
    let home = Home::new();
    let script = "i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done";
    for (name, options) in [("stays", &[][..]), ("goes", &["--rm"])] {
        let mut child = spawn(run_named(&home, name, options, script));
        expect(&mut child, b"line 0\n");
        drop(child.stdout.take());
        let result = finish(child);
        // As of a program that SIGPIPE has ended.
        assert_eq!((result.status.code(), result.stderr.as_slice()), (Some(141), &b""[..]), "{}", explain(&result));
    }
    assert_eq!(home.inspect("stays")["state"], "RUNNING");
    until("the other one is removed", || !home.ok(&["ps", "-a"]).contains("goes"));
    home.ok(&["kill", "stays"]);
    let mut logs = spawn(home.sandpen(&["logs", "stays"]));
    expect(&mut logs, b"line 0\n");
    drop(logs.stdout.take());
    let result = finish(logs);
    assert!(result.status.success() && result.stderr.is_empty(), "{}", explain(&result));
}

#[test]
fn signals_stop_and_then_kill() {
    let home = Home::new();
    let graceful = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let deaf = "trap '' TERM; echo ready; while :; do sleep 0.05; done";
    for (signal, script, twice, code) in [
        (Signal::SIGINT, graceful, false, 5),
        (Signal::SIGTERM, graceful, false, 5),
        (Signal::SIGHUP, graceful, false, 5),
        (Signal::SIGINT, deaf, true, 137),
    ] {
        let mut child = spawn(run(&home, &["-n", "a"], script));
        expect(&mut child, b"ready\n");
        send(child.id(), signal);
        if twice {
            until("the first one was taken", || home.inspect("a")["state"] == "STOPPING");
            send(child.id(), signal);
        }
        let result = finish(child);
        assert_eq!(result.status.code(), Some(code), "{signal}: {}", explain(&result));
        assert!(String::from_utf8_lossy(&result.stderr).contains("stopping sandbox a"), "{}", explain(&result));
        assert_eq!(String::from_utf8_lossy(&result.stderr).contains("killing"), twice);
    }
}

#[test]
fn a_terminal_that_takes_nothing_does_not_hold_up_signals() {
    let home = Home::new();
    let mut child = spawn(run(&home, &["-n", "a"], "exec yes"));
    expect(&mut child, b"y\n");
    // Nobody reads on: all buffers are full soon.
    until("the log grows beyond all buffers", || {
        home.inspect("a")["state"] == "RUNNING" && home.log("a").len() > 9 << 20
    });
    send(child.id(), Signal::SIGINT);
    until("it is stopped", || home.inspect("a")["state"] == "STOPPED");
    send(child.id(), Signal::SIGINT);
    let begun = Instant::now();
    let _stdout = child.stdout.take();
    let result = finish(child);
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(result.status.code(), Some(143), "{}", explain(&result));
}

#[test]
fn the_time_limit_is_said() {
    let home = Home::new();
    let result = output(run(&home, &["-n", "a", "--timeout", "300ms"], "exec sleep 1000"));
    assert_eq!(result.status.code(), Some(143), "{}", explain(&result));
    assert!(String::from_utf8_lossy(&result.stderr).contains("time limit of 300ms"), "{}", explain(&result));
    assert_eq!(home.inspect("a")["failure_kind"], "timed_out");
}

#[test]
fn rm_removes_in_the_foreground_and_in_the_background() {
    let home = Home::new();
    let result = output(run(&home, &["--rm"], "echo x; exit 6"));
    assert_eq!((result.status.code(), result.stdout.as_slice()), (Some(6), &b"x\n"[..]), "{}", explain(&result));
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
    let _result = succeeds(run(&home, &["--rm", "-d"], "sleep 0.2"));
    until("it is removed", || home.ok(&["ps", "-a", "--json"]) == "[]\n");
}

#[test]
fn a_sandbox_that_removes_itself_can_be_removed_by_force() {
    let home = Home::new();
    for end in [&["rm", "-f", "a"][..], &["kill", "a"], &["stop", "-t", "0", "a"]] {
        output(run(&home, &["-d", "--rm", "-n", "a"], "exec sleep 1000"));
        assert_eq!(home.ok(end), "a\n");
        // The name is free at once.
        assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
    }
}

#[test]
fn several_names_are_done_each_and_errors_told() {
    let home = Home::new();
    for name in ["a", "b"] {
        assert_eq!(output(run(&home, &["-d", "-n", name], "exec sleep 1000")).stdout, format!("{name}\n").as_bytes());
    }
    let result = home.run(&["rm", "a"]);
    assert!(!result.status.success(), "{}", explain(&result));
    let result = home.run(&["stop", "a", "nope", "b"]);
    assert_eq!(result.status.code(), Some(1));
    assert_eq!(result.stdout, b"a\nb\n", "{}", explain(&result));
    assert!(String::from_utf8_lossy(&result.stderr).contains("default/nope"), "{}", explain(&result));
    assert_eq!(home.ok(&["rm", "a", "b"]), "a\nb\n");
    output(run(&home, &["-d", "-n", "c"], "exec sleep 1000"));
    home.ok(&["rm", "-f", "c"]);
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

#[test]
fn logs_choose_streams_lines_and_times() {
    let home = Home::new();
    let _result =
        succeeds(run(&home, &["-n", "a"], "echo o1; sleep 0.05; echo e1 >&2; sleep 0.05; echo o2; printf o3"));
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "a"]), "o1\no2\no3");
    let errors = home.run(&["logs", "--stream", "stderr", "a"]);
    assert_eq!((errors.stdout.as_slice(), errors.stderr.as_slice()), (&b"e1\n"[..], &b""[..]));
    let both = home.run(&["logs", "a"]);
    assert_eq!((both.stdout.as_slice(), both.stderr.as_slice()), (&b"o1\ne1\no2\no3"[..], &b""[..]));
    assert_eq!(home.ok(&["logs", "--stream", "stdout", "--tail", "2", "a"]), "o2\no3");
    assert_eq!(home.ok(&["logs", "--tail", "0", "a"]), "");
    let timed = home.ok(&["logs", "-t", "--stream", "stdout", "a"]);
    let times: Vec<_> = timed.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(times.iter().map(|(_, line)| *line).collect::<Vec<_>>(), ["o1", "o2", "o3"]);
    assert!(times.iter().all(|(time, _)| time.ends_with('Z') && time.parse::<chrono::DateTime<chrono::Utc>>().is_ok()));
}

#[test]
fn a_follower_sees_all_and_ends_with_the_sandbox() {
    let home = Home::new();
    output(run(&home, &["-d", "-n", "a"], "echo 1; sleep 0.3; echo 2; sleep 0.3; echo 3; exit 9"));
    assert_eq!(home.ok(&["logs", "-f", "a"]), "1\n2\n3\n");
    assert_eq!(home.ok(&["wait", "a"]), "9\n");
}

#[test]
fn a_daemon_that_stops_its_sandboxes_answers_those_who_wait() {
    let home = Home::new();
    let mut child =
        spawn(run(&home, &["-n", "a"], "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"));
    expect(&mut child, b"ready\n");
    let waiting = spawn(home.sandpen(&["wait", "a"]));
    until("it waits", || is_connected(&waiting));
    let mut following = spawn(home.sandpen(&["logs", "-f", "a"]));
    expect(&mut following, b"ready\n");
    let daemon = home.daemon_pid();
    home.ok(&["shutdown", "--stop-sandboxes"]);
    let result = finish(child);
    assert_eq!((result.status.code(), result.stdout.as_slice()), (Some(5), &b"bye\n"[..]), "{}", explain(&result));
    assert!(result.stderr.is_empty(), "{}", explain(&result));
    assert_eq!(finish(waiting).stdout, b"5\n");
    assert_eq!(finish(following).stdout, b"bye\n");
    until("it is gone", || !is_there(daemon));
    assert!(!home.state().join("sandpen.sock").exists(), "somebody started another daemon");
}

#[test]
fn a_daemon_that_leaves_its_sandboxes_says_so_and_the_next_one_has_them() {
    let home = Home::new();
    let mut child = spawn(run(&home, &["-n", "a"], "echo ready; exec sleep 1000"));
    expect(&mut child, b"ready\n");
    home.ok(&["shutdown"]);
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert!(said.contains("the daemon ends; sandbox a runs on"), "{said}");
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["kill", "a"]);
    let result = finish(child);
    assert_eq!(result.status.code(), Some(137), "{}", explain(&result));
}

#[test]
fn a_sandbox_at_rest_keeps_three_descriptors_open() {
    let home = Home::new();
    let start = |name: &str| home.ok(&["run", "-d", "--driver", "process", "-n", name, "/", "--", "sleep", "1000"]);
    let open = || fs::read_dir(format!("/proc/{}/fd", home.daemon_pid())).unwrap().count();
    start("first");
    let before = open();
    (0..10).for_each(|number| drop(start(&number.to_string())));
    // The first one's connection may have been counted, with what is open for its request.
    until("the connections are closed", || (before + 28..=before + 30).contains(&open()));
    home.ok(&["shutdown", "--stop-sandboxes", "--time", "0"]);
}

#[test]
fn a_killed_daemon_does_not_end_a_sandbox_in_the_foreground() {
    let home = Home::new();
    let go = home.path().join("go");
    let script = format!("echo one; while [ ! -e '{}' ]; do sleep 0.05; done; echo two; exit 8", go.display());
    let mut child = spawn(run(&home, &["-n", "a"], &script));
    expect(&mut child, b"one\n");
    home.kill_daemon();
    fs::write(go, "").unwrap();
    let result = finish(child);
    assert_eq!(result.status.code(), Some(8), "{}", explain(&result));
    assert_eq!(result.stdout, b"two\n", "{}", explain(&result));
    assert!(String::from_utf8_lossy(&result.stderr).contains("goes on with a new one"), "{}", explain(&result));
}

#[test]
fn a_stop_asks_by_the_signal_that_is_wanted() {
    let home = Home::new();
    let script = "trap 'exit 3' INT; trap 'exit 4' USR1; trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    for (options, stop, code) in [
        (&[][..], &[][..], 5),
        (&["--stop-signal", "SIGINT"], &[], 3),
        (&["--stop-signal", "SIGINT"], &["-s", "usr1"], 4),
    ] {
        succeeds(run_named(&home, "a", &[&["-d"], options].concat(), script));
        until("it is ready", || home.ok(&["logs", "a"]) == "ready\n");
        home.ok(&[&["stop", "-t", "60"], stop, &["a"]].concat());
        assert_eq!(home.inspect("a")["exit_code"], code, "{options:?} {stop:?}");
    }
    assert_eq!(home.inspect("a")["stop_signal"], 2);
}
