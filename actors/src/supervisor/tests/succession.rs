//! A supervisor that panics, and the one that follows it.

use sandpen_types::state::Status;

use super::*;
use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};

/// The pending restart is the next supervisor's: it has the name, and a stop ends it.
#[test]
fn a_sandbox_in_backoff_is_the_next_supervisors() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let supervisor = Supervisor::keep_running(stage.config.clone(), || {});
        let mut spec = stage.spec("a");
        spec.restart = RestartPolicy::Always;
        // Long, so that none of the steps below can meet it.
        spec.restart_backoff.initial = spec.restart_backoff.max;
        let start = supervisor.send(StartSandbox::anew(spec.clone().try_into().unwrap()));
        let start = tokio::task::spawn_local(start);
        let mut vmm = stage.arrival().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        soon(start).await.unwrap().unwrap().unwrap();
        exit(&mut vmm, 1, b"").await;
        while stage.row("a").await.state.status() != Status::Backoff {
            tokio::task::yield_now().await;
        }
        for _ in 0..2 {
            let panic = InjectPanic { actor: ActorKind::Supervisor, place: PanicPlace::Handler, sandbox: None };
            assert!(soon(supervisor.send(panic)).await.unwrap());
        }
        let again = StartSandbox::anew(spec.try_into().unwrap());
        let refused = soon(supervisor.send(again)).await.unwrap();
        assert!(matches!(refused, Err(SupervisorError::AlreadyLive { .. })), "{refused:?}");
        let stopped =
            soon(supervisor.send(StopSandbox { key: key("a"), grace: DEADLINE, signal: None })).await.unwrap().unwrap();
        assert_eq!(stopped.state.status(), Status::Stopped);
        stage.end();
    });
}
