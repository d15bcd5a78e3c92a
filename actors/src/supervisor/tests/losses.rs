//! Between two monitors of one microVM, and who asks for its data paths then.

use super::*;
use crate::log_writer::{Follow, FollowFrom};
use crate::monitor::Down;
use crate::runtime::hosting::DownReason;

impl Stage {
    /// Ends its monitor, and waits until that is known. Its row cannot be read until [`Stage::let_adopt`].
    async fn lose_monitor(&self, vmm: &mut FakeVmm) {
        self.execute("ALTER TABLE sandboxes RENAME TO elsewhere").await;
        vmm.hang_up();
        let usr1 = || self.supervisor.send(KillSandbox { key: key("a"), signal: nix::libc::SIGUSR1 });
        while !matches!(soon(usr1()).await.unwrap(), Err(SupervisorError::Database(_))) {
            tokio::task::yield_now().await;
        }
    }

    async fn let_adopt(&self) {
        self.execute("ALTER TABLE elsewhere RENAME TO sandboxes").await;
    }
}

/// As after a supervisor's failure: the next one sees that the monitor is gone, and hears of it as well.
#[test]
fn a_loss_that_is_heard_of_twice_gives_one_monitor() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        stage.lose_monitor(&mut vmm).await;
        let down = Down { key: key("a"), generation: 1, reason: DownReason::Finished, released: false };
        stage.supervisor.send(down).await.unwrap();
        stage.let_adopt().await;
        let mut asked = Vec::new();
        while !asked.contains(&Asked::Adopted) {
            asked.extend(soon(vmm.next_asked()).await);
        }
        let report =
            VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), stdout_bytes: Some(0), stderr_bytes: Some(0) };
        assert!(vmm.tell(report).await);
        while !asked.contains(&Asked::AcknowledgeExit) {
            asked.extend(soon(vmm.next_asked()).await);
        }
        assert_eq!(asked.iter().filter(|asked| **asked == Asked::Adopted).count(), 1, "{asked:?}");
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn who_asks_for_the_data_paths_between_two_monitors_gets_the_next_ones() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let open_log = || stage.supervisor.send(OpenLog { key: key("a") });
        assert!(soon(open_log()).await.unwrap().unwrap().is_some());
        stage.lose_monitor(&mut vmm).await;
        let mut log = tokio::task::spawn_local(open_log());
        let mut guest = tokio::task::spawn_local(stage.supervisor.send(OpenGuest { key: key("a"), or_helper: false }));
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut log).await.is_err());
        assert!(!guest.is_finished());
        stage.let_adopt().await;
        let log = soon(log).await.unwrap().unwrap().unwrap().expect("it goes on");
        log.send(Follow { from: FollowFrom::Oldest }).await.unwrap().unwrap();
        // It looks for its microVM still, or has found it.
        let guest = soon(&mut guest).await.unwrap().unwrap();
        assert!(matches!(guest, Ok(_) | Err(SupervisorError::NotLive { .. })));
        exit(&mut vmm_after_adoption(vmm).await, 0, b"").await;
        stage.wait("a").await;
        let gone = soon(stage.supervisor.send(OpenGuest { key: key("a"), or_helper: false })).await.unwrap();
        assert!(matches!(gone, Err(SupervisorError::NotLive { status: "STOPPED", .. })));
        assert!(soon(stage.supervisor.send(OpenLog { key: key("a") })).await.unwrap().unwrap().is_none());
        stage.end();
    });
}

/// The log is closed and the end cannot be recorded yet: all output is on file, and nobody waits for more.
#[test]
fn a_log_that_is_closed_is_read_from_its_files_before_the_end_is_on_record() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        let open_log = || stage.supervisor.send(OpenLog { key: key("a") });
        let log = soon(open_log()).await.unwrap().unwrap().unwrap();
        let lock = stage.lock_database().await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        let ended = async {
            while log.connected() {
                tokio::task::yield_now().await;
            }
        };
        soon(ended).await;
        assert!(soon(open_log()).await.unwrap().unwrap().is_none());
        assert!(stage.row("a").await.state.is_live());
        lock.release().await;
        stage.wait("a").await;
        stage.end();
    });
}

async fn vmm_after_adoption(mut vmm: FakeVmm) -> FakeVmm {
    while soon(vmm.next_asked()).await != Some(Asked::Adopted) {}
    vmm
}
