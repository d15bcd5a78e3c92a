//! libkrun's own device for a shared directory, without a machine around it.

use std::ffi::OsString;
use std::io;
use std::sync::atomic::AtomicI32;
use std::sync::{Arc, Mutex};

use krun_devices::legacy::{IrqChipDevice, IrqChipT};
use krun_devices::virtio::passthrough::PermissionSemantics;
use krun_devices::virtio::{DeviceQueue, Fs, InterruptTransport, Queue, VirtioDevice as _};
use krun_devices::{BusDevice, Error as DeviceError};
use krun_utils::eventfd::{EFD_NONBLOCK, EventFd};
use nix::errno::Errno;
use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::guest_queue::{self, GuestQueue};
use super::{FileServer, FuseRequest, broken};
use crate::confine::probe::{CONFINED, wait_while_wanted};
use crate::{confine, standard_input};

/// Interrupts, which nobody waits for.
struct NoInterrupts;

impl BusDevice for NoInterrupts {}

impl IrqChipT for NoInterrupts {
    fn get_mmio_addr(&self) -> u64 {
        0
    }

    fn get_mmio_size(&self) -> u64 {
        0
    }

    fn set_irq(&self, _: Option<u32>, _: Option<&EventFd>) -> Result<(), DeviceError> {
        Ok(())
    }
}

/// The device, with this process as its guest.
struct KrunGuest {
    /// Ends with it.
    _device: Fs,
    bell: Arc<EventFd>,
    queue: GuestQueue,
}

impl KrunGuest {
    /// As libkrun makes the one of a root directory.
    fn new(request: &FuseRequest) -> io::Result<Self> {
        // Where it is once the process is confined.
        let confined = request.policy.as_ref().and_then(|policy| policy.share_paths().next());
        let share = confined.as_ref().unwrap_or(&request.share);
        let share = share.to_str().ok_or_else(|| io::Error::other("the share's path is not UTF-8"))?;
        let semantics = PermissionSemantics::LinuxComplete;
        let exit_code = Arc::new(AtomicI32::new(0));
        let made = Fs::new("root".to_owned(), semantics, Some(share.to_owned()), exit_code, false, Vec::new());
        let mut device = made.map_err(|error| broken(&error))?;
        let memory: GuestMemoryMmap =
            GuestMemoryMmap::from_ranges(&[(GuestAddress(0), guest_queue::MEMORY)]).map_err(|error| broken(&error))?;
        let chip = Arc::new(Mutex::new(IrqChipDevice::new(Box::new(NoInterrupts))));
        let interrupt = InterruptTransport::new(chip, "probe".to_owned()).map_err(|error| broken(&error))?;
        let bell = Arc::new(EventFd::new(EFD_NONBLOCK)?);
        // High priority first; it stays unused.
        let idle = DeviceQueue::new(Queue::new(guest_queue::SIZE), Arc::new(EventFd::new(EFD_NONBLOCK)?));
        let mut queue = Queue::new(guest_queue::SIZE);
        queue.size = guest_queue::SIZE;
        queue.ready = true;
        queue.desc_table = GuestAddress(guest_queue::DESCRIPTORS);
        queue.avail_ring = GuestAddress(guest_queue::AVAILABLE);
        queue.used_ring = GuestAddress(guest_queue::USED);
        let queues = vec![idle, DeviceQueue::new(queue, Arc::clone(&bell))];
        device.activate(memory.clone(), interrupt, queues).map_err(|error| broken(&error))?;
        Ok(Self { _device: device, bell, queue: GuestQueue::new(memory) })
    }
}

impl FileServer for KrunGuest {
    fn ask(&mut self, operation: u32, node: u64, body: &[u8]) -> Result<Vec<u8>, Errno> {
        self.queue.ask(operation, node, body, || self.bell.write(1))
    }
}

/// The subcommand.
pub(super) fn run(mut arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let from = arguments.next().and_then(|from| from.to_str()?.parse().ok()).unwrap_or(0);
    let request: FuseRequest = serde_json::from_slice(&standard_input::take_document()?)?;
    if let Some(policy) = &request.policy {
        let begun = confine::begin(policy).map_err(io::Error::other)?;
        confine::enforce(policy, begun).map_err(io::Error::other)?;
    }
    let mut guest = KrunGuest::new(&request)?;
    println!("{CONFINED}");
    super::try_all(&mut guest, &request.share, from, |name, word| println!("{name}\t{word}"))?;
    wait_while_wanted();
    Ok(())
}
