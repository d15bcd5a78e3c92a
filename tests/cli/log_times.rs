//! `sandpen logs --since`, `--until` and `--json`, also over the daemon's death.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::input::refused;
use crate::support::{Home, expect, explain, finish, run_named as run, send, spawn, succeeds, until};

fn logs(home: &Home, args: &[&str]) -> String {
    let result = home.run(&[&["logs"], args].concat());
    assert!(result.status.success() && result.stderr.is_empty(), "{args:?}: {}", explain(&result));
    String::from_utf8(result.stdout).unwrap()
}

fn records(home: &Home, args: &[&str]) -> Vec<Value> {
    let text = logs(home, &[&["--json"], args].concat());
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Micros, true)
}

#[test]
fn every_window_of_a_log_and_the_rest_are_together_the_whole() {
    let home = Home::new();
    let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i of many; [ $((i%50)) != 0 ] || sleep 0.02; done; \
                  echo last >&2";
    succeeds(run(&home, "a", &["--log-max-size", "4K", "--log-keep", "9"], script));
    let all = logs(&home, &["a"]);
    assert_eq!(all.lines().count(), 401);
    let lines = records(&home, &["a"]);
    for record in lines.iter().step_by(37).chain(lines.last()) {
        let time = record["time"].as_str().unwrap();
        let (before, after) = (logs(&home, &["--until", time, "a"]), logs(&home, &["--since", time, "a"]));
        assert_eq!(format!("{before}{after}"), all, "at {time}");
        assert!(after.contains(record["text"].as_str().unwrap()), "{record} is of its time");
        assert_eq!(logs(&home, &["-f", "--since", time, "a"]), after);
        assert_eq!(logs(&home, &["-f", "--until", time, "a"]), before);
        assert_eq!(logs(&home, &["--all", "--since", time, "a"]), after);
        // The last lines of the window.
        let tail: String = before.split_inclusive('\n').rev().take(3).collect::<Vec<_>>().into_iter().rev().collect();
        assert_eq!(logs(&home, &["--tail", "3", "--until", time, "a"]), tail);
        let last = logs(&home, &["--tail", "3", "--since", time, "a"]);
        assert!(after.ends_with(&last) && all.ends_with(&last) && last.lines().count() <= 3, "{last}");
        let marked = logs(&home, &["-t", "--since", time, "a"]);
        assert!(marked.lines().count() == after.lines().count() && marked.starts_with(time), "{time}: {marked}");
    }
    for (options, shown) in [
        (["--since", "1h"], all.as_str()),
        (["--since", "0000-01-01"], &all),
        (["--until", "9999-12-31"], &all),
        (["--since", "9999-12-31"], ""),
        (["--until", "1970-01-01"], ""),
        (["--until", "1h"], ""),
    ] {
        assert_eq!(logs(&home, &[&options[..], &["a"]].concat()), shown, "{options:?}");
    }
    assert_eq!(logs(&home, &["--since", "1h", "--stream", "stderr", "a"]), "last\n");
}

#[test]
fn records_are_lines_and_together_all_bytes() {
    let home = Home::new();
    let script =
        "printf 'a\\0b\\n\\n'; printf '\\377\\n'; sleep 0.05; printf 'odd\\n' >&2; sleep 0.05; printf 'open \\033[2J'";
    succeeds(run(&home, "a", &[], script));
    let got = records(&home, &["a"]);
    let said: Vec<_> = got.iter().map(|r| (r["stream"].as_str().unwrap(), &r["text"], &r["base64"])).collect();
    let null = Value::Null;
    let line = |text: &str| Value::from(text);
    assert_eq!(
        said,
        [
            ("stdout", &line("a\0b\n"), &null),
            ("stdout", &line("\n"), &null),
            ("stdout", &null, &line("/wo=")),
            ("stderr", &line("odd\n"), &null),
            ("stdout", &line("open \u{1b}[2J"), &null),
        ]
    );
    let positions: Vec<_> = got.iter().map(|record| record["position"].as_u64().unwrap()).collect();
    assert_eq!(positions, [0, 4, 5, 7, 11]);
    assert!(got.iter().all(|record| DateTime::parse_from_rfc3339(record["time"].as_str().unwrap()).is_ok()));
    assert_eq!(records(&home, &["-f", "--tail", "1", "a"]), got[4..]);
}

#[test]
fn http_answers_records_too() {
    let home = Home::new();
    succeeds(run(&home, "a", &[], "echo one; sleep 0.05; echo two"));
    let expected = logs(&home, &["--json", "a"]);
    let of = |query: &str| {
        let mut stream = UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
        let target = format!("/v1/sandboxes/default/a/output?format=json{query}");
        write!(stream, "GET {target} HTTP/1.0\r\nhost: x\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("application/x-ndjson"), "{head}");
        // Without the lengths of chunks.
        body.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_eq!(of(""), expected);
    assert_eq!(of("&follow=true"), expected);
    let (_, second) = expected.split_once('\n').unwrap();
    let time: Value = serde_json::from_str(second).unwrap();
    assert_eq!(of(&format!("&since={}", time["time"].as_str().unwrap())), second);
}

#[test]
fn a_follower_with_an_end_waits_for_it_and_no_longer() {
    let home = Home::new();
    let gate = home.path().join("gate");
    let script = format!("echo one; while [ ! -e '{}' ]; do sleep 0.01; done; echo two", gate.display());
    succeeds(run(&home, "a", &["-d"], &script));
    until("it has said something", || logs(&home, &["a"]) == "one\n");
    let end = Utc::now() + Duration::from_secs(2);
    let mut follower = spawn(home.sandpen(&["logs", "-f", "--until", &text(end), "a"]));
    expect(&mut follower, b"one\n");
    let result = finish(follower);
    assert!(result.status.success() && result.stdout.is_empty(), "{}", explain(&result));
    assert!(Utc::now() >= end, "it was waited for");
    // What has not come yet is waited for, and what is older passes by.
    let begin = Utc::now();
    let follower = spawn(home.sandpen(&["logs", "-f", "--since", &text(begin), "a"]));
    fs::write(gate, "").unwrap();
    let result = finish(follower);
    assert!(result.status.success() && result.stdout == b"two\n", "{}", explain(&result));
}

#[test]
fn a_window_holds_over_the_daemons_death() {
    let home = Home::new();
    let [first, second, third] = ["first", "second", "third"].map(|name| home.path().join(name));
    let closed = |gate: &std::path::Path| format!("while [ ! -e '{}' ]; do sleep 0.01; done", gate.display());
    let script = format!(
        "echo old; {}; echo one; {}; seq 1 3000; {}; echo end",
        closed(&first),
        closed(&second),
        closed(&third)
    );
    succeeds(run(&home, "a", &["-d", "--log-max-size", "4K", "--log-keep", "9"], &script));
    until("it has said something", || logs(&home, &["a"]) == "old\n");
    let since = text(Utc::now());
    let waiting = spawn(home.sandpen(&["logs", "-f", "--since", &since, "--until", "9999-01-01", "a"]));
    let mut json = spawn(home.sandpen(&["logs", "-f", "--json", "--since", &since, "a"]));
    fs::write(first, "").unwrap();
    let mut begun = spawn(home.sandpen(&["logs", "-f", "--since", &since, "a"]));
    expect(&mut begun, b"one\n");
    expect(&mut json, b"{");
    send(home.daemon_pid(), Signal::SIGKILL);
    fs::write(second, "").unwrap();
    until("another daemon has all of it", || logs(&home, &["a"]).ends_with("3000\n"));
    send(home.daemon_pid(), Signal::SIGKILL);
    fs::write(third, "").unwrap();
    let numbers: String = (1..=3000).map(|i| format!("{i}\n")).collect();
    for (child, expected) in [(waiting, format!("one\n{numbers}end\n")), (begun, format!("{numbers}end\n"))] {
        let result = finish(child);
        assert!(result.status.success(), "{}", explain(&result));
        assert_eq!(String::from_utf8(result.stdout).unwrap(), expected);
    }
    let result = finish(json);
    let lines = format!("{{{}", String::from_utf8(result.stdout).unwrap());
    let texts: String = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts, format!("one\n{numbers}end\n"));
}

#[test]
fn what_is_no_window_is_refused_in_words() {
    let home = Home::new();
    for odd in ["", "now", "-10m", "10", "0s", "2026-02-30", "10000-01-01", "12:00"] {
        for option in ["--since", "--until"] {
            let error = refused(&home, &["logs", option, odd, "a"], 2);
            assert!(error.contains("is not a time") && error.contains("10m, 2h30m"), "{odd}: {error}");
        }
    }
    let error = refused(&home, &["logs", "--since", "9000years", "a"], 1);
    assert!(error.contains("before the year 0"), "{error}");
    for window in [["2026-02-01", "2026-01-31"], ["2026-02-01", "2026-02-01"], ["10m", "20m"]] {
        let error = refused(&home, &["logs", "--since", window[0], "--until", window[1], "a"], 1);
        assert!(error.contains("is not before until="), "{error}");
    }
    for other in ["--since=1h", "--until=1h", "--json"] {
        let error = refused(&home, &["logs", "--vmm", other, "a"], 2);
        assert!(error.contains("cannot be used with"), "{error}");
    }
}
