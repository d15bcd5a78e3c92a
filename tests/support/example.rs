//! Examples that serve HTTP, as processes.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;

use super::{Home, until};

/// Starts an example over a home's root and state directory; the process, and where it listens.
pub fn start(home: &Home, name: &str) -> (Child, String) {
    let binary = Path::new(env!("CARGO_BIN_EXE_sandpen")).with_file_name("examples").join(name);
    let mut command = Command::new(binary);
    command.arg(home.rootfs()).arg(home.state()).arg("0").stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("the example is built with the tests");
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("listening on http://").expect("its address").to_owned();
    // It binds its address before it hears signals; until then SIGTERM would end it as SIGKILL does.
    let status = format!("/proc/{}/status", child.id());
    until("the service hears SIGTERM", || {
        let status = fs::read_to_string(&status).unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap().trim();
        u64::from_str_radix(caught, 16).unwrap() & (1 << (Signal::SIGTERM as u64 - 1)) != 0
    });
    (child, address)
}
