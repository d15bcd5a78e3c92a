//! Restarts by the policy, over the deaths of orchestrators.

use sandpen_types::spec::RestartBackoff;
use sandpen_types::state::{Status, StoppedBy};

use super::*;
use crate::telemetry::counters::Counter;

impl Stage {
    /// A sandbox that is started again at once.
    fn restarting(&self, name: &str, policy: RestartPolicy) -> SandboxSpec {
        let backoff = RestartBackoff { initial: Duration::ZERO, ..RestartBackoff::default() };
        SandboxSpec { restart: policy, restart_backoff: backoff, ..self.spec(name) }
    }

    /// Another orchestrator of the same state directory, after the death of this one.
    pub(super) async fn succeed(self) -> Self {
        let Self { dir, driver, arrivals, .. } = self.die().await;
        let next = Self::on(dir, driver, arrivals).await;
        soon(next.supervisor.send(Reconcile)).await.unwrap().unwrap();
        next
    }

    /// Ends the actors, who can record nothing from here on.
    pub(super) async fn die(mut self) -> Self {
        soon(self.supervisor.send(Shutdown { grace: None })).await.unwrap();
        for arbiter in self.arbiters.drain(..) {
            arbiter.stop();
            arbiter.join().unwrap();
        }
        self
    }

    /// Ends what runs by the orchestrator's own end.
    async fn shut_down(&mut self, vmm: &mut FakeVmm) {
        let shutdown = tokio::task::spawn_local(self.supervisor.send(Shutdown { grace: Some(DEADLINE) }));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(vmm, 143, b"").await;
        soon(shutdown).await.unwrap().unwrap();
    }
}

#[test]
fn the_most_restarts_in_a_row_are_kept_and_counted_over_deaths() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let spec = stage.restarting("a", RestartPolicy::OnFailure { max: Some(3) });
        exit(&mut stage.running(spec).await, 1, b"").await;
        let mut second = stage.arrival().await;
        second.tell(VmmEvent::WorkloadStarted).await;
        exit(&mut second, 1, b"").await;
        let mut third = stage.arrival().await;
        assert_eq!(third.launch.generation, 3);
        third.tell(VmmEvent::WorkloadStarted).await;
        let mut stage = stage.succeed().await;
        exit_adopted(&mut third, 1).await;
        let mut fourth = stage.arrival().await;
        fourth.tell(VmmEvent::WorkloadStarted).await;
        exit(&mut fourth, 1, b"").await;
        let row = stage.wait("a").await;
        assert_eq!((row.restarts, row.restarts_in_a_row, row.generation), (3, 3, 4));
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(1) });
        // Nothing is left to decide.
        let stage = stage.succeed().await;
        assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
        stage.end();
    });
}

#[test]
fn a_healthy_run_begins_a_new_count() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.restarting("a", RestartPolicy::OnFailure { max: Some(1) });
        spec.restart_backoff.healthy_after = Duration::ZERO;
        exit(&mut stage.running(spec).await, 1, b"").await;
        for generation in 2..5 {
            let mut vmm = stage.arrival().await;
            assert_eq!(vmm.launch.generation, generation);
            vmm.tell(VmmEvent::WorkloadStarted).await;
            exit(&mut vmm, 1, b"").await;
        }
        let mut last = stage.arrival().await;
        last.tell(VmmEvent::WorkloadStarted).await;
        exit(&mut last, 0, b"").await;
        let row = stage.wait("a").await;
        assert_eq!((row.restarts, row.restarts_in_a_row), (4, 0));
        stage.end();
    });
}

/// A power-off that hangs, or a disk that takes nothing, makes no healthy run of a short one.
#[test]
fn what_comes_after_a_workloads_end_is_no_run() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.restarting("a", RestartPolicy::OnFailure { max: Some(1) });
        spec.restart_backoff.healthy_after = Duration::from_secs(1);
        let mut vmm = stage.running(spec).await;
        for generation in 2..4 {
            let exited = VmmEvent::WorkloadExited { exit: ExitStatus::Code(1), stdout_bytes: None, stderr_bytes: None };
            assert!(vmm.tell(exited).await);
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
            tokio::time::sleep(Duration::from_millis(1100)).await;
            assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
            if generation == 2 {
                vmm = stage.arrival().await;
                assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
            }
        }
        let row = stage.wait("a").await;
        assert_eq!((row.generation, row.restarts_in_a_row, row.state.status()), (2, 1, Status::Stopped));
        stage.end();
    });
}

/// It ended at some time while no orchestrator was there.
#[test]
fn an_end_that_nobody_saw_is_that_of_no_healthy_run() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.restarting("a", RestartPolicy::OnFailure { max: Some(1) });
        spec.restart_backoff.healthy_after = Duration::from_secs(1);
        exit(&mut stage.running(spec).await, 1, b"").await;
        let mut again = stage.arrival().await;
        assert!(again.tell(VmmEvent::WorkloadStarted).await);
        until_status(&stage, Status::Running).await;
        let stage = stage.die().await;
        tokio::time::sleep(Duration::from_millis(1100)).await;
        let stage = stage.succeed().await;
        assert_eq!(soon(again.next_asked()).await, Some(Asked::Adopted));
        assert!(again.tell(VmmEvent::WorkloadStarted).await);
        exit(&mut again, 1, b"").await;
        let row = stage.wait("a").await;
        assert_eq!((row.generation, row.restarts_in_a_row, row.state.status()), (2, 1, Status::Stopped));
        stage.end();
    });
}

#[test]
fn a_restart_that_was_not_decided_before_our_death_is_decided_by_the_next_orchestrator() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.restarting("a", RestartPolicy::OnFailure { max: Some(5) });
        spec.restart_backoff.initial = spec.restart_backoff.max;
        exit(&mut stage.running(spec).await, 1, b"").await;
        until_status(&stage, Status::Backoff).await;
        let stage = stage.die().await;
        // As if we had died between the two records.
        stage
            .execute(
                r#"UPDATE sandboxes SET status = 'FAILED', seq = seq - 1,
                   state = '{"status":"FAILED","reason":{"kind":"lost"},"exit":null}'"#,
            )
            .await;
        stage.execute("DROP TRIGGER transitions_no_delete").await;
        stage.execute("DELETE FROM transitions WHERE seq > (SELECT seq FROM sandboxes)").await;
        let stage = stage.succeed().await;
        until_status(&stage, Status::Backoff).await;
        // And a stop ends it for good.
        let stop = StopSandbox { key: key("a"), grace: DEADLINE, signal: None };
        soon(stage.supervisor.send(stop)).await.unwrap().unwrap();
        assert_eq!(stage.row("a").await.stopped_by, Some(StoppedBy::Request));
        let stage = stage.succeed().await;
        assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
        stage.end();
    });
}

#[test]
fn a_pending_restart_is_resumed() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.restarting("a", RestartPolicy::Always);
        spec.restart_backoff.initial = spec.restart_backoff.max;
        exit(&mut stage.running(spec).await, 0, b"").await;
        until_status(&stage, Status::Backoff).await;
        let stage = stage.die().await;
        let soon = r#"UPDATE sandboxes SET state = '{"status":"BACKOFF","until":"2020-01-01T00:00:00Z"}'"#;
        stage.execute(soon).await;
        let mut stage = stage.succeed().await;
        let mut again = stage.arrival().await;
        assert_eq!(again.launch.generation, 2);
        again.tell(VmmEvent::WorkloadStarted).await;
        stage.shut_down(&mut again).await;
        stage.end();
    });
}

#[test]
fn what_the_orchestrator_stopped_comes_back_and_what_a_user_stopped_only_after_a_reboot() {
    on_stage(|| async {
        for (policy, reboot_only) in [(RestartPolicy::Always, true), (RestartPolicy::UnlessStopped, false)] {
            let mut stage = Stage::new().await;
            let spec = stage.restarting("a", policy);
            let mut vmm = stage.running(spec).await;
            stage.shut_down(&mut vmm).await;
            assert_eq!(stage.row("a").await.stopped_by, Some(StoppedBy::Shutdown));
            let mut stage = stage.succeed().await;
            let mut again = stage.arrival().await;
            again.tell(VmmEvent::WorkloadStarted).await;
            let stop = StopSandbox { key: key("a"), grace: DEADLINE, signal: None };
            let stopped = tokio::task::spawn_local(stage.supervisor.send(stop));
            assert_eq!(soon(again.next_asked()).await, Some(Asked::SignalWorkload(15)));
            exit(&mut again, 0, b"").await;
            soon(stopped).await.unwrap().unwrap().unwrap();
            let stage = stage.succeed().await;
            assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
            let stage = stage.die().await;
            stage.execute("UPDATE sandboxes SET boot_id = 'another'").await;
            let mut stage = stage.succeed().await;
            if reboot_only {
                let mut vmm = stage.arrival().await;
                vmm.tell(VmmEvent::WorkloadStarted).await;
                stage.shut_down(&mut vmm).await;
            } else {
                assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
            }
            stage.end();
        }
    });
}

#[test]
fn other_policies_do_not_come_back() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let spec = stage.restarting("a", RestartPolicy::OnFailure { max: None });
        let mut vmm = stage.running(spec).await;
        stage.shut_down(&mut vmm).await;
        let stage = stage.succeed().await;
        assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
        stage.end();
    });
}

#[test]
fn a_stop_between_the_end_and_the_decision_is_final() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let spec = stage.restarting("a", RestartPolicy::Always);
        let mut vmm = stage.running(spec).await;
        let exited = VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), stdout_bytes: None, stderr_bytes: None };
        assert!(vmm.tell(exited).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        let stop = StopSandbox { key: key("a"), grace: DEADLINE, signal: None };
        let stopped = tokio::task::spawn_local(stage.supervisor.send(stop));
        tokio::task::yield_now().await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!((row.state.status(), row.stopped_by), (Status::Stopped, Some(StoppedBy::Request)));
        let stage = stage.succeed().await;
        assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
        stage.end();
    });
}

#[test]
fn a_restart_that_cannot_be_recorded_waits_until_it_can() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let spec = stage.restarting("a", RestartPolicy::Always);
        let mut vmm = stage.running(spec).await;
        let failing = "CREATE TRIGGER no_backoff BEFORE INSERT ON transitions WHEN NEW.status = 'BACKOFF'
                       BEGIN SELECT RAISE(ABORT, 'not now'); END";
        stage.execute(failing).await;
        exit(&mut vmm, 1, b"").await;
        let was_tried = async {
            while stage.faults.counters().value(Counter::DatabaseRetries) == 0 {
                tokio::task::yield_now().await;
            }
        };
        soon(was_tried).await;
        // It runs no more, and its name is not free.
        assert_eq!(stage.row("a").await.state.status(), Status::Stopped);
        assert!(matches!(soon(stage.start(stage.spec("a"))).await.unwrap(), Err(SupervisorError::AlreadyLive { .. })));
        stage.execute("DROP TRIGGER no_backoff").await;
        let next = stage.arrival().await;
        assert_eq!(next.launch.generation, 2);
        next.tell(VmmEvent::WorkloadStarted).await;
        stage.end();
    });
}

/// Waits until the sandbox `a` has this status, which the database tells.
async fn until_status(stage: &Stage, status: Status) {
    let mut events = stage.database.send(crate::database::WatchEvents).await.unwrap();
    while stage.row("a").await.state.status() != status {
        soon(events.changed()).await.unwrap();
    }
}

/// As `exit`, for a microVM that was adopted meanwhile.
async fn exit_adopted(vmm: &mut FakeVmm, code: i32) {
    assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
    exit(vmm, code, b"").await;
}
