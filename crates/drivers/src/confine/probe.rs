//! For tests: a process that confines itself as libkrun's does, and then tries what it must not.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpStream;
use std::process::Command;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use sandpen_types::error_chain::error_chain;

use super::{Policy, steps, sys};
use crate::standard_input;

/// The hidden subcommand's name; what to try follows it, and the policy is standard input.
pub const SUBCOMMAND: &str = "__confine_probe";

/// Answers 0 when the attempt succeeded, 13 when it was refused with an error, 1 when nothing was
/// tried. A forbidden system call is SIGSYS.
pub fn run(mut arguments: impl Iterator<Item = OsString>) -> i32 {
    const REFUSED: i32 = 13;
    let Some(attempt) = arguments.next() else { return 1 };
    let policy = standard_input::take_document().ok().and_then(|json| serde_json::from_slice::<Policy>(&json).ok());
    let Some(policy) = policy else { return 1 };
    if let Err(error) = steps::begin(&policy).and_then(|begun| steps::enforce(&policy, begun)) {
        eprintln!("{}", error_chain(&error));
        return 1;
    }
    let done = match attempt.to_str() {
        Some("nothing") => true,
        Some("open") => File::open("/etc/passwd").is_ok(),
        Some("thread") => std::thread::spawn(|| ()).join().is_ok(),
        Some("connect") => TcpStream::connect("127.0.0.1:9").is_ok(),
        Some("execute") => Command::new("/bin/true").status().is_ok(),
        Some("mount") => mount(Some("none"), "/tmp", Some("tmpfs"), MsFlags::empty(), None::<&str>).is_ok(),
        Some("unshare") => unshare(CloneFlags::CLONE_NEWUSER).is_ok(),
        Some("ptrace") => sys::trace_me().is_ok(),
        _ => return 1,
    };
    if done { 0 } else { REFUSED }
}
