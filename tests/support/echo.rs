//! Bytes that go through a command and come back.

use std::io::Write as _;
use std::process::{Command, Stdio};

use super::{finish, spawn};

/// Bytes that tell where they belong.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u64).map(|n| (n.wrapping_mul(2_654_435_761) >> 24).to_le_bytes()[0]).collect()
}

/// Checks that a command says all that it is fed, in and out at once, and ends with its input; what else it says, on stderr.
pub fn echoes(mut command: Command, len: usize) -> Vec<u8> {
    command.stdin(Stdio::piped());
    let mut child = spawn(command);
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), pattern(len));
    let input = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = finish(child);
    writer.join().unwrap().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.stdout == bytes, "{} bytes, {said}", output.stdout.len());
    output.stderr
}
