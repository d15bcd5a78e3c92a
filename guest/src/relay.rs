//! Carries one of the workload's output streams from its pipe or terminal into its port, and counts.
//!
//! ```text
//!   reading ──chunk──▶ writing ──all written──▶ reading      (waits on the pipe, then on the port)
//!      │
//!      └─ end of the pipe ──▶ done
//! ```
//!
//! At most one chunk is in our memory; a host that does not read makes the workload wait in its own
//! write, as on any pipe.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags};
use nix::sys::stat::fstat;
use nix::unistd::{read, write};

/// Bytes of one write. The kernel copies each write into one piece of contiguous memory and, with
/// QEMU's virtio-mmio, holds up to 1024 of them a port: 4 MiB. With 64 KiB writes a machine of 96 MiB
/// runs out of memory.
const CHUNK: usize = 4096;
/// Chunks carried in one go, before others get their turn.
const ROUNDS: usize = 32;

/// One stream.
#[derive(Debug)]
pub struct Relay {
    port: OwnedFd,
    source: Option<OwnedFd>,
    chunk: Box<[u8; CHUNK]>,
    /// The part of `chunk` that is not written yet.
    pending: std::ops::Range<usize>,
    written: u64,
}

impl Relay {
    /// A relay into the non-blocking `port`, without a source.
    pub fn new(port: OwnedFd) -> Self {
        Self { port, source: None, chunk: Box::new([0; CHUNK]), pending: 0..0, written: 0 }
    }

    /// Begins to read from the non-blocking pipe or terminal `source`.
    pub fn attach(&mut self, source: OwnedFd) {
        self.source = Some(source);
    }

    /// Stops reading, although somebody may still hold the pipe.
    pub fn abandon(&mut self) {
        self.source = None;
    }

    /// Bytes that the port has taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Whether the end was reached and everything written.
    pub fn is_done(&self) -> bool {
        self.source.is_none() && self.pending.is_empty()
    }

    /// Whether it waits for the workload, not for the host.
    pub fn waits_for_source(&self) -> bool {
        self.source.is_some() && self.pending.is_empty()
    }

    /// What to wait for; `None` when done, or when the port is full and has no host.
    pub fn interest(&self, has_host: bool) -> Option<PollFd<'_>> {
        if self.pending.is_empty() {
            self.source.as_ref().map(|source| PollFd::new(source.as_fd(), PollFlags::POLLIN))
        } else {
            has_host.then(|| PollFd::new(self.port.as_fd(), PollFlags::POLLOUT))
        }
    }

    /// When the workload last wrote into the pipe, if it is one and the kernel notes it (before Linux 6.15); some ms exact.
    pub fn last_write(&self) -> Option<(i64, i64)> {
        let stat = fstat(self.source.as_ref()?).ok()?;
        Some((stat.st_mtime, stat.st_mtime_nsec))
    }

    /// Carries what can be carried now; says whether anything was.
    pub fn carry(&mut self) -> Result<bool, Errno> {
        let mut progress = false;
        for _ in 0..ROUNDS {
            while !self.pending.is_empty() {
                match write(&self.port, &self.chunk[self.pending.clone()]) {
                    Ok(0) | Err(Errno::EAGAIN) => return Ok(progress),
                    Ok(len) => {
                        self.pending.start += len;
                        self.written += len as u64;
                        progress = true;
                    }
                    Err(Errno::EINTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            let Some(source) = &self.source else { break };
            match read(source, &mut self.chunk[..]) {
                // A terminal says EIO when nobody has it open any more.
                Ok(0) | Err(Errno::EIO) => {
                    self.source = None;
                    return Ok(true);
                }
                Ok(len) => self.pending = 0..len,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(progress)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    use nix::unistd::pipe2;

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).unwrap()
    }

    #[test]
    fn a_full_port_makes_the_source_wait_and_nothing_is_lost() {
        let (source, workload) = pipe();
        let (host, port) = pipe();
        fcntl(&port, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
        let mut relay = Relay::new(port);
        relay.attach(source);
        let mut workload = Some(File::from(workload));
        let mut host = File::from(host);
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i % 251) as u8).collect();
        let (mut sent, mut received) = (0, Vec::new());
        while received.len() < bytes.len() {
            if let Some(pipe) = &mut workload {
                sent += pipe.write(&bytes[sent..]).unwrap_or(0);
                if sent == bytes.len() {
                    workload = None;
                }
            }
            while relay.carry().unwrap() {}
            assert!(relay.written() <= (received.len() + 8192) as u64, "holds no more than the port");
            let mut chunk = [0; 5000];
            let len = host.read(&mut chunk).unwrap_or(0);
            received.extend_from_slice(&chunk[..len]);
        }
        assert!(received == bytes && relay.written() == bytes.len() as u64);
    }

    #[test]
    fn it_waits_on_one_side_at_a_time() {
        let (source, mut workload) = {
            let (read, write) = pipe();
            (read, File::from(write))
        };
        let (_host, port) = pipe();
        fcntl(&port, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        let mut relay = Relay::new(port);
        assert!(relay.is_done() && relay.interest(true).is_none());
        relay.attach(source);
        assert!(relay.waits_for_source());
        workload.write_all(&[7; 6000]).unwrap();
        assert!(relay.carry().unwrap());
        assert!(!relay.waits_for_source() && !relay.is_done(), "1904 bytes wait for the port");
        assert_eq!(relay.written(), 4096);
        assert!(!relay.carry().unwrap());
    }
}
