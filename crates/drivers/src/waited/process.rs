//! The two halves of a microVM behind a waiter: its process, and the guest in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_guest::protocol::Usage;
use sandpen_types::spec::{ByteString, TerminalSize};
use sandpen_types::stats::GuestUsage;
use sandpen_vmm::driver::{DriverError, GuestSession, ProbeOutcome, VmmProcess};
use sandpen_vmm::sessions::{GuestSessions, SessionError};
use sandpen_vmm::waiter::WaitedVmm;

use super::{failed, remove_cgroups};
use crate::control::ControlLink;
use crate::sessions::SessionLink;

/// The VMM's process and its companions.
pub(super) struct WaitedProcess {
    pub(super) waited: WaitedVmm,
    /// The directories of its cgroup.
    pub(super) cgroups: Vec<PathBuf>,
}

impl VmmProcess for WaitedProcess {
    fn pid(&self) -> Option<u32> {
        Some(self.waited.pid())
    }

    fn signal_vmm(&self, signal: i32) -> Result<(), DriverError> {
        self.waited.signal(signal).map_err(|source| DriverError::Signal { signal, source })
    }

    fn release(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let (waited, cgroups) = (self.waited.clone(), self.cgroups.clone());
        async move {
            waited.release().await.map_err(|error| failed("clearing up after the microVM", error))?;
            remove_cgroups(cgroups).await;
            Ok(())
        }
        .boxed()
    }
}

/// The guest.
pub(super) struct Guest {
    /// `None` where its VMM was gone already.
    pub(super) control: Option<ControlLink>,
    /// Or why it has none.
    pub(super) sessions: Result<SessionLink, SessionError>,
}

impl Guest {
    fn link(&self) -> Result<ControlLink, DriverError> {
        self.control.clone().ok_or_else(|| DriverError::Unreachable("its VMM process has ended".to_owned()))
    }
}

impl GuestSession for Guest {
    fn signal_workload(&self, signal: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        let link = self.link();
        async move { link?.signal(signal).await }.boxed()
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let link = self.link();
        async move { link?.acknowledge_exit().await }.boxed()
    }

    fn write_stdin(&self, bytes: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        let link = self.link();
        async move { link?.write_stdin(&bytes).await }.boxed()
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        let link = self.link();
        async move { link?.close_stdin().await }.boxed()
    }

    fn resize(&self, size: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>> {
        let link = self.link();
        async move { link?.resize(size).await }.boxed()
    }

    fn probe(
        &self,
        command: Vec<ByteString>,
        limit: Duration,
    ) -> BoxFuture<'static, Result<ProbeOutcome, DriverError>> {
        let link = self.link();
        async move { link?.probe(&command, limit).await }.boxed()
    }

    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        let link = self.sessions.clone()?;
        Ok(Arc::new(link))
    }

    fn usage(&self) -> BoxFuture<'static, Result<GuestUsage, DriverError>> {
        let link = self.link();
        async move {
            let Usage { cpu_busy, cpu_total, memory_total, memory_available, disk_total, disk_free, tasks } =
                link?.usage().await?;
            Ok(GuestUsage {
                cpu_busy,
                cpu_total,
                memory_total,
                memory_used: memory_total.saturating_sub(memory_available),
                disk_total,
                disk_used: disk_total.saturating_sub(disk_free),
                tasks,
            })
        }
        .boxed()
    }
}
