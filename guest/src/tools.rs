//! PID 1's own tools: what a session can do without any program of the root, each in a process of its own with the
//! session's streams.

use std::io::Write as _;

use sandpen_guest::protocol::session::Tool;

mod connect;
mod copy;

/// Does what a tool is for; gives the exit code. What is wrong it says on standard error, in one line.
pub fn run(tool: &Tool) -> u8 {
    let done = match tool {
        Tool::Connect { port } => connect::connect(*port).map_err(|error| explain(&error)),
        Tool::Pack { path, follow, archive } => copy::pack(path.as_slice(), *follow, *archive),
        Tool::Unpack { path, directory, archive } => copy::unpack(path.as_slice(), *directory, *archive),
    };
    match done {
        Ok(()) => 0,
        Err(message) => {
            say(&message);
            1
        }
    }
}

fn say(text: &str) {
    // Whoever reads none has the exit code.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// An error with its causes, in one line.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
