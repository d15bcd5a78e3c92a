//! A supervisor that panics, and the one that follows it.

use sandpen_types::state::Status;

use super::*;
use crate::runtime::actor_ref::ActorRef;
use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};

/// A sandbox in BACKOFF for as long as its policy has it at most, and its supervisor.
async fn in_backoff() -> (Stage, ActorRef<Supervisor>, SandboxSpec) {
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
    (stage, supervisor, spec)
}

/// The pending restart is the next supervisor's: it has the name, and a stop ends it.
#[test]
fn a_sandbox_in_backoff_is_the_next_supervisors() {
    on_stage(|| async {
        let (stage, supervisor, spec) = in_backoff().await;
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

/// A clock that was set back makes nobody wait longer than its policy says.
#[test]
fn the_next_supervisor_waits_no_longer_than_the_longest_pause() {
    on_stage(|| async {
        let (mut stage, supervisor, _) = in_backoff().await;
        stage
            .execute(
                r#"UPDATE sandboxes SET state = '{"status":"BACKOFF","until":"2200-01-01T00:00:00Z"}',
                   spec = json_set(spec, '$.restart_backoff.initial.secs', 0, '$.restart_backoff.max.secs', 0)"#,
            )
            .await;
        let panic = InjectPanic { actor: ActorKind::Supervisor, place: PanicPlace::Handler, sandbox: None };
        assert!(soon(supervisor.send(panic)).await.unwrap());
        let mut again = stage.arrival().await;
        assert_eq!(again.launch.generation, 2);
        assert!(again.tell(VmmEvent::WorkloadStarted).await);
        let stop = supervisor.send(StopSandbox { key: key("a"), grace: DEADLINE, signal: None });
        let stop = tokio::task::spawn_local(stop);
        assert_eq!(soon(again.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(&mut again, 143, b"").await;
        soon(stop).await.unwrap().unwrap().unwrap();
        stage.end();
    });
}

/// What the first reconciliation owed for the orchestrator before is not lost with its supervisor.
#[test]
fn a_first_reconciliation_that_is_cut_off_is_done_by_the_next_supervisor() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut owed = stage.spec("owed");
        owed.restart = RestartPolicy::Always;
        stage.running(owed).await;
        let mut lives = stage.running(stage.spec("lives")).await;
        let stage = stage.die().await;
        // As if we had died before its restart was decided.
        stage
            .execute(
                r#"UPDATE sandboxes SET status = 'FAILED', ended_at = updated_at,
                   state = '{"status":"FAILED","reason":{"kind":"lost"},"exit":null}' WHERE name = 'owed'"#,
            )
            .await;
        let Stage { dir, driver, arrivals, .. } = stage;
        let mut stage = Stage::on(dir, driver, arrivals).await;
        let supervisor = Supervisor::keep_running(stage.config.clone(), || {});
        // It waits for the one that lives, and fails meanwhile.
        stage.driver.hinder_adoption(Some(Errno::EMFILE));
        let reconciled = tokio::task::spawn_local(supervisor.send(Reconcile));
        let is_under_way = async {
            while stage.faults.counters().value(counter_of(Fault::OpenFiles)) == 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(is_under_way).await;
        let panic = InjectPanic { actor: ActorKind::Supervisor, place: PanicPlace::Handler, sandbox: None };
        assert!(soon(supervisor.send(panic)).await.unwrap());
        stage.driver.hinder_adoption(None);
        let report = soon(reconciled).await.unwrap().unwrap().unwrap();
        assert_eq!((report.adopted, report.resolved), (vec![key("owed")], vec![]));
        let again = stage.arrival().await;
        assert_eq!((again.launch.spec.key.clone(), again.launch.generation), (key("owed"), 2));
        assert!(again.tell(VmmEvent::WorkloadStarted).await);
        // Once: the next one owes nothing.
        let report = soon(supervisor.send(Reconcile)).await.unwrap().unwrap();
        assert_eq!((report.adopted, report.resolved), (vec![], vec![]));
        assert_eq!(soon(lives.next_asked()).await, Some(Asked::Adopted));
        exit(&mut lives, 0, b"").await;
        stage.end();
    });
}
