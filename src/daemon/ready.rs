//! How a daemon in the background tells its parent that it serves, or why not: one line of JSON on
//! its standard output, then the end of that pipe. A pipe that ends without a line means that the
//! daemon died; its log says more.

use std::io::{self, Write};

use sandpen_api::Readiness;

/// Writes the line to standard output, which then becomes `/dev/null`: the parent reads to its
/// end, and it may be gone later.
///
/// # Errors
/// Whatever the system says; the parent is gone then, which a daemon need not care about.
pub fn tell(readiness: &Readiness) -> io::Result<()> {
    let mut line = serde_json::to_vec(readiness)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(&line).and_then(|()| stdout.flush());
    let null = std::fs::OpenOptions::new().write(true).open("/dev/null")?;
    nix::unistd::dup2_stdout(&null)?;
    written
}
