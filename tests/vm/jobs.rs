//! Jobs of a real microVM: their output on file and their codes on record, over the deaths of the daemon, and to the microVM's
//! end.

use std::io::{BufRead as _, BufReader};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::pty::OnTerminal;
use crate::support::{Home, explain, finish, said, send, spawn, until};

const DETACH: &[u8] = b"\x10\x11";

fn job(home: &Home, options: &[&str], command: &[&str]) -> String {
    home.ok(&[&["exec", "-d"], options, &["a", "--"], command].concat()).trim().to_owned()
}

fn sh(home: &Home, script: &str) -> String {
    job(home, &[], &["sh", "-c", script])
}

fn jobs(home: &Home) -> Vec<Value> {
    serde_json::from_str(&home.ok(&["jobs", "--json", "a"])).unwrap()
}

fn bytes(home: &Home, id: &str) -> u64 {
    let job = jobs(home).into_iter().find(|job| job["id"] == id);
    job.and_then(|job| job["bytes"].as_u64()).expect("it is listed")
}

fn numbered(prefix: &str, count: usize) -> String {
    (0..count).map(|number| format!("{prefix}{number}\n")).collect()
}

#[test]
fn no_line_of_a_job_is_lost_or_doubled_over_the_deaths_of_daemons() {
    let home = Home::idle();
    // Slower than the daemons die; more than the guest keeps in all.
    let script = "i=0; while [ $i -lt 30000 ]; do echo line $i; echo e$i >&2; i=$((i+1)); [ $((i%1000)) = 0 ] && sleep 0.1; done; exit 3";
    let id = sh(&home, script);
    // Written as fast as it can be, and nobody takes it but the daemon.
    let flood = job(&home, &[], &["sh", "-c", "head -c 20000000 /dev/zero; exit 4"]);
    let mut follower = spawn(home.sandpen(&["logs", "-f", "--job", &id, "--stream", "stdout", "a"]));
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut waiter = None;
    for number in 0..30_000 {
        assert_eq!(lines.next().unwrap().unwrap(), format!("line {number}"));
        match number {
            3000 | 10_000 | 24_000 => home.kill_daemon(),
            // Who waits hears of nothing, and gives up after some deaths in a row.
            20_000 => waiter = Some(spawn(home.sandpen(&["wait", "--job", &id, "a"]))),
            _ => {}
        }
    }
    assert!(lines.next().is_none());
    let followed = finish(follower);
    assert_eq!(followed.status.code(), Some(0), "{}", explain(&followed));
    let waited = finish(waiter.unwrap());
    assert_eq!((waited.status.code(), &*waited.stdout), (Some(3), &b"3\n"[..]), "{}", explain(&waited));
    let all = |stream: &str| home.ok(&["logs", "--job", &id, "--stream", stream, "a"]);
    assert!(all("stdout") == numbered("line ", 30_000) && all("stderr") == numbered("e", 30_000));
    said(&home.run(&["wait", "--job", &flood, "a"]), 4, "4\n", "");
    assert_eq!(bytes(&home, &flood), 20_000_000, "{:?}", jobs(&home));
    // Their ends are on record whatever becomes of their sandbox and its name.
    home.ok(&["stop", "a"]);
    home.kill_daemon();
    home.ok(&["rename", "a", "b"]);
    said(&home.run(&["wait", "--job", &id, "b"]), 3, "3\n", "");
    assert_eq!(home.ok(&["logs", "--job", &id, "--stream", "stdout", "--tail", "1", "b"]), "line 29999\n");
    home.ok(&["rm", "b"]);
    assert_eq!(std::fs::read_dir(home.state().join("jobs")).unwrap().count(), 0);
}

#[test]
fn codes_signals_terminals_and_ends_of_jobs() {
    let home = Home::idle();
    said(&home.run(&["exec", "-d", "a", "--", "/no/such"]), 127, "", "/no/such");
    for (script, code) in [("exit 0", 0), ("exit 9", 9), ("kill -9 $$", 137)] {
        let id = sh(&home, script);
        said(&home.run(&["wait", "--job", &id, "a"]), code, &format!("{code}\n"), "");
    }
    let id = sh(&home, "exec 2>/dev/null; trap 'echo got it; exit 6' TERM; echo ready; while :; do sleep 0.1; done");
    until("it is ready", || bytes(&home, &id) == 6);
    home.ok(&["kill", "--job", &id, "-s", "TERM", "a"]);
    said(&home.run(&["attach", "--job", &id, "a"]), 6, "ready\ngot it\n", "");
    // Ended while no daemon was there: the guest tells the next one.
    let id = sh(&home, "sleep 1; echo late; exit 7");
    home.kill_daemon();
    std::thread::sleep(std::time::Duration::from_millis(1500));
    said(&home.run(&["attach", "--job", &id, "a"]), 7, "late\n", "");
    // On a terminal, left and found again, with what was written meanwhile.
    let id = job(&home, &["-i", "-t"], &["sh"]);
    let attach = || OnTerminal::spawn(&home.sandpen(&["attach", "--job", &id, "a"]), 24, 80);
    let mut client = attach();
    client.ask("stty size", "24 80\r\n");
    client.ask("echo $((40+2))", "42\r\n");
    client.keys(DETACH);
    let (status, text) = client.end();
    assert!(status.success() && text.contains(&format!("`sandpen attach --job {id} a` comes back")), "{text}");
    let mut client = attach();
    client.see_after(0, "42\r\n");
    client.keys("exit 8\r");
    assert_eq!(client.end().0.code(), Some(8));
    // The sandbox's end, in order: what they write at their end still comes; and its loss, of which nobody knows more.
    let id = sh(&home, "exec 2>/dev/null; trap 'echo the end; exit 5' HUP; echo ready; while :; do sleep 0.1; done");
    until("it is ready", || bytes(&home, &id) == 6);
    home.ok(&["stop", "a"]);
    said(&home.run(&["attach", "--job", &id, "a"]), 5, "ready\nthe end\n", "");
    said(&home.run(&["exec", "-d", "a", "--", "true"]), 125, "", "it is STOPPED");
    home.ok(&["start", "a"]);
    let id = sh(&home, "echo ready; exec sleep 1000");
    until("it is ready", || bytes(&home, &id) == 6);
    send(home.microvm_pid("a"), Signal::SIGKILL);
    said(&home.run(&["wait", "--job", &id, "a"]), 125, "", "nobody knows how");
    assert_eq!(jobs(&home).last().unwrap()["end"], json!("gone"));
    assert_eq!(home.ok(&["logs", "--job", &id, "a"]), "ready\n");
    let lost = home.run(&["wait", "a"]);
    assert_eq!(lost.status.code(), Some(1), "{}", explain(&lost));
}
