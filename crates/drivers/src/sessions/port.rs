//! The FIFOs of a guest's session port, and the mark that they were used.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use sandpen_vmm::sessions::SessionError;
use sandpen_vmm::waiter::{open_fifo_read, open_fifo_write};
use tokio::net::unix::pipe;

/// The FIFO into the guest.
const IN: &str = "sessions.in";
/// The FIFO out of it.
pub(crate) const OUT: &str = "sessions.out";
/// A file in the runtime directory that is there while sessions may be: then the next daemon looks after them at once.
const USED: &str = "sessions.used";
/// How much the kernel keeps between the guest and us, where it allows that: with less, each of the guest's frames would
/// need a wakeup or two.
const PIPE_BYTES: i32 = 256 << 10;

/// A file in the runtime directory of a guest that has the port and does not serve it.
const NONE: &str = "sessions.none";

/// Looks whether a microVM's guest serves the port. Blocks on the disk.
///
/// # Errors
/// [`SessionError::Older`] where an older program started it, [`SessionError::Unsupported`] after [`leave_out`].
pub(crate) fn check(runtime_dir: &Path) -> Result<(), SessionError> {
    let is_there = |name: &str| runtime_dir.join(name).exists();
    match (is_there(NONE), is_there(IN) && is_there(OUT)) {
        (true, _) => Err(SessionError::Unsupported),
        (false, false) => Err(SessionError::Older),
        (false, true) => Ok(()),
    }
}

/// Marks a runtime directory, in which nothing runs yet, as that of a guest without sessions. Blocks on the disk.
///
/// # Errors
/// The system's.
#[cfg(feature = "krun-driver")]
pub(crate) fn leave_out(runtime_dir: &Path) -> io::Result<()> {
    std::fs::write(runtime_dir.join(NONE), "")
}

/// Whether sessions may be there. Blocks on the disk.
pub(crate) fn was_used(runtime_dir: &Path) -> bool {
    runtime_dir.join(USED).exists()
}

/// There are no sessions, and the FIFOs are closed. Blocks on the disk.
///
/// # Errors
/// The system's.
pub(super) fn remove_mark(runtime_dir: &Path) -> io::Result<()> {
    std::fs::remove_file(runtime_dir.join(USED))
}

/// Both ends that are ours, non-blocking. Closed while a link is not in use.
#[derive(Debug)]
pub(super) struct Ends {
    /// From the guest.
    pub(super) out: OwnedFd,
    /// To the guest.
    pub(super) into: OwnedFd,
}

impl Ends {
    /// Opens the FIFOs and leaves the mark. Blocks on the disk.
    ///
    /// # Errors
    /// The system's; `ENXIO` where nobody holds the FIFOs any more.
    pub(super) fn open(runtime_dir: &Path) -> io::Result<Self> {
        let out = open_fifo_read(&runtime_dir.join(OUT))?;
        let into = open_fifo_write(&runtime_dir.join(IN))?;
        if let Err(error) = fcntl(&out, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES)) {
            tracing::debug!(%error, "a session pipe cannot grow");
        }
        let mut mark = OpenOptions::new();
        mark.write(true).create(true).truncate(false).mode(0o600).custom_flags(nix::libc::O_NOFOLLOW);
        mark.open(runtime_dir.join(USED))?;
        Ok(Self { out, into })
    }
}

/// The ends for a task.
#[derive(Debug)]
pub(super) struct Port {
    out: pipe::Receiver,
    /// `None` when nobody reads any more.
    into: Option<pipe::Sender>,
    /// A frame that waits for room.
    frame: Option<Vec<u8>>,
}

impl Port {
    /// To be called inside of a runtime.
    ///
    /// # Errors
    /// When a descriptor cannot be registered with it.
    pub(super) fn new(ends: Ends) -> io::Result<Self> {
        let (out, into) = (pipe::Receiver::from_owned_fd(ends.out)?, pipe::Sender::from_owned_fd(ends.into)?);
        Ok(Self { out, into: Some(into), frame: None })
    }

    /// Whether no frame waits for room.
    pub(super) fn is_written(&self) -> bool {
        self.frame.is_none()
    }

    /// Writes what there is room for: whole frames of at most `PIPE_BUF` bytes, of which the kernel takes all or nothing.
    pub(super) fn write<E>(&mut self, mut next: impl FnMut() -> Result<Option<Vec<u8>>, E>) -> Result<(), E> {
        loop {
            let Some(frame) = self.frame.take().map_or_else(&mut next, |frame| Ok(Some(frame)))? else { return Ok(()) };
            let Some(into) = &self.into else { continue };
            match into.try_write(&frame) {
                Ok(written) if written == frame.len() => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.frame = Some(frame);
                    return Ok(());
                }
                // The VMM has gone, which its waiter tells; what it said last may still lie in the other FIFO.
                written => {
                    tracing::debug!(?written, "a session port takes no more");
                    self.into = None;
                }
            }
        }
    }

    /// Waits until there is something to do: bytes to read ([`Port::read`]), or room for a frame that waits. Takes nothing
    /// when it is dropped.
    ///
    /// # Errors
    /// The system's.
    pub(super) async fn ready(&self) -> io::Result<()> {
        match (&self.into, &self.frame) {
            (Some(into), Some(_)) => tokio::select! {
                ready = self.out.readable() => ready,
                // One that cannot be written to shows at the next try.
                _ = into.writable() => Ok(()),
            },
            _ => self.out.readable().await,
        }
    }

    /// Reads what is there; `None` where nothing is, 0 when no writer is left.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn read(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self.out.try_read(buffer) {
            Ok(read) => Ok(Some(read)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
