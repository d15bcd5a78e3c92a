//! Everybody who reads on or waits goes on over the daemon's end: its death, its replacement, a shutdown and a
//! later start. All commands that do are there at once, in the middle of a flood. The `process` driver makes it
//! quick.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use nix::sys::signal::Signal;

use crate::support::daemon::daemon;
use crate::support::{Home, explain, finish, is_connected, run_on_host, send, spawn, succeeds, until};

/// Lines of a flood, of each stream.
const LINES: usize = 15_000;

/// A file whose making lets a workload go on.
fn gate(home: &Home, name: &str) -> PathBuf {
    home.path().join(format!("{name}.gate"))
}

fn closed(gate: &Path) -> String {
    format!("[ ! -e '{}' ]", gate.display())
}

/// Says something on both streams until `begin` opens, floods both, and ends with 42 when `end` opens.
fn flood(home: &Home) -> String {
    format!(
        "while {}; do echo tick; echo tock >&2; sleep 0.05; done; \
         i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo out $i; echo err $i >&2; done; \
         while {}; do sleep 0.02; done; echo last; exit 42",
        closed(&gate(home, "begin")),
        closed(&gate(home, "end")),
    )
}

/// A command whose output is read all the while by a thread.
struct Reader {
    name: String,
    thread: JoinHandle<Output>,
}

impl Reader {
    /// Begins with a command; its first byte has come, so the daemon has answered it.
    fn new(name: &str, command: Command) -> Self {
        let (mut child, first) = begun(command);
        let thread = std::thread::spawn(move || {
            let mut rest = child.stdout.take().unwrap();
            // Before the wait, which takes the pipe away: `finish` then only reads standard error.
            let reading = std::thread::spawn(move || {
                let mut seen = vec![first];
                rest.read_to_end(&mut seen).unwrap();
                seen
            });
            let mut output = finish(child);
            output.stdout = reading.join().unwrap();
            output
        });
        Self { name: name.to_owned(), thread }
    }

    /// What came, when it has ended with this exit code.
    fn end(self, code: i32) -> Output {
        let output = self.thread.join().unwrap();
        let shown = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{}: {} bytes, {shown}", self.name, output.stdout.len());
        output
    }
}

/// A command that has its first byte.
fn begun(command: Command) -> (Child, u8) {
    let mut child = spawn(command);
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    (child, first[0])
}

/// Says where output differs.
fn assert_same(what: &str, seen: &[u8], expected: &[u8]) {
    if seen == expected {
        return;
    }
    let at = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    let at = at.unwrap_or(seen.len().min(expected.len()));
    let near =
        |bytes: &[u8]| String::from_utf8_lossy(&bytes[at.saturating_sub(40)..(at + 40).min(bytes.len())]).into_owned();
    panic!(
        "{what}: {} bytes instead of {}, other from {at} on: {:?} instead of {:?}",
        seen.len(),
        expected.len(),
        near(seen),
        near(expected)
    );
}

fn daemons(home: &Home) -> Vec<u32> {
    home.processes().into_iter().filter(|(_, line)| line.contains(" daemon ")).map(|(pid, _)| pid).collect()
}

/// How the daemon ends and another one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// SIGKILL; the clients find or start the next one.
    Killed,
    /// The same with the parent that would start it again.
    KilledWithItsKeeper,
    Replaced,
    ShutDownAndStarted,
}

impl Turn {
    /// Makes it; the daemon that is to be waited for by whoever started it.
    fn make(self, home: &Home) -> Option<Child> {
        let before = home.daemon_pid();
        match self {
            Self::Killed => send(before, Signal::SIGKILL),
            Self::KilledWithItsKeeper => {
                let keeper = daemons(home).into_iter().find(|pid| *pid != before).expect("a keeper");
                send(keeper, Signal::SIGKILL);
                send(before, Signal::SIGKILL);
            }
            Self::Replaced => return Some(daemon(home, &["--replace"])),
            Self::ShutDownAndStarted => {
                home.ok(&["shutdown"]);
                home.ok(&["ps"]);
            }
        }
        until("there is another daemon", || home.lock_holder().is_some_and(|holder| holder != before));
        None
    }
}

fn everything_goes_on_over(turn: Turn) {
    let home = Home::new();
    let command = |args: &[&str]| home.sandpen(args);
    let mut run = run_on_host(&home, &["-n", "a", "--log-max-size", "16M"], &flood(&home));
    if turn == Turn::KilledWithItsKeeper {
        run.env_remove("SANDPEN_NO_KEEP");
    }
    let run = Reader::new("run", run);
    let readers = [
        ("logs", &["logs", "-f", "a"][..]),
        ("stdout", &["logs", "-f", "--stream", "stdout", "a"]),
        ("stderr", &["logs", "-f", "--stream", "stderr", "a"]),
        ("times", &["logs", "-f", "-t", "--stream", "stdout", "a"]),
        ("tail", &["logs", "-f", "--tail", "1", "a"]),
    ];
    let readers = readers.map(|(name, args)| Reader::new(name, command(args)));
    let attached = Reader::new("attach", command(&["attach", "a"]));
    let (stalled, first) = begun(command(&["logs", "-f", "a"]));
    let mut events = command(&["events", "-f", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut event_lines = BufReader::new(events.stdout.take().unwrap()).lines();
    let mut told = vec![event_lines.next().unwrap().unwrap()];
    let waiting = command(&["wait", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it waits", || is_connected(&waiting));

    fs::write(gate(&home, "begin"), "").unwrap();
    until("the flood is under way", || home.log("a").len() > 60_000);
    let successor = turn.make(&home);
    fs::write(gate(&home, "end"), "").unwrap();

    let run = run.end(42);
    let shown = String::from_utf8_lossy(&run.stderr);
    assert_eq!(shown.matches("goes on with a new one").count(), 1, "{shown}");
    let waited = finish(waiting);
    assert_eq!((waited.status.code(), &waited.stdout[..]), (Some(0), &b"42\n"[..]), "{}", explain(&waited));
    let [whole, stdout, stderr, times, tail] = readers.map(|reader| reader.end(0));
    for output in [&whole, &stdout, &stderr, &times, &tail] {
        assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let log = home.log("a");
    let logged = |args: &[&str]| home.run(&[&["logs"], args, &["a"]].concat()).stdout;
    let numbered = |word: &str| (1..=LINES).map(|i| format!("{word} {i}\n")).collect::<String>().into_bytes();
    let spoken = |text: &[u8], silence: &[u8]| {
        text.split_inclusive(|byte| *byte == b'\n').filter(|line| *line != silence).collect::<Vec<_>>().concat()
    };
    let said = [numbered("out"), b"last\n".to_vec()].concat();
    assert_same("logs -f", &whole.stdout, &log);
    assert_same("logs -f, stdout", &spoken(&stdout.stdout, b"tick\n"), &said);
    assert_same("logs -f, stdout", &stdout.stdout, &logged(&["--stream", "stdout"]));
    assert_same("logs -f, stderr", &spoken(&stderr.stdout, b"tock\n"), &numbered("err"));
    assert_same("logs -f -t", &times.stdout, &logged(&["-t", "--stream", "stdout"]));
    assert!(tail.stdout.len() > 60_000 && log.ends_with(&tail.stdout), "{} bytes", tail.stdout.len());
    assert_same("run", &run.stdout, &logged(&["--stream", "stdout"]));
    let attached = attached.end(42);
    assert_same("attach", &spoken(&attached.stdout, b"tick\n"), &said);
    let mut stalled = finish(stalled);
    assert!(stalled.status.success() && stalled.stderr.is_empty(), "{}", String::from_utf8_lossy(&stalled.stderr));
    stalled.stdout.insert(0, first);
    assert_same("logs -f that was not read", &stalled.stdout, &log);

    let all = home.ok(&["events", "--json"]);
    let all: Vec<&str> = all.lines().collect();
    assert!(all.iter().any(|event| event.contains("STOPPED")), "{all:?}");
    while told.len() < all.len() {
        told.push(event_lines.next().expect("the stream of events ended").unwrap());
    }
    assert_eq!(told, all);
    events.kill().unwrap();
    events.wait().unwrap();
    home.ok(&["shutdown"]);
    if let Some(successor) = successor {
        assert!(finish(successor).status.success());
    }
}

#[test]
fn over_its_death() {
    everything_goes_on_over(Turn::Killed);
}

#[test]
fn over_its_death_and_its_keepers() {
    everything_goes_on_over(Turn::KilledWithItsKeeper);
}

#[test]
fn over_its_replacement() {
    everything_goes_on_over(Turn::Replaced);
}

#[test]
fn over_a_shutdown_and_a_later_start() {
    everything_goes_on_over(Turn::ShutDownAndStarted);
}

#[test]
fn a_log_that_is_not_followed_comes_whole_over_a_death() {
    const BYTES: usize = 8 << 20;
    let home = Home::new();
    let script = format!("head -c {BYTES} /dev/urandom");
    let _written = succeeds(run_on_host(&home, &["-d", "-n", "a", "--log-max-size", "32M"], &script));
    home.ok(&["wait", "a"]);
    // More is to come than all buffers on the way hold.
    let (mut child, first) = begun(home.sandpen(&["logs", "a"]));
    Turn::Killed.make_alone(&home);
    let mut rest = vec![first];
    child.stdout.take().unwrap().read_to_end(&mut rest).unwrap();
    let ended = finish(child);
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", explain(&ended));
    assert_same("logs", &rest, &home.log("a"));
}

impl Turn {
    /// Only its first half: nobody has come yet.
    fn make_alone(self, home: &Home) {
        assert_eq!(self, Self::Killed);
        let pid = home.daemon_pid();
        send(pid, Signal::SIGKILL);
        until("it is dead", || !Path::new(&format!("/proc/{pid}/exe")).exists());
    }
}

#[test]
fn who_ended_a_daemon_in_order_has_none_until_somebody_starts_one() {
    let home = Home::new();
    let run = Reader::new("run", run_on_host(&home, &["-n", "a"], "while :; do echo tick; sleep 0.1; done"));
    let logs = Reader::new("logs", home.sandpen(&["logs", "-f", "a"]));
    let events = Reader::new("events", home.sandpen(&["events", "-f"]));
    let waiting = home.sandpen(&["wait", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it waits", || is_connected(&waiting));
    home.ok(&["shutdown"]);
    let run = run.end(125);
    let shown = String::from_utf8_lossy(&run.stderr);
    for word in ["the daemon ends; sandbox a runs on", "sandpen logs -f a", "within 30 s"] {
        assert!(shown.contains(word), "{shown}");
    }
    let waited = finish(waiting);
    assert_eq!(waited.status.code(), Some(1), "{}", explain(&waited));
    for stderr in [logs.end(1).stderr, events.end(1).stderr, waited.stderr] {
        let shown = String::from_utf8_lossy(&stderr);
        assert!(shown.contains("no other one went on within 30 s") && shown.contains("shutting down"), "{shown}");
    }
    assert!(daemons(&home).is_empty(), "nobody has started one");
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["kill", "a"]);
}

#[test]
fn stats_go_on_over_a_replacement_and_start_no_daemon_after_a_shutdown() {
    let home = Home::new();
    let _started = succeeds(run_on_host(&home, &["-d", "-n", "a"], "exec sleep 1000"));
    let mut stats = spawn(home.sandpen(&["stats", "--json"]));
    let (lines, seen) = (BufReader::new(stats.stdout.take().unwrap()).lines(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&seen);
    let reading = std::thread::spawn(move || {
        for line in lines {
            assert!(line.unwrap().contains("\"name\":\"a\""));
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    until("it is shown", || seen.load(Ordering::Relaxed) > 0);
    let successor = daemon(&home, &["--replace"]);
    let before = seen.load(Ordering::Relaxed);
    until("it goes on", || seen.load(Ordering::Relaxed) > before + 1);
    assert_eq!(home.daemon_pid(), successor.id(), "with the one that replaced the other");
    home.ok(&["shutdown"]);
    assert!(finish(successor).status.success());
    let ended = finish(stats);
    reading.join().unwrap();
    let shown = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(1), "{}", explain(&ended));
    assert!(shown.contains("no other one went on within 30 s"), "{shown}");
    assert!(daemons(&home).is_empty(), "nobody has started one");
    assert_eq!(home.inspect("a")["state"], "RUNNING");
    home.ok(&["kill", "a"]);
}

#[test]
fn an_interrupt_reaches_the_sandbox_through_the_next_daemon() {
    let home = Home::new();
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let (mut run, _) = begun(run_on_host(&home, &["-n", "a"], script));
    home.ok(&["shutdown"]);
    let mut stderr = BufReader::new(run.stderr.take().unwrap()).lines();
    let mut said = |words: &str| {
        let line = stderr.next().expect("a line").unwrap();
        assert!(line.contains(words), "{line}");
    };
    said("the daemon ends; sandbox a runs on");
    send(run.id(), Signal::SIGINT);
    said("stopping sandbox a");
    assert!(daemons(&home).is_empty());
    home.ok(&["ps"]);
    let ended = finish(run);
    assert_eq!((ended.status.code(), &ended.stdout[..]), (Some(5), &b"eady\nbye\n"[..]), "{}", explain(&ended));
    said("goes on with a new one");
    assert!(stderr.next().is_none(), "nothing failed");
}

#[test]
fn a_vmm_log_has_no_positions_and_says_so() {
    let home = Home::new();
    let _started = succeeds(run_on_host(&home, &["-d", "-n", "a"], "exec sleep 1000"));
    // The test's driver has nothing to say there: this is what a VMM would.
    let log = home.state().join("logs/default/a.vmm");
    fs::OpenOptions::new().append(true).open(log).unwrap().write_all(b"words\n").unwrap();
    let follower = Reader::new("logs --vmm", home.sandpen(&["logs", "--vmm", "-f", "a"]));
    Turn::Killed.make_alone(&home);
    let ended = follower.end(1);
    assert_eq!(ended.stdout, b"words\n");
    let shown = String::from_utf8_lossy(&ended.stderr);
    assert!(shown.contains("the VMM log is not complete") && shown.contains("ask for it again"), "{shown}");
    assert_eq!(home.ok(&["logs", "--vmm", "a"]), "words\n");
    home.ok(&["kill", "a"]);
}

#[test]
fn what_removed_itself_while_no_daemon_was_there_has_its_exit_code_still() {
    let home = Home::new();
    let end = gate(&home, "end");
    let script = format!("echo begun; while {}; do sleep 0.02; done; exit 7", closed(&end));
    let _started = succeeds(run_on_host(&home, &["-d", "--rm", "-n", "a"], &script));
    let pid = home.inspect("a")["microvm_pid"].clone();
    let logs = Reader::new("logs", home.sandpen(&["logs", "-f", "a"]));
    let waiting = home.sandpen(&["wait", "a"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    until("it waits", || is_connected(&waiting));
    home.ok(&["shutdown"]);
    fs::write(end, "").unwrap();
    until("it has ended", || !Path::new(&format!("/proc/{pid}/exe")).exists());
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n", "the next daemon has removed it");
    let waited = finish(waiting);
    assert_eq!((waited.status.code(), &waited.stdout[..]), (Some(0), &b"7\n"[..]), "{}", explain(&waited));
    // Its log went with it, and whether this is all of it nobody knows.
    let logs = logs.end(1);
    let shown = String::from_utf8_lossy(&logs.stderr);
    assert_eq!(logs.stdout, b"begun\n");
    assert!(shown.contains("was removed while its daemon was away"), "{shown}");
}
