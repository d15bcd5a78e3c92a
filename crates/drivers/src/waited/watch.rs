//! Merges what a guest tells with the end of its VMM process, in one order that the monitor can
//! rely on: everything the guest said, then what broke, then [`VmmEvent::VmmExited`]. Sessions have all that they said, and
//! their ends, before that, too.

use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

use sandpen_types::state::{ExitStatus, FailureReason};
use sandpen_vmm::blocking::blocking;
use sandpen_vmm::driver::VmmEvent;
use sandpen_vmm::waiter::{WaitedEnd, WaitedVmm};
use tokio::sync::mpsc;

use crate::confine::cgroup;
use crate::sessions::{self, LinkEnd};

/// The FIFO that the guest's messages come through.
pub(super) const CONTROL_OUT: &str = "control.out";

/// How long the rest of the control pipe may take to be read once the VMM is gone. It is at hand; only
/// a link that waits for a dead guest takes longer.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);

/// Listens to the guest, and tells the end, until the VMM process is gone or nobody listens.
pub(super) async fn watch(
    waited: WaitedVmm,
    listen: impl Future<Output = ()>,
    sessions: Option<LinkEnd>,
    events: mpsc::Sender<VmmEvent>,
    cgroups: Vec<PathBuf>,
) {
    let mut guest = std::pin::pin!(listen);
    let mut guest_is_done = false;
    let end = loop {
        tokio::select! {
            () = &mut guest, if !guest_is_done => guest_is_done = true,
            end = waited.ended() => break end,
            () = events.closed() => return,
        }
    };
    if !guest_is_done {
        // The waiter holds this pipe for the next daemon; without its hold the pipe ends after its
        // last byte. A waiter that is gone holds nothing.
        let _ = waited.close_fifo(CONTROL_OUT).await;
        let _ = tokio::time::timeout(DRAIN_LIMIT, guest).await;
    }
    if let Some(sessions) = sessions {
        // Likewise, where anybody listens to it.
        if sessions.is_used() {
            let _ = waited.close_fifo(sessions::OUT).await;
        }
        sessions.vmm_ended().await;
    }
    let out_of_memory = ran_out_of_memory(cgroups).await;
    for event in events_of(&end, out_of_memory) {
        let _ = events.send(event).await;
    }
}

/// Whether the kernel ended one of the processes for want of memory.
pub(super) async fn ran_out_of_memory(cgroups: Vec<PathBuf>) -> bool {
    let kills = blocking(move || cgroup::oom_kills(&cgroups));
    kills.await.is_ok_and(|kills| kills > 0)
}

/// What the end of a VMM process means. The kernel's reason comes before its consequences.
pub(super) fn events_of(end: &WaitedEnd, out_of_memory: bool) -> impl Iterator<Item = VmmEvent> {
    const SIGKILL: i32 = nix::libc::SIGKILL;
    let lost = end.companion_lost.clone().map(|process| FailureReason::CompanionLost { process });
    let killed = lost.is_some() || end.status == ExitStatus::Signal(SIGKILL);
    let reason = if out_of_memory && killed { Some(FailureReason::OutOfMemory) } else { lost };
    reason.map(VmmEvent::Faulted).into_iter().chain([VmmEvent::VmmExited(end.status)])
}
