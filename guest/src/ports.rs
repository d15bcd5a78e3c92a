//! Finds the virtio ports by their names and opens them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use sandpen_guest::protocol::session::SESSIONS_PORT;
use sandpen_guest::protocol::{CONTROL_PORT, FILES_PORT, STDERR_PORT, STDIN_PORT, STDOUT_PORT};

/// Where the kernel lists its ports.
const PORTS: &str = "/sys/class/virtio-ports";
/// How long the ports may take to appear: they come by messages from the device, after the driver's
/// module is loaded; emulated machines on a busy host are slow.
const APPEAR_LIMIT: Duration = Duration::from_mins(1);
/// Between two looks. The kernel offers no way to wait on a sysfs directory.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The ports of this machine, non-blocking. A blocking write to a full port would spin inside the
/// kernel with interrupts off.
#[derive(Debug)]
pub struct Ports {
    /// Frames both ways.
    pub control: OwnedFd,
    /// Frames for the workload's standard input.
    pub stdin: OwnedFd,
    /// The workload's standard output.
    pub stdout: OwnedFd,
    /// The workload's standard error.
    pub stderr: OwnedFd,
    /// Bytes of whoever shares the host's files.
    pub files: OwnedFd,
    /// Frames of sessions, both ways.
    pub sessions: OwnedFd,
}

/// Why there are no ports.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// It did not appear.
    #[error(
        "virtio port {name} did not appear within {} s: is virtio_console in the kernel or the module list?",
        APPEAR_LIMIT.as_secs()
    )]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// It could not be opened.
    #[error("opening virtio port {name}")]
    Open {
        /// Its name.
        name: &'static str,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Opens all six ports, waiting until they are there.
pub fn open_all() -> Result<Ports, PortError> {
    let deadline = Instant::now() + APPEAR_LIMIT;
    Ok(Ports {
        control: open(CONTROL_PORT, deadline)?,
        stdin: open(STDIN_PORT, deadline)?,
        stdout: open(STDOUT_PORT, deadline)?,
        stderr: open(STDERR_PORT, deadline)?,
        files: open(FILES_PORT, deadline)?,
        sessions: open(SESSIONS_PORT, deadline)?,
    })
}

fn open(name: &'static str, deadline: Instant) -> Result<OwnedFd, PortError> {
    loop {
        let opened = find(Path::new(PORTS), name).map(|device| {
            let flags = (OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY).bits();
            fs::OpenOptions::new().read(true).write(true).custom_flags(flags).open(Path::new("/dev").join(device))
        });
        match opened {
            Some(Ok(file)) => return Ok(file.into()),
            // Listed, but its node is not there yet.
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                return Err(PortError::Open { name, source: error });
            }
            Some(Err(_)) | None if Instant::now() >= deadline => return Err(PortError::Missing { name }),
            Some(Err(_)) | None => std::thread::sleep(LOOK_INTERVAL),
        }
    }
}

/// The device (for example `vport0p1`) whose `name` attribute is `name`.
fn find(ports: &Path, name: &str) -> Option<std::ffi::OsString> {
    fs::read_dir(ports).ok()?.flatten().find_map(|entry| {
        let found = fs::read_to_string(entry.path().join("name")).ok()?;
        (found.trim_end() == name).then(|| entry.file_name())
    })
}
