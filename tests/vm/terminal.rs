//! Terminals: `run -it`, `run -dit` and `attach` on real terminals, with real microVMs.

use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::pty::OnTerminal;
use crate::support::shell::shell_on_terminal;
use crate::support::{Home, explain, until};

/// What the program writes first when it gives the terminal back.
const GIVEN_BACK: &str = "\x18\x1b\\";
/// What it asks then where the sandbox has asked something, and a terminal's answer.
const LAST_QUERY: &str = "\x1b[5n";
const LAST_ANSWER: &[u8] = b"\x1b[0n";
/// busybox's prompt.
const PROMPT: &str = "/ # ";
const DETACH: &[u8] = b"\x10\x11";

fn attach(home: &Home, args: &[&str], rows: u16, cols: u16) -> OnTerminal {
    let mut command = home.sandpen(&["attach"]);
    command.args(args);
    let client = OnTerminal::spawn(&command, rows, cols);
    until("the terminal is the sandbox's", || client.is_raw());
    client
}

/// One microVM with a shell on a terminal, used in all ways.
#[test]
fn a_shell_is_used_left_and_found_again() {
    let home = Home::new();
    let rootfs = home.rootfs();
    // Neither the client nor the shell ends at ctrl-c.
    let command = home.sandpen(&["run", "-it", "-n", "a", &rootfs, "--", "sh"]);
    let mut client = shell_on_terminal(command, PROMPT);
    client.ask("tty", "/dev/pts/0\r\n");
    client.ask("echo still $((40+3))", "still 43\r\n");
    // Nor is half of the detach keys alone kept back: the shell shows its line from before.
    let from = client.seen().len();
    client.keys(b"\x10");
    client.see_after(from, "echo still $((40+3))");
    client.ask("", "still 43\r\n");
    // Half of the detach keys is no detaching: the shell gets its line from before, and puts something
    // at its beginning.
    client.ask("\x10\x01echo $((1+1)); ", "\n2\r\nstill 43\r\n");
    client.keys(DETACH);
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("\r\nsandpen: left sandbox a, which runs on; `sandpen attach a` comes back\r\n"), "{text}");
    let output = text.split(GIVEN_BACK).next().unwrap();
    let log = String::from_utf8(home.log("a")).unwrap();
    assert!(log.starts_with(output), "the log has the terminal's bytes: {log:?} {output:?}");

    // Two at once, each with its own keys, see the same; the size is the last one's.
    let mut one = attach(&home, &["a"], 40, 120);
    one.ask("sleep 1; stty size", "40 120\r\n");
    let mut two = attach(&home, &["--detach-keys", "ctrl-a,d", "a"], 25, 70);
    two.ask("sleep 1; stty size", "25 70\r\n");
    let (seen_one, seen_two) = (one.seen().len(), two.seen().len());
    one.keys("echo typed by $((0+1))\r");
    let one_at = one.see_after(seen_one, "typed by 1\r\n");
    let two_at = two.see_after(seen_two, "typed by 1\r\n");
    two.keys("echo typed by $((1+1))\r");
    let one_end = one.see_after(one_at, "typed by 2\r\n");
    let two_end = two.see_after(two_at, "typed by 2\r\n");
    assert_eq!(one.seen()[one_at..one_end], two.seen()[two_at..two_end]);

    // The daemon's death is survived by both, and the next one is attached to as well.
    let (seen_one, seen_two) = (one.seen().len(), two.seen().len());
    home.kill_daemon();
    one.see_after(seen_one, "goes on with a new one\r\n");
    one.keys("echo after the $((7-6))st death\r");
    one.see_after(seen_one, "after the 1st death\r\n");
    two.see_after(seen_two, "after the 1st death\r\n");
    two.keys(b"\x01d");
    let (status, text) = two.end();
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("goes on with a new one\r\n"), "{text:?}");
    one.keys(DETACH);
    one.end();
    home.kill_daemon();
    let mut one = attach(&home, &["a"], 24, 80);
    one.ask("echo after the $((7-5))nd death", "after the 2nd death\r\n");

    // Only watching: the terminal stays as it is, and Ctrl-C leaves.
    let mut command = home.sandpen(&["attach", "--no-stdin", "a"]);
    command.stdin(std::process::Stdio::null());
    let watcher = OnTerminal::spawn(&command, 24, 80);
    let mut count = 0;
    until("the watcher sees what is typed", || {
        count += 1;
        one.ask(&format!("echo watched $(({count}+0))"), &format!("watched {count}\r\n"));
        watcher.seen().contains("watched")
    });
    assert!(!watcher.is_raw());
    watcher.signal(Signal::SIGINT);
    assert_eq!(watcher.end().0.code(), Some(0));

    // The command's end is the client's.
    one.keys("exit 7\r");
    let (status, text) = one.end();
    assert_eq!(status.code(), Some(7), "{text}");
    let (log, output) = (String::from_utf8(home.log("a")).unwrap(), text.split(GIVEN_BACK).next().unwrap());
    assert!(log.ends_with(output) && !output.is_empty(), "the log has the terminal's bytes: {log:?} {output:?}");
    assert_eq!(home.inspect("a")["exit_code"], 7);
    assert_eq!(home.inspect("a")["terminal"], serde_json::json!({"rows": 24, "cols": 80}));
}

/// One microVM that hides the cursor, left in every bad way.
#[test]
fn the_terminal_comes_back_whatever_ends_the_client() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "trap '' HUP; while read line; do printf '\\033[?25lhidden for %s\\n' $line; done";
    // No terminal is needed to make one.
    assert_eq!(home.ok(&["run", "-dit", "-n", "a", &rootfs, "--", "sh", "-c", script]), "a\n");
    let hidden = |name: &str| {
        let mut client = attach(&home, &["a"], 24, 80);
        client.ask(name, &format!("hidden for {name}"));
        client
    };
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT] {
        let client = hidden(signal.as_str());
        client.signal(signal);
        let (status, text) = client.end();
        assert_eq!(status.code(), Some(0), "{text}");
        assert!(text.contains("left sandbox a"), "{text}");
    }
    #[cfg(feature = "testing")]
    for (place, code) in [("main", 101), ("thread", 0)] {
        let mut command = home.sandpen(&["attach", "a"]);
        command.env("SANDPEN_TEST_PANIC", place);
        let (status, text) = OnTerminal::spawn(&command, 24, 80).end();
        assert_eq!(status.code(), Some(code), "{text}");
        assert!(text.contains("a panic for a test") && text.contains(GIVEN_BACK), "{text}");
    }
    // A daemon that ends and leaves the sandbox.
    let client = hidden("shutdown");
    home.ok(&["shutdown"]);
    let (status, text) = client.end();
    assert_eq!(status.code(), Some(125), "{text}");
    assert!(text.contains("sandpen logs -f a"), "{text}");
    // A sandbox that is removed by somebody else.
    let client = hidden("removal");
    home.ok(&["rm", "-f", "a"]);
    let (status, text) = client.end();
    assert!(matches!(status.code(), Some(125 | 137)), "{status} {text}");
}

/// One microVM that asks where the cursor is, and leaves all modes as they are and a sequence open.
#[test]
fn what_a_guest_asked_the_terminal_is_not_typed_into_the_shell() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "trap '' HUP; while read line; do printf '\\033[?1049h\\033[6n'; echo asked for $line; done; \
                  printf '\\033[6n\\033]0;open'; exit 3";
    assert_eq!(home.ok(&["run", "-dit", "-n", "a", &rootfs, "--", "sh", "-c", script]), "a\n");
    // A terminal that answers late: the client is about to go when the first answer comes.
    let answers_late = |mut client: OnTerminal| {
        let given_back = client.see_after(0, GIVEN_BACK);
        client.see_after(given_back, LAST_QUERY);
        // The guest may have asked what the client asks as well.
        for answer in [&b"\x1b[24;80R"[..], LAST_ANSWER, b"\x1b[24;80R\x1bP1$r0;evil\n\x1b\\", LAST_ANSWER] {
            client.keys(answer);
        }
        assert_eq!(String::from_utf8_lossy(&client.unread()), "", "{:?}", client.seen());
        let (status, text) = client.end();
        let plain = &text[given_back..];
        for undone in [
            "\x1b[?1049l",
            "\x1b[r",
            "\x1b[?25h",
            "\x1b[?7h",
            "\x1b(B",
            "\x1b[0m",
            "\x1b>",
            "\x1b[?1l",
            "\x1b[?2004l",
            "\x1b[<u",
            "\x1b[=0u",
            "\x1b[>4;0m",
            "\x1b[?1000l",
            "\x1b[?1002l",
            "\x1b[?1003l",
            "\x1b[?1006l",
            "\x1b[?1004l",
        ] {
            assert!(plain.contains(undone), "{undone:?} in {plain:?}");
        }
        assert!(!plain.contains("\x1b]0;") && !plain.contains("\x1b]2;"), "the title is the user's: {plain:?}");
        status.code()
    };

    let mut left = attach(&home, &["a"], 24, 80);
    left.ask("one", "asked for one");
    left.keys(DETACH);
    assert_eq!(answers_late(left), Some(0));

    let mut typist = attach(&home, &["a"], 24, 80);
    let watcher = OnTerminal::spawn(&home.sandpen(&["attach", "--no-stdin", "a"]), 24, 80);
    let mut count = 0;
    until("the watcher's terminal is asked too", || {
        count += 1;
        typist.ask(&count.to_string(), &format!("asked for {count}"));
        watcher.seen().contains("asked for")
    });
    watcher.signal(Signal::SIGINT);
    assert_eq!(answers_late(watcher), Some(0));

    // One that was put into the background since then leaves the terminal to whoever has it now.
    let inner = home.sandpen(&["attach", "--no-stdin", "a"]);
    let mut shell = Command::new("bash");
    shell.args(["-mc", "\"$@\"; bg; echo in the back$((0+1)); read; kill -INT %1; wait %1; echo over with $?", "bash"]);
    shell.arg(inner.get_program()).args(inner.get_args());
    shell.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut shell = OnTerminal::spawn(&shell, 24, 80);
    until("the terminal of the one in the shell is asked too", || {
        count += 1;
        typist.ask(&count.to_string(), &format!("asked for {count}"));
        shell.seen().contains("asked for")
    });
    shell.keys(b"\x1a");
    shell.see_after(0, "in the back1");
    shell.keys("\n");
    shell.see_after(0, "over with 0");
    let (_, text) = shell.end();
    assert!(!text.contains(LAST_QUERY), "{text:?}");

    // A terminal that answers nothing holds nobody up for long.
    let mut mute = attach(&home, &["a"], 24, 80);
    mute.ask("three", "asked for three");
    mute.keys(DETACH);
    let (status, text) = mute.end();
    assert!(status.success() && text.contains(LAST_QUERY), "{status} {text:?}");

    typist.keys(b"\x04");
    assert_eq!(answers_late(typist), Some(3));
}

/// A terminal that goes away ends what was started on it, an interactive shell too.
#[test]
fn a_hangup_ends_what_runs_on_this_terminal() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let client = OnTerminal::spawn(&home.sandpen(&["run", "-it", "--rm", &rootfs, "--", "sh"]), 24, 80);
    client.see_after(0, PROMPT);
    assert_eq!(client.hang_up().code(), Some(129), "the command's SIGHUP");
    assert_eq!(home.ok(&["ps", "-a", "--json"]), "[]\n");
}

#[test]
fn output_alone_needs_no_terminal_here() {
    let home = Home::new();
    let rootfs = home.rootfs();
    let script = "[ -t 0 ] && [ -t 1 ] && [ -t 2 ] && stty size; echo err >&2; exit 3";
    let output = home.run(&["run", "-t", "-n", "a", "-e", "TERM=dumb", &rootfs, "--", "sh", "-c", script]);
    assert_eq!(output.status.code(), Some(3), "{}", explain(&output));
    assert_eq!(output.stdout, b"24 80\r\nerr\r\n", "{}", explain(&output));
    assert!(output.stderr.is_empty(), "{}", explain(&output));
    assert_eq!(home.inspect("a")["env_names"], serde_json::json!(["TERM"]));
}
