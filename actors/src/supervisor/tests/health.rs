//! Health checks with a microVM in the test's hands.

use sandpen_types::health::{HealthState, HealthStatus};
use sandpen_types::spec::HealthCheck;
use sandpen_types::state::Status;
use sandpen_vmm::driver::{ProbeOutcome, ProbeStatus};

use super::*;

fn outcome(code: i32) -> ProbeOutcome {
    ProbeOutcome { end: ProbeStatus::Ended(ExitStatus::Code(code)), output: "words".into() }
}

fn checked(stage: &Stage) -> SandboxSpec {
    let mut check = HealthCheck::new(vec!["check".into()]);
    check.interval = sandpen_types::spec::HEALTH_TIME_MIN;
    check.retries = 2;
    SandboxSpec { health: Some(check), ..stage.spec("a") }
}

async fn expect_check(vmm: &mut FakeVmm) {
    assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Probe(vec!["check".into()])));
}

#[test]
fn failures_in_a_row_end_the_workload_as_a_crash() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(checked(&stage)).await;
        for code in [1, 0, 1] {
            expect_check(&mut vmm).await;
            vmm.answer_probe(outcome(code));
        }
        expect_check(&mut vmm).await;
        let row = stage.row("a").await;
        let failing = HealthState { status: HealthStatus::Failing, failures: 1, output: "exit code 1: words".into() };
        assert_eq!((row.health, row.state), (Some(failing), SandboxState::Running));
        vmm.answer_probe(outcome(2));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(&mut vmm, 143, b"").await;
        let reason = FailureReason::Unhealthy { failures: 2, output: "exit code 2: words".into() };
        let failed = SandboxState::Failed { reason, exit: Some(ExitStatus::Code(143)) };
        assert_eq!(stage.wait("a").await.state, failed);
        stage.end();
    });
}

#[test]
fn a_workload_that_ends_while_it_is_checked_just_ends() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(checked(&stage)).await;
        expect_check(&mut vmm).await;
        exit(&mut vmm, 0, b"bye").await;
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn a_new_monitor_goes_on_with_the_count() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(checked(&stage)).await;
        expect_check(&mut vmm).await;
        vmm.answer_probe(outcome(1));
        expect_check(&mut vmm).await;
        vmm.hang_up();
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        expect_check(&mut vmm).await;
        // To the one before, which nobody waits for any more, or to this one.
        vmm.answer_probe(outcome(1));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(&mut vmm, 0, b"").await;
        assert_eq!(stage.wait("a").await.state.status(), Status::Failed);
        stage.end();
    });
}

#[test]
fn one_that_ended_before_its_beginning_was_on_record_is_not_checked() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let start = tokio::task::spawn_local(stage.start(checked(&stage)));
        let mut vmm = stage.arrival().await;
        let failing = "CREATE TRIGGER no_exit BEFORE INSERT ON transitions WHEN NEW.event = 'WorkloadExited'
                       BEGIN SELECT RAISE(ABORT, 'not now'); END";
        stage.execute(failing).await;
        let lock = stage.lock_database().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        let exited = VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), stdout_bytes: None, stderr_bytes: None };
        assert!(vmm.tell(exited).await);
        let before = 5 * sandpen_types::spec::HEALTH_TIME_MIN;
        let early = tokio::time::timeout(before, vmm.next_asked()).await;
        assert!(early.is_err(), "{early:?} before anything is durable");
        lock.release().await;
        assert_eq!(soon(start).await.unwrap().unwrap().unwrap().state, SandboxState::Running);
        let checked = tokio::time::timeout(before, vmm.next_asked()).await;
        assert!(checked.is_err(), "{checked:?} of one that has ended");
        stage.execute("DROP TRIGGER no_exit").await;
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}
