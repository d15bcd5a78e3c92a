//! Opening FIFOs without ever waiting for the other end.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

fn open(options: &mut OpenOptions, path: &Path) -> io::Result<OwnedFd> {
    let file = options.custom_flags(O_NONBLOCK | O_NOFOLLOW).open(path)?;
    if file.metadata()?.file_type().is_fifo() {
        Ok(file.into())
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidInput, "not a FIFO"))
    }
}

/// Opens a FIFO's read end: non-blocking, close-on-exec, symbolic links refused.
///
/// # Errors
/// What `open` said; `InvalidInput` for another kind of file.
pub fn open_fifo_read(path: &Path) -> io::Result<OwnedFd> {
    open(OpenOptions::new().read(true), path)
}

/// Opens a FIFO's write end: non-blocking, close-on-exec, symbolic links refused.
///
/// # Errors
/// `ENXIO` when nobody has it open for reading; otherwise as for [`open_fifo_read`].
pub fn open_fifo_write(path: &Path) -> io::Result<OwnedFd> {
    open(OpenOptions::new().write(true), path)
}
