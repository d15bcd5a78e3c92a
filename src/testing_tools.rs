//! For tests: what PID 1 of a guest does itself in a session, on this host, for sandboxes that are no microVMs; and what keeps a
//! daemon, with a program that is none.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, umask};

/// Does it and ends the process, where that was started for it.
pub fn run_if_asked() {
    let mut args = std::env::args_os().skip(1);
    let is_done = match args.next() {
        Some(name) if name == "__files" => {
            // As in a guest, whatever the daemon has.
            umask(Mode::empty());
            sandpen::files::serve::serve(io::stdin().lock(), io::stdout()).is_ok()
        }
        Some(name) if name == "__watch" => {
            let (path, recursive) = (args.next().unwrap_or_default(), args.next().is_some_and(|arg| arg == "true"));
            sandpen::files::watch::watch(path.as_bytes(), recursive, io::stdout()).is_ok()
        }
        Some(name) if name == "__keep" => {
            let mut command = Command::new(args.next().unwrap_or_default());
            command.args(args);
            let code = sandpen::daemon::keep(command, false).unwrap_or(125);
            std::process::exit(i32::from(code));
        }
        // As a daemon that has just begun.
        Some(name) if name == "__unblocked" => {
            let unblocked = SigSet::empty().thread_set_mask().is_ok();
            unblocked && Command::new(args.next().unwrap_or_default()).args(args).exec().kind() == io::ErrorKind::Other
        }
        _ => return,
    };
    std::process::exit(i32::from(!is_done));
}
