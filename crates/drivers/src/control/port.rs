//! Non-blocking FIFOs for tasks.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::io::ioctl_fionread;
use sandpen_guest::protocol::ATOMIC_FRAME;
use tokio::net::unix::pipe;
use tokio::sync::Mutex;

/// The read end of a FIFO.
#[derive(Debug)]
pub(super) struct ReadPort(pipe::Receiver);

impl ReadPort {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        pipe::Receiver::from_owned_fd(fd).map(Self)
    }

    /// Waits for bytes; 0 when no writer is left. Takes nothing when it is dropped while waiting.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.0.try_read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}

/// The write end of a FIFO, for one frame at a time.
#[derive(Debug)]
pub(super) struct WritePort(Mutex<pipe::Sender>);

impl WritePort {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        pipe::Sender::from_owned_fd(fd).map(|pipe| Self(Mutex::new(pipe)))
    }

    /// Writes `frame`. One of at most `PIPE_BUF` bytes is written whole or, when this is dropped
    /// while it waits for room, not at all.
    pub(super) async fn write(&self, frame: &[u8]) -> io::Result<()> {
        let pipe = self.0.lock().await;
        let mut rest = frame;
        while !rest.is_empty() {
            pipe.writable().await?;
            match pipe.try_write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Writes a frame of at most `PIPE_BUF` bytes if nobody writes and all that was written before has been read; it is
    /// made right before. Says whether it was written.
    pub(super) fn offer(&self, frame: impl FnOnce() -> Option<Vec<u8>>) -> bool {
        let Ok(pipe) = self.0.try_lock() else { return false };
        if !matches!(ioctl_fionread(&*pipe), Ok(0)) {
            return false;
        }
        // An error is one for whoever has something to say that counts.
        frame().is_some_and(|frame| matches!(pipe.try_write(&frame), Ok(len) if len == frame.len()))
    }

    /// Writes a `frame` of any length. The pipe grows to hold it, so that the kernel takes it in one
    /// piece, and who reads it gets all or nothing even if this process is killed meanwhile. Where the
    /// pipe may not grow (`/proc/sys/fs/pipe-max-size`, `pipe-user-pages-soft`) it goes in pieces.
    pub(super) async fn write_at_once(&self, frame: &[u8]) -> io::Result<()> {
        {
            let pipe = self.0.lock().await;
            // A page more for what may lie in the pipe already: a query or a signal.
            let needed = i32::try_from(frame.len() + ATOMIC_FRAME).unwrap_or(i32::MAX);
            if fcntl(&*pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < needed)
                && let Err(error) = fcntl(&*pipe, FcntlArg::F_SETPIPE_SZ(needed))
            {
                tracing::debug!(%error, needed, "a control pipe cannot grow");
            }
        }
        self.write(frame).await
    }
}
