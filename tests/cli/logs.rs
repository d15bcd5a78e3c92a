//! `sandpen logs` over rotations, on binary data, from the end, and by several readers at once.
#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Child;

use crate::support::dice::Dice;
use crate::support::{Home, expect, explain, finish, output, run_named as run, spawn, succeeds, until};

fn logs(home: &Home, args: &[&str]) -> Vec<u8> {
    let result = home.run(&[&["logs"], args].concat());
    assert!(result.status.success() && result.stderr.is_empty(), "{args:?}: {}", explain(&result));
    result.stdout
}

/// The last `count` lines; a last one without its end is one too.
fn tail(bytes: &[u8], count: usize) -> &[u8] {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').collect();
    let kept: usize = lines[lines.len().saturating_sub(count)..].iter().map(|line| line.len()).sum();
    &bytes[bytes.len() - kept..]
}

#[test]
fn the_tail_of_any_output_is_the_end_of_the_whole() {
    let home = Home::new();
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let name = format!("t{seed}");
        let mut script = String::new();
        for part in 0..dice.below(6) {
            // Lines of no, few and many bytes, of all values; the last one often without its end.
            let bytes: Vec<u8> = (0..dice.below(6000))
                .map(|_| if dice.below(40) == 0 { b'\n' } else { dice.below(256) as u8 })
                .collect();
            let file = home.path().join(format!("{name}-{part}"));
            fs::write(&file, bytes).unwrap();
            let stream = if dice.below(3) == 0 { ">&2" } else { "" };
            let pause = if dice.below(2) == 0 { "sleep 0.01;" } else { "" };
            script = format!("{script} cat '{}' {stream}; {pause}", file.display());
        }
        let _result = succeeds(run(&home, &name, &["--log-max-size", "4K", "--log-keep", "3"], &format!("{script} :")));
        for stream in [&[][..], &["--stream", "stdout"], &["--stream", "stderr"]] {
            let all = logs(&home, &[stream, &[&name]].concat());
            for count in [0, 1, 2, 3, 10, 1_000_000] {
                let count_text = count.to_string();
                let some = logs(&home, &[stream, &["--tail", &count_text, &name]].concat());
                assert!(some == tail(&all, count), "seed {seed}, {stream:?}, tail {count}: {} bytes", some.len());
                let followed = logs(&home, &[stream, &["-f", "--tail", &count_text, &name]].concat());
                assert!(followed == some, "seed {seed}, {stream:?}, -f --tail {count}");
            }
        }
    }
}

#[test]
fn the_latest_run_is_shown_and_with_all_what_is_kept_of_earlier_ones() {
    let home = Home::new();
    // The second one is restarted by its policy: all of it is one run.
    let twice = format!("echo begun; [ -e {0} ] || {{ touch {0}; exit 1; }}", home.path().join("crashed").display());
    succeeds(run(&home, "a", &[], "printf 'of before\\nunfinished'"));
    let latest = output(run(&home, "a", &["--restart", "on-failure"], &twice));
    assert_eq!(latest.stdout, b"begun\nbegun\n", "{}", explain(&latest));
    for (options, shown) in [
        (&[][..], "begun\nbegun\n"),
        (&["-f"], "begun\nbegun\n"),
        (&["--tail", "1"], "begun\n"),
        (&["--tail", "9"], "begun\nbegun\n"),
        (&["-f", "--tail", "9"], "begun\nbegun\n"),
        (&["--all"], "of before\nunfinishedbegun\nbegun\n"),
        (&["-a", "--tail", "2"], "unfinishedbegun\nbegun\n"),
    ] {
        assert_eq!(String::from_utf8(logs(&home, &[options, &["a"]].concat())).unwrap(), shown, "{options:?}");
    }
}

#[test]
fn times_stand_before_lines_and_nowhere_else() {
    let home = Home::new();
    let script = "printf 'a\\0b\\n\\n'; sleep 0.05; printf 'begun '; sleep 0.05; printf 'and ended\\nopen'";
    succeeds(run(&home, "a", &[], script));
    let text = String::from_utf8(logs(&home, &["-t", "a"])).unwrap();
    let lines: Vec<_> = text.split('\n').map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
    let said: Vec<_> = lines.iter().map(|(_, said)| *said).filter(|said| !said.is_empty()).collect();
    assert_eq!(said, ["a\0b", "begun and ended", "open"], "{text:?}");
    assert!(lines.iter().filter(|(time, _)| time.ends_with('Z')).count() == 4, "{text:?}");
}

#[test]
fn followers_see_every_byte_over_rotations_whenever_they_come() {
    const LINES: usize = 30_000;
    let home = Home::new();
    let gate = home.path().join("gate");
    let script = format!(
        "echo ready; while [ ! -e '{}' ]; do sleep 0.01; done; seq 1 {LINES}; sleep 0.1; seq 1 {LINES}; printf end",
        gate.display()
    );
    let limits = ["-d", "--log-max-size", "16K", "--log-keep", "2"];
    succeeds(run(&home, "a", &limits, &script));
    until("it is ready", || logs(&home, &["a"]) == b"ready\n");
    let mut early: Vec<Child> = (0..3).map(|_| spawn(home.sandpen(&["logs", "-f", "a"]))).collect();
    for child in &mut early {
        expect(child, b"ready\n");
    }
    let tail = spawn(home.sandpen(&["logs", "-f", "--tail", "0", "a"]));
    fs::write(gate, "").unwrap();
    let numbers: String = (1..=LINES).map(|i| format!("{i}\n")).collect();
    let expected = format!("{}end", numbers.repeat(2));
    for child in early {
        let result = finish(child);
        assert!(result.status.success() && result.stderr.is_empty(), "{}", String::from_utf8_lossy(&result.stderr));
        assert!(result.stdout == expected.as_bytes(), "{} of {} bytes", result.stdout.len(), expected.len());
    }
    let result = finish(tail);
    assert!(expected.as_bytes().ends_with(&result.stdout), "{} bytes", result.stdout.len());
    // Who comes later gets what is kept, which is the end of it all.
    let kept = logs(&home, &["-f", "a"]);
    assert!(kept.len() > 30_000 && expected.as_bytes().ends_with(&kept), "{} bytes", kept.len());
}

#[test]
fn who_stops_reading_holds_up_nobody() {
    let home = Home::new();
    let gate = home.path().join("gate");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.01; done; seq 1 300000", gate.display());
    succeeds(run(&home, "a", &["-d"], &script));
    let mut stalled = spawn(home.sandpen(&["logs", "-f", "a"]));
    let mut few = spawn(home.sandpen(&["logs", "-f", "a"]));
    fs::write(gate, "").unwrap();
    let mut first = [0; 2];
    few.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    drop(few.stdout.take());
    assert!(finish(few).status.success());
    // The stalled one's pipe is full long before.
    assert_eq!(home.ok(&["wait", "a"]), "0\n");
    let mut rest = Vec::new();
    stalled.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert!(finish(stalled).status.success());
    assert!(rest == logs(&home, &["a"]), "{} bytes", rest.len());
}

#[test]
fn clients_that_never_read_hold_up_nobody_however_much_there_is() {
    const BYTES: usize = 16 << 20;
    let home = Home::new();
    let gate = home.path().join("gate");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.01; done; head -c {BYTES} /dev/zero", gate.display());
    let limits = ["-d", "--log-max-size", "32M"];
    succeeds(run(&home, "a", &limits, &script));
    // Bare HTTP, of which nothing is read but that it was answered; and both commands that follow.
    let mut http = UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
    http.write_all(b"GET /v1/sandboxes/default/a/output?follow HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    let mut answered = [0; 12];
    http.read_exact(&mut answered).unwrap();
    assert_eq!(&answered, b"HTTP/1.1 200");
    let mut stalled = [spawn(home.sandpen(&["logs", "-f", "a"])), spawn(home.sandpen(&["attach", "a"]))];
    fs::write(gate, "").unwrap();
    assert_eq!(home.ok(&["wait", "a"]), "0\n");
    assert_eq!(home.log("a").len(), BYTES);
    assert!(home.ok(&["ps", "-a"]).contains("STOPPED"), "others are served as ever");
    let mut rest = Vec::new();
    stalled[0].stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len(), BYTES, "it has missed nothing");
    for child in &mut stalled {
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

#[test]
fn the_vmm_log_is_shown_byte_for_byte_and_followed_to_the_end() {
    let home = Home::new();
    let gate = home.path().join("gate");
    let script = format!("while [ ! -e '{}' ]; do sleep 0.01; done", gate.display());
    succeeds(run(&home, "a", &["-d"], &script));
    assert!(logs(&home, &["--vmm", "a"]).is_empty());
    // The test's drivers have nothing to say there: this is what a VMM would.
    let mut file = fs::OpenOptions::new().append(true).open(home.state().join("logs/default/a.vmm")).unwrap();
    file.write_all(b"one\n\0\xff\x1b[2J\ntwo\n").unwrap();
    assert_eq!(logs(&home, &["--vmm", "a"]), b"one\n\0\xff\x1b[2J\ntwo\n");
    let mut follower = spawn(home.sandpen(&["logs", "--vmm", "-f", "--tail", "1", "a"]));
    expect(&mut follower, b"two\n");
    file.write_all(b"three").unwrap();
    expect(&mut follower, b"three");
    let mut reader = spawn(home.sandpen(&["logs", "--vmm", "-f", "a"]));
    drop(reader.stdout.take());
    assert!(finish(reader).status.success(), "a reader that has seen enough is no failure");
    fs::write(gate, "").unwrap();
    let result = finish(follower);
    assert!(result.status.success() && result.stdout.is_empty(), "{}", explain(&result));
    // Of an ended one too, and to follow it ends at once.
    assert_eq!(logs(&home, &["--vmm", "-f", "--tail", "1", "a"]), b"three");

    let error = home.fails(&["logs", "--vmm", "nobody"]);
    assert!(error.contains("nobody"), "{error}");
    for other in ["-t", "--stream=stdout"] {
        let error = home.fails(&["logs", "--vmm", other, "a"]);
        assert!(error.contains("cannot be used with"), "{error}");
    }
}
