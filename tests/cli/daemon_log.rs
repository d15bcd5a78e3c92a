//! The log of a daemon in the background: bounded over any time, and with every word of it.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::{Home, is_there, send, succeeds, until};

/// A command that starts a daemon with a log of so many bytes and files put aside.
fn sandpen(home: &Home, limits: &str, args: &[&str]) -> Command {
    let mut command = home.sandpen(args);
    command.env("SANDPEN_TEST_DAEMON_LOG", limits).env_remove("SANDPEN_LOG");
    command
}

/// The files, the oldest one first.
fn files(home: &Home) -> Vec<PathBuf> {
    let path = home.state().join("daemon.log");
    let aside = (1..).map(|number| path.with_extension(format!("log.{number}"))).take_while(|path| path.exists());
    let mut files: Vec<_> = aside.collect();
    let entries = fs::read_dir(home.state()).unwrap().flatten();
    let named = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("daemon.log")).count();
    assert_eq!(named, files.len() + 1, "no other files");
    files.reverse();
    files.push(path);
    files
}

fn text(home: &Home) -> String {
    files(home).iter().map(|file| fs::read_to_string(file).unwrap()).collect()
}

/// The file that is a process's standard error.
fn stderr_of(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/fd/2")).unwrap()
}

#[test]
fn no_line_is_lost_or_cut_when_it_is_put_aside() {
    let home = Home::new();
    let mut pids = Vec::new();
    for _ in 0..12 {
        succeeds(sandpen(&home, "300,100", &["ps"]));
        pids.push(home.daemon_pid());
        home.ok(&["shutdown"]);
        until("its last word", || text(&home).matches("ended\n").count() == pids.len());
    }
    let files = files(&home);
    assert!(files.len() > 6, "{files:?}");
    for file in &files {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.len() <= 300 || text.lines().count() == 1, "{} bytes in {file:?}", text.len());
        assert!(text.lines().all(|line| line.starts_with("20")) && text.ends_with('\n'), "whole lines: {text:?}");
    }
    let text = text(&home);
    let mut rest = text.as_str();
    for pid in pids {
        for line in [&format!("serving pid={pid} "), "ending on request", "ended"] {
            (_, rest) = rest.split_once(line).unwrap_or_else(|| panic!("no {line:?} in its place in {text}"));
        }
    }
}

#[test]
fn few_files_are_kept() {
    let home = Home::new();
    for _ in 0..5 {
        succeeds(sandpen(&home, "300,2", &["ps"]));
        home.ok(&["shutdown"]);
    }
    let files = files(&home);
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 300));
}

#[test]
fn panics_and_what_the_keeper_says_are_in_it_after_any_change_of_files() {
    let home = Home::new();
    let mut command = sandpen(&home, "300,100", &["ps"]);
    command.env_remove("SANDPEN_NO_KEEP");
    succeeds(command);
    let log = home.state().join("daemon.log");
    let panic = |actor: &str| {
        let mut socket = UnixStream::connect(home.state().join("sandpen.sock")).unwrap();
        let body = format!(r#"{{"actor":"{actor}","place":"handler","sandbox":null}}"#);
        let length = body.len();
        write!(
            socket,
            "POST /v1/testing/panic HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).unwrap();
        answer
    };
    for round in 1..=3 {
        let pid = home.daemon_pid();
        let answer = panic("database");
        assert!(answer.starts_with("HTTP/1.1 204"), "{answer}");
        until("the panic is told", || text(&home).matches("panicked at").count() >= round);
        send(pid, Signal::SIGKILL);
        until("its keeper has told it", || {
            text(&home).matches("the daemon crashed and is started again").count() == round
        });
        until("there is another one", || {
            fs::read_to_string(home.state().join("daemon.lock"))
                .is_ok_and(|text| text.trim().parse::<u32>().is_ok_and(|other| other != pid && is_there(other)))
        });
        home.ok(&["ps"]);
        let stderr = stderr_of(home.daemon_pid());
        assert_eq!(stderr, fs::canonicalize(&log).unwrap(), "a panic would be in the file of this name");
    }
    // Nobody needs the file that is there.
    fs::remove_file(&log).unwrap();
    home.ok(&["shutdown"]);
    until("the last words", || fs::read_to_string(&log).is_ok_and(|text| text.contains("ended")));
}

#[test]
fn another_standard_error_is_left_alone() {
    let home = Home::new();
    let elsewhere = home.path().join("journal");
    let mut command = sandpen(&home, "100,1", &["daemon"]);
    let mut daemon = command.stderr(File::create(&elsewhere).unwrap()).spawn().unwrap();
    until("it serves", || fs::read_to_string(&elsewhere).unwrap().contains("serving"));
    home.ok(&["ps"]);
    send(daemon.id(), Signal::SIGTERM);
    assert!(daemon.wait().unwrap().success());
    let text = fs::read_to_string(&elsewhere).unwrap();
    assert!(text.len() > 100 && text.contains("serving") && text.contains("ended"), "{text}");
    assert!(!home.state().join("daemon.log").exists());
}
