//! A waiter on its way: reaped whatever becomes of whoever started it. And what a power failure leaves.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use sandpen_waiter::wire::{EXIT_FILE, PROCESSES_FILE};

use super::super::newborn::Newborn;
use super::super::runtime_dir::{read_exit, read_processes};

#[tokio::test]
async fn one_that_is_given_up_is_reaped_when_it_ends() {
    let mut command = Command::new("/bin/cat");
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let mut given_up = Newborn::new(child).unwrap();
    let pipes = given_up.take_pipes().unwrap();
    drop(given_up);
    tokio::task::yield_now().await;
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "it reads still");
    drop(pipes);
    let reaped = async {
        while fs::exists(format!("/proc/{pid}")).unwrap() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), reaped).await.unwrap();
}

#[tokio::test]
async fn the_end_of_one_that_fails_is_told_and_it_is_reaped() {
    let mut command = Command::new("/bin/sh");
    let child = command.args(["-c", "exit 3"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let end = Newborn::new(child).unwrap().end().await;
    assert_eq!(end, "exit status: 3");
    assert!(!fs::exists(format!("/proc/{pid}")).unwrap());
}

#[test]
fn a_record_that_a_power_failure_has_emptied_is_none() {
    let dir = tempfile::tempdir().unwrap();
    for left in [&b""[..], &[0; 256], &[b' '; 256]] {
        fs::write(dir.path().join(PROCESSES_FILE), left).unwrap();
        fs::write(dir.path().join(EXIT_FILE), left).unwrap();
        assert!(read_processes(dir.path()).unwrap().is_none());
        assert!(read_exit(dir.path()).unwrap().is_none());
    }
    fs::write(dir.path().join(EXIT_FILE), "something else").unwrap();
    assert!(read_exit(dir.path()).is_err());
}
