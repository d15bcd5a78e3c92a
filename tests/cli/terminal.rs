//! What a terminal gets of a guest's bytes, on a real one; a pipe gets them as they are.

use std::fs;
use std::process::Command;

use nix::sys::signal::Signal;

use crate::support::pty::OnTerminal;
use crate::support::{Home, run_named, succeeds};

/// What a guest might have the terminal do: fill the clipboard, answer, change its title, clear, colour; controls of
/// eight bits, as characters and hidden in letters; what turns text around and what hides it.
const HOSTILE: &[u8] = b"\x1b]52;c;ZWNobw==\x07\x1bP$qm\x1b\\\x1b]0;title\x07\x1b[6n\x1b[2J\x1b[31m\x08\x0e\x7f\x05\
    \xc2\x9b6n\xc3\x9b6n\x9b6n\x90$qm\x9c\xe2\x80\xae\xe2\x81\xa6\xe2\x80\x8b\xef\xbb\xbf\xf3\xa0\x81\x81\xff\
    \tcaf\xc3\xa9 \xe6\x97\xa5\xe6\x9c\xac 10%\r20%\n";
/// How a terminal shows it that reads UTF-8; it adds a carriage return to each line feed.
const SHOWN: &str = "\\u{1b}]52;c;ZWNobw==\\u{7}\\u{1b}P$qm\\u{1b}\\\\u{1b}]0;title\\u{7}\\u{1b}[6n\\u{1b}[2J\\u{1b}[31m\
    \\u{8}\\u{e}\\u{7f}\\u{5}\\u{9b}6n\u{db}6n\\x9b6n\\x90$qm\\x9c\\u{202e}\\u{2066}\\u{200b}\\u{feff}\\u{e0041}\\xff\
    \tcafé 日本 10%\r20%\r\n";

/// A command on a terminal that reads UTF-8, to its end.
fn on_terminal(command: Command) -> Vec<u8> {
    in_locale("C.UTF-8", command)
}

fn in_locale(locale: &str, mut command: Command) -> Vec<u8> {
    command.env("LC_ALL", locale);
    let mut on_terminal = OnTerminal::spawn(&command, 24, 200);
    assert_eq!(on_terminal.unread(), b"", "nothing was asked");
    // The end waits for all, and adds nothing.
    let (status, text) = on_terminal.end_bytes();
    assert!(status.success(), "{status}: {}", String::from_utf8_lossy(&text));
    text
}

/// Nothing of it acts on a terminal.
fn assert_harmless(bytes: &[u8], ascii: bool) {
    let text = std::str::from_utf8(bytes).unwrap();
    for c in text.chars() {
        let is_fine = matches!(c, '\n' | '\r' | '\t') || sandpen_types::visible::is_visible(c);
        assert!(is_fine && (!ascii || c.is_ascii()), "{c:?} in {text:?}");
    }
}

fn hostile_file(home: &Home) -> String {
    let file = home.path().join("hostile");
    fs::write(&file, HOSTILE).unwrap();
    file.to_str().unwrap().to_owned()
}

#[test]
fn guests_speak_to_no_terminal() {
    let home = Home::new();
    let file = hostile_file(&home);
    for (name, script) in [("out", format!("cat {file}")), ("err", format!("cat {file} >&2"))] {
        let shown = on_terminal(run_named(&home, name, &[], &script));
        assert_eq!(String::from_utf8(shown).unwrap(), SHOWN, "run, {name}");
        for options in [&[][..], &["-f"], &["--tail", "1"]] {
            let shown = on_terminal(home.sandpen(&[&["logs"], options, &[name]].concat()));
            assert_eq!(String::from_utf8(shown).unwrap(), SHOWN, "logs {options:?} {name}");
        }
        // With times the carriage return would overwrite them.
        let shown = String::from_utf8(on_terminal(home.sandpen(&["logs", "-t", name]))).unwrap();
        assert!(shown.ends_with(&format!("Z {}", SHOWN.replace("%\r2", "%\\r2"))), "{shown:?}");
        // Where letters may have controls in them, there are none but of ASCII.
        let shown = in_locale("C", home.sandpen(&["logs", name]));
        assert_harmless(&shown, true);
        assert!(String::from_utf8(shown).unwrap().contains("\\u{9b}6n\\u{db}6n\\x9b6n"));
        // Byte for byte where it was asked for, and into pipes.
        let exact = [HOSTILE[..HOSTILE.len() - 1].to_vec(), b"\r\n".to_vec()].concat();
        assert_eq!(on_terminal(home.sandpen(&["logs", "--raw", name])), exact);
        assert_eq!(on_terminal(run_named(&home, "raw", &["--raw", "--rm"], &script)), exact);
        assert_eq!(succeeds(home.sandpen(&["logs", name])).stdout, HOSTILE);
    }
}

#[test]
fn a_character_in_two_halves_is_one_on_a_terminal() {
    let home = Home::new();
    let halves =
        r"printf 'a\342'; sleep 0.2; printf '\202'; sleep 0.2; printf '\254b\342\202'; sleep 0.2; printf 'c\303'";
    let shown = on_terminal(run_named(&home, "a", &[], halves));
    assert_eq!(String::from_utf8(shown).unwrap(), "a€b\\xe2\\x82c\\xc3");
    let escape = r"printf '\033'; sleep 0.2; printf '[6n'; sleep 0.2; printf '\302'; sleep 0.2; printf '\2336n'";
    let shown = on_terminal(run_named(&home, "b", &[], escape));
    assert_eq!(String::from_utf8(shown).unwrap(), "\\u{1b}[6n\\u{9b}6n");
}

#[test]
fn who_watches_is_protected_too() {
    let home = Home::new();
    let file = hostile_file(&home);
    // It speaks again and again: nobody knows when the watchers are there.
    succeeds(run_named(&home, "a", &["-d"], &format!("while :; do cat {file}; sleep 0.05; done")));
    for (args, is_exact) in [
        (&["attach", "a"][..], false),
        (&["attach", "--raw", "a"], true),
        (&["logs", "-f", "a"], false),
        (&["logs", "-f", "--raw", "a"], true),
    ] {
        let mut command = home.sandpen(args);
        command.env("LC_ALL", "C.UTF-8");
        let watcher = OnTerminal::spawn(&command, 24, 200);
        if is_exact {
            watcher.see_after(0, "\x1b]0;title\x07\x1b[6n");
        } else {
            watcher.see_after(0, SHOWN);
            assert_harmless(&watcher.seen_bytes(), false);
        }
        watcher.signal(Signal::SIGINT);
        watcher.end();
    }
}

#[test]
fn the_console_log_reaches_no_terminal_as_it_is() {
    let home = Home::new();
    succeeds(run_named(&home, "a", &[], "true"));
    fs::write(home.state().join("logs/default/a.vmm"), HOSTILE).unwrap();
    for options in [&[][..], &["-f"], &["--tail", "1"]] {
        let args = [&["logs", "--vmm"], options, &["a"]].concat();
        assert_eq!(String::from_utf8(on_terminal(home.sandpen(&args))).unwrap(), SHOWN);
        assert_eq!(succeeds(home.sandpen(&args)).stdout, HOSTILE);
    }
    let error = home.fails(&["logs", "--vmm", "--raw", "a"]);
    assert!(error.contains("cannot be used with"), "{error}");
}

#[test]
fn what_is_told_of_a_guest_speaks_to_no_terminal() {
    let home = Home::new();
    let argument = "\u{1b}[6n\u{7f}\u{9b}6n\u{202e}\u{200b}日";
    let mut command = run_named(&home, "a", &["-e", "A=\u{9b}"], "exit 0");
    command.arg(argument);
    succeeds(command);
    for args in [&["ps", "-a"][..], &["ps", "-a", "--json"], &["inspect", "a"], &["events"], &["events", "--json"]] {
        for (locale, ascii) in [("C.UTF-8", false), ("C", true)] {
            let shown = in_locale(locale, home.sandpen(args));
            assert_harmless(&shown, ascii);
            if args[0] == "inspect" {
                let shown: serde_json::Value = serde_json::from_slice(&shown).unwrap();
                assert_eq!(shown, home.inspect("a"), "the same JSON");
                assert!(shown["command"].as_array().unwrap().iter().any(|part| part == argument), "{shown}");
            }
        }
    }
}
