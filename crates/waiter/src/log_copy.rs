//! The VMM log: what the processes print, up to a limit.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::sys;

/// `O_NOFOLLOW` differs between the two architectures.
const O_NOFOLLOW: i32 = if cfg!(target_arch = "aarch64") { 0o10_0000 } else { 0o40_0000 };

/// Copies what the processes print into the VMM log, up to its limit: a hostile guest's console
/// cannot fill the disk.
pub(crate) struct LogCopy {
    /// Held for reading and writing: it neither ends nor gives SIGPIPE to anybody. Non-blocking: a VMM that reads what it has
    /// written itself must not have its waiter wait for more.
    pub(crate) pipe: File,
    file: File,
    left: u64,
}

impl LogCopy {
    /// Copies from `pipe` into the file, which is emptied, or goes on where an earlier copy stopped.
    pub(crate) fn open(pipe: File, path: &Path, limit: u64, go_on: bool) -> io::Result<Self> {
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600).custom_flags(O_NOFOLLOW);
        let file = options.open(path)?;
        if !go_on {
            file.set_len(0)?;
        }
        let left = limit.saturating_sub(file.metadata()?.len());
        Ok(Self { pipe, file, left })
    }

    /// One read of a pipe that has something; false when it is broken.
    pub(crate) fn copy(&mut self) -> bool {
        let mut buffer = [0; 4096];
        let count = match self.pipe.read(&mut buffer) {
            Ok(0) => return false,
            Ok(count) => count,
            Err(error) => return matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock),
        };
        if self.left > 0 {
            let kept = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= kept as u64;
            // With a full disk the words are lost; the VMM must not wait for them.
            let _ = self.file.write_all(&buffer[..kept]);
            if self.left == 0 {
                let _ = self.file.write_all("\n… truncated\n".as_bytes());
            }
        }
        true
    }

    /// Takes what is in the pipe now: the last words of a process that has ended.
    pub(crate) fn drain(&mut self) {
        // A pipe holds 64 KiB; more than this comes from others that still write.
        for _ in 0..64 {
            if !sys::wait_readable(&[self.pipe.as_fd()], Some(0))[0] || !self.copy() {
                break;
            }
        }
    }
}
