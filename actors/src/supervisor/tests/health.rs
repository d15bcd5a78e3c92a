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
