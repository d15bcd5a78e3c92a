//! The guest of a real virtiofsd process: the other end of its socket, as QEMU is.

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use vhost::vhost_user::message::VhostUserVirtioFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend as _};
use vhost::{VhostBackend as _, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{FileOffset, GuestAddress, GuestMemory as _, GuestMemoryMmap};
use vmm_sys_util::eventfd::EventFd;

use super::guest_queue::{self, GuestQueue};
use super::{FileServer, broken};

/// Queues of a file system device: high priority and requests.
const QUEUES: usize = 2;
/// The one of requests.
const REQUESTS: usize = 1;
/// Of virtio: `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;

/// A connection with its queue.
pub struct VirtiofsdGuest {
    /// Ends with it.
    _connection: Frontend,
    bell: EventFd,
    queue: GuestQueue,
}

impl VirtiofsdGuest {
    /// Connects to the socket that a virtiofsd listens at. Blocking, for milliseconds.
    ///
    /// # Errors
    /// What the system or virtiofsd said.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        let mut connection = Frontend::from_stream(stream, QUEUES as u64);
        let file = File::from(memfd_create("probe", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(guest_queue::MEMORY as u64)?;
        let range = (GuestAddress(0), guest_queue::MEMORY, Some(FileOffset::new(file, 0)));
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges_with_files(&[range]).map_err(|error| broken(&error))?;
        let bell = EventFd::new(0)?;
        Self::introduce(&mut connection, &memory, &bell).map_err(|error| broken(&error))?;
        Ok(Self { _connection: connection, bell, queue: GuestQueue::new(memory) })
    }

    /// What a VMM says before the first request.
    fn introduce(connection: &mut Frontend, memory: &GuestMemoryMmap, bell: &EventFd) -> vhost::Result<()> {
        connection.set_owner()?;
        let wanted = VERSION_1 | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let features = connection.get_features()? & wanted;
        connection.set_features(features)?;
        let offered = connection.get_protocol_features()?;
        // None of them but the number of queues, which the library asks for.
        let few = offered & vhost::vhost_user::message::VhostUserProtocolFeatures::MQ;
        connection.set_protocol_features(few)?;
        let regions = memory.iter().map(VhostUserMemoryRegionInfo::from_guest_region);
        let regions = regions.collect::<vhost::Result<Vec<_>>>()?;
        connection.set_mem_table(&regions)?;
        let base = regions[0].userspace_addr;
        let answered = EventFd::new(0).map_err(vhost::Error::IOError)?;
        let rings = VringConfigData {
            queue_max_size: guest_queue::SIZE,
            queue_size: guest_queue::SIZE,
            flags: 0,
            desc_table_addr: base + guest_queue::DESCRIPTORS,
            used_ring_addr: base + guest_queue::USED,
            avail_ring_addr: base + guest_queue::AVAILABLE,
            log_addr: None,
        };
        connection.set_vring_num(REQUESTS, guest_queue::SIZE)?;
        connection.set_vring_addr(REQUESTS, &rings)?;
        connection.set_vring_base(REQUESTS, 0)?;
        connection.set_vring_call(REQUESTS, &answered)?;
        connection.set_vring_kick(REQUESTS, bell)?;
        connection.set_vring_enable(REQUESTS, true)
    }
}

impl FileServer for VirtiofsdGuest {
    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.queue.ask(operation, node, body, || self.bell.write(1))
    }
}
