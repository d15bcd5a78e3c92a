//! A sandbox's shell on a terminal: whether that works as one.

use std::process::Command;

use super::pty::OnTerminal;

/// Starts `command`, a shell with this prompt, and checks that its terminal has a name and a size, also a new one, and that
/// ctrl-c is for what runs in the shell alone. The shell waits for a line then, on 30 rows by 100.
pub fn shell_on_terminal(mut command: Command, prompt: &str) -> OnTerminal {
    command.env("TERM", "screen");
    let mut shell = OnTerminal::spawn(&command, 24, 80);
    shell.see_after(0, prompt);
    shell.ask("stty size; echo $TERM", "24 80\r\nscreen\r\n");
    shell.resize(30, 100);
    shell.ask("sleep 1; stty size", "30 100\r\n");
    // It speaks when it is the foreground group.
    shell.ask("sh -c 'echo going to $((40+2)); exec sleep 1000'", "going to 42\r\n");
    let from = shell.seen().len();
    shell.keys(b"\x03");
    shell.see_after(from, prompt);
    shell
}
