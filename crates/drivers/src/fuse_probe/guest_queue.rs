//! A guest's side of one virtqueue (virtio 1.2, 2.7, split rings), for one request at a time.

use std::io;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use vm_memory::{Bytes as _, GuestAddress, GuestMemoryMmap};

use super::{broken, message};

/// Entries of the rings.
pub(super) const SIZE: u16 = 16;
/// Bytes of memory that the queue and its buffers lie in.
pub(super) const MEMORY: usize = 1 << 20;
/// Most bytes of a reply.
const REPLY_MAX: u32 = 64 << 10;
/// Bytes of its header.
const HEADER: u32 = 16;
/// Addresses in the guest's memory.
pub(super) const DESCRIPTORS: u64 = 0x1000;
pub(super) const AVAILABLE: u64 = 0x2000;
pub(super) const USED: u64 = 0x3000;
const REQUEST: u64 = 0x1_0000;
const REPLY: u64 = 0x8_0000;
/// Flags of a descriptor: another one follows; the device writes.
const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// How long a reply may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The request queue, in memory that is the guest's from its first byte.
pub(super) struct GuestQueue {
    memory: GuestMemoryMmap,
    sent: u16,
}

impl GuestQueue {
    pub(super) fn new(memory: GuestMemoryMmap) -> Self {
        Self { memory, sent: 0 }
    }

    /// Sends a FUSE request by ringing the device's bell, and waits for the reply.
    pub(super) fn ask(
        &mut self,
        operation: u32,
        node: u64,
        body: &[u8],
        ring: impl Fn() -> io::Result<()>,
    ) -> Result<Vec<u8>, Errno> {
        let failed = |error: io::Error| Errno::from_raw(error.raw_os_error().unwrap_or(nix::libc::EIO));
        message::body(&self.exchange(&message::request(operation, node, body), ring).map_err(failed)?)
    }

    fn exchange(&mut self, request: &[u8], ring: impl Fn() -> io::Result<()>) -> io::Result<Vec<u8>> {
        let length = u32::try_from(request.len()).map_err(io::Error::other)?;
        self.write(request, REQUEST)?;
        self.write(&[0; 16], REPLY)?;
        self.write(&descriptor(REQUEST, length, NEXT, 1), DESCRIPTORS)?;
        // The header apart, as Linux has it: libkrun puts it nowhere if it lies before data.
        self.write(&descriptor(REPLY, HEADER, NEXT | WRITE, 2), DESCRIPTORS + 16)?;
        self.write(&descriptor(REPLY + u64::from(HEADER), REPLY_MAX - HEADER, WRITE, 0), DESCRIPTORS + 32)?;
        self.write(&[0, 0], AVAILABLE + 4 + 2 * u64::from(self.sent % SIZE))?;
        self.sent = self.sent.wrapping_add(1);
        fence(Ordering::SeqCst);
        self.write(&self.sent.to_le_bytes(), AVAILABLE + 2)?;
        ring()?;
        let until = Instant::now() + LIMIT;
        while u16::from_le_bytes(self.read::<2>(USED + 2)?) != self.sent {
            if Instant::now() > until {
                return Err(Errno::ETIMEDOUT.into());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        fence(Ordering::SeqCst);
        let mut reply = vec![0; REPLY_MAX as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).map_err(|error| broken(&error))?;
        Ok(reply)
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.memory.write_slice(bytes, GuestAddress(at)).map_err(|error| broken(&error))
    }

    fn read<const N: usize>(&self, at: u64) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).map_err(|error| broken(&error))?;
        Ok(bytes)
    }
}

fn descriptor(address: u64, length: u32, flags: u16, next: u16) -> Vec<u8> {
    [&address.to_le_bytes()[..], &length.to_le_bytes(), &flags.to_le_bytes(), &next.to_le_bytes()].concat()
}
