//! Moving bytes out of one pipe: a bounded quantum at a time, and what to wait for in between.
//!
//! Waking for every small write costs five times the CPU of looking once a millisecond, so a pipe
//! that has bytes leaves epoll and is visited in ticks until a tick finds it empty.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandpen_types::output_stream::OutputStream;

use super::store::Room;
use crate::host::readable::{Registration, register};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SpliceFFlags, fcntl, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use rustix::io::ioctl_fionread;

/// Most bytes moved at once: what one pipe may hold up the others on its thread with.
pub(super) const QUANTUM: u64 = 256 << 10;
/// From this many bytes on the next quantum follows at once: it costs less per byte than pacing saves.
pub(super) const GO_ON: u64 = 64 << 10;
/// Time between two quanta of a pipe that brings little.
const TICK: Duration = Duration::from_millis(1);
/// What a hot pipe is grown to: a tick lasts up to 2 ms, in which a program that writes lines of 100 bytes makes
/// some 400 KiB. Unprivileged users get less beyond their pipe quota, which is fine.
const HOT_PIPE_BYTES: i32 = 512 << 10;
/// Most bytes read at once where `splice` does not work.
const COPY_BYTES: usize = 64 << 10;
/// How long to wait when the pipe cannot be registered with epoll (no memory, watch limit).
const REGISTER_RETRY: Duration = Duration::from_millis(200);

/// One pipe that is read into the log.
#[derive(Debug)]
pub(super) struct OutputPipe {
    /// What comes out of it.
    pub stream: OutputStream,
    /// Its read end.
    pub pipe: Arc<OwnedFd>,
    grown: bool,
    /// `Some` once `splice` was refused: what was read and could not be written yet.
    pub copied: Option<Vec<u8>>,
}

/// What one quantum did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Moved {
    /// So many bytes went into the file.
    Bytes(u64),
    /// Nothing is in the pipe now.
    Empty,
    /// Nothing will ever come again.
    Ended,
}

impl OutputPipe {
    /// A pipe that nothing was read from yet.
    pub fn new(stream: OutputStream, pipe: Arc<OwnedFd>) -> Self {
        Self { stream, pipe, grown: false, copied: None }
    }

    /// Whether bytes wait; reads nothing. `Bytes(0)` stands for "yes".
    pub fn look(&self) -> io::Result<Moved> {
        if self.copied.as_ref().is_some_and(|bytes| !bytes.is_empty()) {
            return Ok(Moved::Bytes(0));
        }
        let mut fds = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
        while let Err(errno) = poll(&mut fds, PollTimeout::ZERO) {
            if errno != Errno::EINTR {
                return Err(errno.into());
            }
        }
        let events = fds[0].revents().unwrap_or(PollFlags::empty());
        Ok(if events.contains(PollFlags::POLLIN) {
            Moved::Bytes(0)
        } else if events.is_empty() {
            Moved::Empty
        } else {
            Moved::Ended
        })
    }

    /// Moves one quantum to `room`. On an error nothing is lost: the bytes wait where they are.
    pub fn transfer(&mut self, room: &Room) -> io::Result<Moved> {
        let most = usize::try_from(room.free.min(QUANTUM)).unwrap_or(COPY_BYTES);
        if self.copied.is_some() {
            return self.copy(room, most);
        }
        let offset = i64::try_from(room.offset).map_err(|_| Errno::EFBIG)?;
        loop {
            let mut at = offset;
            let flags = SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE;
            match splice(&*self.pipe, None, &room.segment.log, Some(&mut at), most, flags) {
                Ok(0) => return Ok(Moved::Ended),
                Ok(n) => {
                    let n = n as u64;
                    if n >= GO_ON / 2 && !self.grown {
                        self.grow();
                    }
                    return Ok(Moved::Bytes(n));
                }
                Err(Errno::EAGAIN) => return Ok(Moved::Empty),
                Err(Errno::EINTR) => {}
                Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                    tracing::debug!(stream = %self.stream, "no splice from this pipe to this file system: copying");
                    self.copied = Some(Vec::new());
                    return self.copy(room, most);
                }
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// The way without `splice`: through a bounded buffer, which dies with us.
    fn copy(&mut self, room: &Room, most: usize) -> io::Result<Moved> {
        let held = self.copied.get_or_insert_default();
        if held.is_empty() {
            let mut buffer = vec![0; COPY_BYTES];
            match nix::unistd::read(&*self.pipe, &mut buffer) {
                Ok(0) => return Ok(Moved::Ended),
                Ok(n) => buffer.truncate(n),
                Err(Errno::EAGAIN | Errno::EINTR) => return Ok(Moved::Empty),
                Err(e) => return Err(e.into()),
            }
            *held = buffer;
        }
        let written = room.segment.log.write_at(&held[..most.min(held.len())], room.offset)?;
        held.drain(..written);
        Ok(Moved::Bytes(written as u64))
    }

    /// When somebody last wrote into the FIFO, some ms exact.
    pub fn last_write(&self) -> Option<(i64, i64)> {
        let stat = fstat(&*self.pipe).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// How many bytes wait, at most a quantum.
    pub fn waiting(&self) -> io::Result<u64> {
        let held = self.copied.as_ref().map_or(0, Vec::len) as u64;
        Ok((held + ioctl_fionread(&self.pipe)?).min(QUANTUM))
    }

    /// Reads at most `most` bytes and drops them; how many that were.
    pub fn discard(&mut self, most: u64) -> io::Result<u64> {
        let mut left = usize::try_from(most).unwrap_or(usize::MAX);
        if let Some(held) = &mut self.copied {
            let dropped = held.len().min(left);
            held.drain(..dropped);
            left -= dropped;
        }
        let mut buffer = vec![0; left.min(COPY_BYTES)];
        while left > 0 {
            let part = left.min(buffer.len());
            match nix::unistd::read(&*self.pipe, &mut buffer[..part]) {
                Ok(0) | Err(Errno::EAGAIN) => break,
                Ok(n) => left -= n,
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(most - left as u64)
    }

    fn grow(&mut self) {
        self.grown = true;
        // Not for more than it has already, and best effort: EPERM and EBUSY are normal.
        if fcntl(&*self.pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < HOT_PIPE_BYTES) {
            let _ = fcntl(&*self.pipe, FcntlArg::F_SETPIPE_SZ(HOT_PIPE_BYTES));
        }
    }
}

/// What happens before the next quantum.
#[derive(Debug)]
pub(super) enum Wait {
    /// The pipe, registered with epoll already, becomes readable.
    Registered(Registration),
    /// The pipe becomes readable.
    Readable,
    /// One tick.
    Tick,
    /// The others on this thread had their turn.
    Yield,
    /// A time.
    Until(Instant),
}

/// Waits; afterwards the pipe is not registered with epoll.
pub(super) async fn wait(pipe: Arc<OwnedFd>, wait: Wait) {
    let registered = match wait {
        Wait::Registered(registered) => Ok(registered),
        Wait::Readable => register(&pipe),
        Wait::Tick => return tokio::time::sleep(TICK).await,
        Wait::Yield => return tokio::task::yield_now().await,
        Wait::Until(time) => return tokio::time::sleep_until(time.into()).await,
    };
    let failure = match registered {
        Ok(registered) => registered.readable().await.map(|_| ()).err(),
        Err(e) => Some(e),
    };
    if let Some(e) = failure {
        tracing::warn!(error = %e, "a pipe cannot be watched; looking again soon");
        tokio::time::sleep(REGISTER_RETRY).await;
    }
}
