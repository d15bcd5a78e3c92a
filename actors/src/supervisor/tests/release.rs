//! Between the recorded end and the end of all that a microVM had.

use super::*;
use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};

#[test]
fn a_start_and_a_removal_wait_until_what_had_ended_is_released() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        for round in 1..=2 {
            stage.driver.hold_releases(true);
            let mut vmm = stage.running_when_free(stage.spec("a")).await;
            exit(&mut vmm, 0, b"x").await;
            // What a user sees now is an ended sandbox.
            assert!(stage.row("a").await.state.is_ended());
            let (start, remove) = (stage.start(stage.spec("a")), RemoveSandbox { key: key("a"), force: false });
            let start = tokio::task::spawn_local(start);
            let remove = tokio::task::spawn_local(stage.supervisor.send(remove));
            stage.driver.hold_releases(false);
            let panic = InjectPanic { actor: ActorKind::Monitor, place: PanicPlace::Handler, sandbox: Some(key("a")) };
            assert!(soon(stage.supervisor.send(panic)).await.unwrap());
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Release));
            // The start came first, so the removal meets a sandbox that is not to be removed.
            let mut next = stage.arrival().await;
            assert_eq!(next.launch.generation, 2 * round);
            assert!(next.tell(VmmEvent::WorkloadStarted).await);
            let row = soon(start).await.unwrap().unwrap().unwrap();
            assert_eq!((row.state, row.generation), (SandboxState::Running, 2 * round));
            let refused = soon(remove).await.unwrap().unwrap();
            assert!(
                matches!(refused, Err(SupervisorError::AlreadyLive { .. } | SupervisorError::NotEnded { .. })),
                "{refused:?}"
            );
            exit(&mut next, 0, b"").await;
            stage.wait("a").await;
        }
        stage.end();
    });
}
