//! The kernel of a real microVM that asks for whatever it is told to: `tests/guests/relay.c`.

use std::io::{self, Read, Write};

use nix::errno::Errno;
use nix::libc;

use super::{FileServer, message};

/// The standard streams of the guest's workload.
pub struct RelayGuest<I, O> {
    requests: I,
    replies: O,
}

impl<I: Write, O: Read> RelayGuest<I, O> {
    /// The workload reads from `requests` and writes to `replies`.
    pub fn new(requests: I, replies: O) -> Self {
        Self { requests, replies }
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        self.requests.write_all(request)?;
        self.requests.flush()?;
        let mut reply = vec![0; 4];
        self.replies.read_exact(&mut reply)?;
        let rest = message::length(&reply).saturating_sub(reply.len());
        io::copy(&mut self.replies.by_ref().take(rest as u64), &mut reply)?;
        Ok(reply)
    }
}

impl<I: Write, O: Read> FileServer for RelayGuest<I, O> {
    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        let reply = self.exchange(&message::request(operation, node, body));
        message::body(&reply.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?)
    }
}
