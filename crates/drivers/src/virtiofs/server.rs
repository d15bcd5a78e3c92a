//! virtiofsd's vhost-user server with a thread for each of its two queues: what a guest's kernel forgets comes in a
//! queue of its own, and has to be heard while a request in the other one waits for just that.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::sched::{CloneFlags, unshare};
use vhost::vhost_user::message::{VhostTransferStateDirection, VhostTransferStatePhase, VhostUserProtocolFeatures};
use vhost::vhost_user::{Backend, Error as VhostUserError, Listener};
use vhost_user_backend::{Error as BackendError, VhostUserBackend, VhostUserDaemon};
use virtiofsd::filesystem::{FileSystem, SerializableFileSystem};
use virtiofsd::vhost_user::{VhostUserFsBackend, VhostUserFsBackendBuilder};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{EventConsumer, EventNotifier};

/// Serves one connection to its end.
///
/// # Errors
/// What the library says.
pub(super) fn serve<F>(file_system: F, mut listener: Listener) -> Result<(), String>
where
    F: FileSystem + SerializableFileSystem + Send + Sync + 'static,
{
    let backend = VhostUserFsBackendBuilder::default().build(file_system).map_err(|error| format!("{error:?}"))?;
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("virtiofs".to_owned(), Arc::new(TwoThreads(backend)), memory)
        .map_err(|error| format!("{error:?}"))?;
    daemon.start(&mut listener).map_err(|error| format!("{error:?}"))?;
    match daemon.wait() {
        // QEMU ended: so do we.
        Ok(()) | Err(BackendError::HandleRequest(VhostUserError::Disconnected)) => Ok(()),
        Err(error) => Err(format!("{error:?}")),
    }
}

struct TwoThreads<F: FileSystem + SerializableFileSystem + Send + Sync + 'static>(VhostUserFsBackend<F>);

type Inner<F> = VhostUserFsBackend<F>;
type Bitmap<F> = <Inner<F> as VhostUserBackend>::Bitmap;
type Vring<F> = <Inner<F> as VhostUserBackend>::Vring;

impl<F: FileSystem + SerializableFileSystem + Send + Sync + 'static> VhostUserBackend for TwoThreads<F> {
    type Bitmap = Bitmap<F>;
    type Vring = Vring<F>;

    /// Which queues each thread has, as bits: the first is what is forgotten, the second are requests.
    fn queues_per_thread(&self) -> Vec<u64> {
        vec![1 << 0, 1 << 1]
    }

    fn handle_event(&self, event: u16, kind: EventSet, vrings: &[Vring<F>], thread: usize) -> io::Result<()> {
        own_directory();
        self.0.handle_event(event, kind, vrings, thread)
    }

    fn num_queues(&self) -> usize {
        self.0.num_queues()
    }

    fn max_queue_size(&self) -> usize {
        self.0.max_queue_size()
    }

    fn features(&self) -> u64 {
        self.0.features()
    }

    fn acked_features(&self, features: u64) {
        self.0.acked_features(features);
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        self.0.protocol_features()
    }

    fn reset_device(&self) {
        self.0.reset_device();
    }

    fn set_event_idx(&self, enabled: bool) {
        self.0.set_event_idx(enabled);
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        self.0.get_config(offset, size)
    }

    fn update_memory(&self, memory: GuestMemoryAtomic<GuestMemoryMmap<Bitmap<F>>>) -> io::Result<()> {
        self.0.update_memory(memory)
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        self.0.set_backend_req_fd(backend);
    }

    fn exit_event(&self, thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        self.0.exit_event(thread)
    }

    fn set_device_state_fd(
        &self,
        direction: VhostTransferStateDirection,
        phase: VhostTransferStatePhase,
        file: File,
    ) -> io::Result<Option<File>> {
        self.0.set_device_state_fd(direction, phase, file)
    }

    fn check_device_state(&self) -> io::Result<()> {
        self.0.check_device_state()
    }
}

/// Gives this thread a working directory and umask of its own: both change during some operations.
fn own_directory() {
    thread_local!(static OWN: Cell<bool> = const { Cell::new(false) });
    if !OWN.replace(true)
        && let Err(error) = unshare(CloneFlags::CLONE_FS)
    {
        tracing::warn!(%error, "a thread shares its working directory with another");
    }
}
