//! The pipes of a microVM, which its waiter holds, and how ours of them are opened, which blocks on the disk.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use sandpen_guest::protocol::session::SESSIONS_PORT;
use sandpen_guest::protocol::{CONTROL_PORT, FILES_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT};
use sandpen_types::output_stream::OutputStream;
use sandpen_vmm::driver::DriverError;
use sandpen_vmm::waiter::{open_fifo_read, open_fifo_write};

use super::failed;
use super::watch::CONTROL_OUT;
use crate::control::ControlFifos;

/// FIFO pairs (`NAME.in`, `NAME.out`) and the virtio ports that they are.
pub const PORTS: [(&str, &str); 6] = [
    ("control", CONTROL_PORT),
    ("stdin", STDIN_PORT),
    ("stdout", STDOUT_PORT),
    ("stderr", STDERR_PORT),
    ("files", FILES_PORT),
    ("sessions", SESSIONS_PORT),
];

/// Names of all FIFOs.
pub(crate) fn fifos() -> Vec<String> {
    PORTS.iter().flat_map(|(name, _)| [format!("{name}.in"), format!("{name}.out")]).collect()
}

type Opener = fn(&Path) -> io::Result<OwnedFd>;

/// Opens a pipe.
pub(super) fn open(runtime_dir: &Path, name: &str, opener: Opener) -> Result<OwnedFd, DriverError> {
    opener(&runtime_dir.join(name)).map_err(|error| failed(&format!("opening the pipe {name}"), error))
}

/// The workload's outputs.
pub(super) fn open_outputs(runtime_dir: &Path) -> Result<Vec<(OutputStream, OwnedFd)>, DriverError> {
    [(OutputStream::Stdout, "stdout.out"), (OutputStream::Stderr, "stderr.out")]
        .into_iter()
        .map(|(stream, name)| Ok((stream, open(runtime_dir, name, open_fifo_read)?)))
        .collect()
}

/// Both ways of the control port, and standard input.
pub(super) fn open_control(runtime_dir: &Path) -> Result<ControlFifos, DriverError> {
    Ok(ControlFifos {
        control_out: open(runtime_dir, CONTROL_OUT, open_fifo_read)?,
        control_in: open(runtime_dir, "control.in", open_fifo_write)?,
        stdin_in: open(runtime_dir, "stdin.in", open_fifo_write)?,
    })
}
