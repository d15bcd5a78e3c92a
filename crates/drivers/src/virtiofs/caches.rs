//! The way to the guest's PID 1 that needs no orchestrator: a virtio port on which a byte asks it to drop its caches.
//!
//! ```text
//!   virtiofsd ── files.in (FIFO) ──▶ QEMU ── org.sandpen.files ──▶ PID 1 ── /proc/sys/vm/drop_caches
//!       ▲                                                                        │
//!       └───────────────────────── FORGET, in a queue of its own ────────────────┘
//! ```

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use nix::libc::O_NONBLOCK;
use sandpen_guest::protocol::{DROP_CACHES, FILES_LIMIT_MET};

/// What the guest remembers of the host's files.
#[derive(Debug)]
pub(super) struct GuestCaches(Option<File>);

impl GuestCaches {
    /// Opens the FIFO, which the waiter and QEMU hold; in a jail its name is a link.
    ///
    /// # Errors
    /// It is not there, or nobody reads it.
    pub(super) fn open(fifo: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().write(true).custom_flags(O_NONBLOCK).open(fifo)?;
        Ok(Self(Some(file)))
    }

    /// Those of a guest that cannot be asked.
    pub(super) fn unreachable() -> Self {
        Self(None)
    }

    /// Asks for the caches to be dropped.
    pub(super) fn ask_to_drop(&self) {
        self.write(DROP_CACHES);
    }

    /// Says that the guest needs more descriptors than there are.
    pub(super) fn tell_limit(&self) {
        self.write(FILES_LIMIT_MET);
    }

    fn write(&self, byte: u8) {
        // Full: the guest has been asked often enough. Anything else: it cannot be asked.
        let _ = self.0.as_ref().map(|mut fifo| fifo.write(&[byte]));
    }
}
