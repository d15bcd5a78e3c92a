//! PID 1's own tools: what a session can do without any program of the root, each in a process of its own with the
//! session's streams.

use std::io::{self, Write as _};
use std::os::fd::OwnedFd;

use sandpen_guest::protocol::session::Tool;

use crate::pid1::error_chain;

mod changes;
mod connect;
mod copy;
mod files;

/// Does what a tool is for, with what was kept open for it; gives the exit code. What is wrong it says on standard error, in
/// one line.
pub fn run(tool: &Tool, kept: Option<OwnedFd>) -> u8 {
    let done = match tool {
        Tool::Connect { port } => connect::connect(*port).map_err(|error| error_chain(&error)),
        Tool::Changes => changes::changes(kept).map_err(|error| error_chain(&error)),
        Tool::Files => files::serve().map_err(|error| error_chain(&error)),
        Tool::Watch { path, recursive } => files::watch(path, *recursive).map_err(|error| error_chain(&error)),
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
    let _ = writeln!(io::stderr(), "{text}");
}
