//! What must end ends, whatever the guest says, the database does or the host lacks; and nobody who asked for it
//! is forgotten.

use sandpen_types::spec::RestartPolicy;
use sandpen_types::state::{Status, StoppedBy};

use super::*;

fn report(stdout: u64) -> VmmEvent {
    VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), stdout_bytes: Some(stdout), stderr_bytes: Some(0) }
}

pub(super) fn stop(stage: &Stage, name: &str, grace: Duration) -> actix::prelude::Request<Supervisor, StopSandbox> {
    stage.supervisor.send(StopSandbox { key: key(name), grace, signal: None })
}

/// Signals to the VMM until the one that is waited for.
async fn until_signalled(vmm: &mut FakeVmm, signal: i32) {
    while soon(vmm.next_asked()).await != Some(Asked::SignalVmm(signal)) {}
}

#[test]
fn bytes_that_cannot_exist_are_a_broken_protocol_at_once() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        assert!(vmm.tell(report(u64::MAX)).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalVmm(9)));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        let SandboxState::Failed { reason: FailureReason::ProtocolBroken { message }, exit: None } =
            stage.wait("a").await.state
        else {
            panic!("{:?}", stage.row("a").await.state)
        };
        assert!(message.contains("bytes of stdout were reported that never came"), "{message}");
        stage.end();
    });
}

/// What it says may be true, and a byte comes now and then: it has one drain, and no more.
#[test]
fn a_guest_that_trickles_what_it_reported_ends_within_one_drain() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        assert!(vmm.tell(report(1 << 20)).await);
        let acknowledged = loop {
            vmm.write(OutputStream::Stdout, b".").unwrap();
            if let Ok(asked) = tokio::time::timeout(Duration::from_millis(100), vmm.next_asked()).await {
                break asked;
            }
        };
        assert_eq!(acknowledged, Some(Asked::AcknowledgeExit));
        // It does not power off.
        until_signalled(&mut vmm, 9).await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn a_stop_that_meets_a_forged_report_is_carried_out_all_the_same() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let stopped = tokio::task::spawn_local(stop(&stage, "a", Duration::from_millis(100)));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        assert!(vmm.tell(report(1000)).await);
        let trickle = async {
            loop {
                vmm.write(OutputStream::Stdout, b".").unwrap();
                if let Ok(Some(Asked::SignalVmm(15))) =
                    tokio::time::timeout(Duration::from_millis(100), vmm.next_asked()).await
                {
                    break;
                }
            }
        };
        soon(trickle).await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(15))).await);
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!((row.state.status(), row.stopped_by), (Status::Stopped, Some(StoppedBy::Request)));
        stage.end();
    });
}

/// The output of an honest workload that ends in its grace is not cut by the end of that grace.
#[test]
fn an_output_that_takes_longer_than_the_grace_arrives() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let stopped = tokio::task::spawn_local(stop(&stage, "a", Duration::from_millis(300)));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        assert!(vmm.tell(report(6)).await);
        tokio::time::sleep(Duration::from_millis(600)).await;
        vmm.write(OutputStream::Stdout, b"last\n\n").unwrap();
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit), "no signal came before");
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn an_adopted_guest_that_has_ended_and_says_it_runs_is_ended() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        assert!(vmm.tell(report(0)).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        // Its monitor is lost; the next one finds STOPPING with an exit.
        vmm.hang_up();
        while soon(vmm.next_asked()).await != Some(Asked::Adopted) {}
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        until_signalled(&mut vmm, 15).await;
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(15))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn what_cannot_be_found_for_lack_of_descriptors_can_be_killed() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        stage.driver.hinder_adoption(Some(Errno::EMFILE));
        vmm.hang_up();
        while !stage.faults.active().contains(&Fault::OpenFiles) {
            tokio::task::yield_now().await;
        }
        let killed = tokio::task::spawn_local(stage.supervisor.send(KillSandbox { key: key("a"), signal: 9 }));
        until_signalled(&mut vmm, 9).await;
        stage.driver.forget(&vmm.launch.runtime_dir);
        stage.driver.hinder_adoption(None);
        let row = soon(killed).await.unwrap().unwrap().unwrap();
        assert_eq!((row.state.status(), row.stopped_by), (Status::Stopped, Some(StoppedBy::Request)));
        stage.end();
    });
}

/// A stop by request meets the orchestrator's own end while another edge is being recorded: the sandbox does not
/// come back with the next orchestrator.
#[test]
fn a_users_stop_is_not_forgotten_for_the_orchestrators_own_end() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.restart = RestartPolicy::Always;
        let start = tokio::task::spawn_local(stage.start(spec));
        let mut vmm = stage.arrival().await;
        let lock = stage.lock_database().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        let stopped = tokio::task::spawn_local(stop(&stage, "a", Duration::from_hours(1)));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)), "it waits for no database");
        let grace = Some(Duration::from_hours(1));
        let ended = tokio::task::spawn_local(stage.supervisor.send(Shutdown { grace }));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        lock.release().await;
        exit(&mut vmm, 143, b"").await;
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!((row.state.status(), row.stopped_by), (Status::Stopped, Some(StoppedBy::Request)));
        assert!(soon(ended).await.unwrap().unwrap().is_empty());
        soon(start).await.unwrap().unwrap().unwrap();
        stage.end();
    });
}

/// A workload that ends while its beginning is still being recorded: both go on record in their order, and the guest
/// stays up until its end is there.
#[test]
fn an_end_that_overtakes_the_record_of_its_beginning_is_acknowledged_after_both() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let start = tokio::task::spawn_local(stage.start(stage.spec("a")));
        let mut vmm = stage.arrival().await;
        let lock = stage.lock_database().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        vmm.write(OutputStream::Stdout, b"all").unwrap();
        assert!(vmm.tell(report(3)).await);
        let early = tokio::time::timeout(Duration::from_millis(500), vmm.next_asked()).await;
        assert!(early.is_err(), "{early:?} before its end is durable");
        lock.release().await;
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        let row = stage.row("a").await;
        assert!(row.started_at.is_some() && row.state.exit() == Some(ExitStatus::Code(0)), "{row:?}");
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        soon(start).await.unwrap().unwrap().unwrap();
        stage.end();
    });
}

/// A VMM that is lost while the beginning is still being recorded, and the stop that came too late for it.
#[test]
fn a_loss_that_overtakes_the_record_of_the_beginning_is_one_and_a_later_stop_is_heard() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.restart = RestartPolicy::Always;
        let start = tokio::task::spawn_local(stage.start(spec));
        let vmm = stage.arrival().await;
        let lock = stage.lock_database().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(11))).await);
        let stopped = tokio::task::spawn_local(stop(&stage, "a", Duration::from_hours(1)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        lock.release().await;
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!(row.stopped_by, Some(StoppedBy::Request), "it does not come back");
        assert!(row.state.is_ended(), "{:?}", row.state);
        soon(start).await.unwrap().unwrap().unwrap();
        assert_eq!(stage.row("a").await.state, row.state);
        stage.end();
    });
}

/// The database hangs: a time limit and a stop go on by the clock, and so do health checks.
#[test]
fn no_end_and_no_health_check_waits_for_the_database() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("limited");
        spec.timeout = Some(Duration::from_secs(1));
        let mut check = sandpen_types::spec::HealthCheck::new(vec!["check".into()]);
        check.interval = sandpen_types::spec::HEALTH_TIME_MIN;
        let mut checked = stage.running(SandboxSpec { health: Some(check), ..stage.spec("checked") }).await;
        let mut limited = stage.running(spec).await;
        let lock = stage.lock_database().await;
        for _ in 0..3 {
            assert_eq!(soon(checked.next_asked()).await, Some(Asked::Probe(vec!["check".into()])));
            let end = sandpen_vmm::driver::ProbeStatus::Ended(ExitStatus::Code(0));
            checked.answer_probe(sandpen_vmm::driver::ProbeOutcome { end, output: String::new() });
        }
        let killed = tokio::task::spawn_local(stage.supervisor.send(KillSandbox { key: key("checked"), signal: 9 }));
        until_signalled(&mut checked, 9).await;
        assert_eq!(soon(limited.next_asked()).await, Some(Asked::SignalWorkload(15)));
        lock.release().await;
        assert!(checked.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        assert_eq!(soon(killed).await.unwrap().unwrap().unwrap().state.status(), Status::Stopped);
        exit(&mut limited, 143, b"").await;
        let row = stage.wait("limited").await;
        assert!(matches!(row.state.failure(), Some(FailureReason::TimedOut { .. })), "{:?}", row.state);
        stage.end();
    });
}

/// The log writer dies while the last output is on its way: the guest may not power off on the word of nobody.
#[cfg(feature = "testing")]
#[test]
fn an_exit_whose_output_nobody_has_seen_is_not_acknowledged() {
    use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let log = stage.dir.path().join("logs/default/a.log");
        vmm.write(OutputStream::Stdout, b"first").unwrap();
        assert!(vmm.tell(report(10)).await);
        while std::fs::read(&log).unwrap_or_default() != b"first" {
            tokio::task::yield_now().await;
        }
        let panic = InjectPanic { actor: ActorKind::LogWriter, place: PanicPlace::Handler, sandbox: Some(key("a")) };
        assert!(soon(stage.supervisor.send(panic)).await.unwrap());
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
        vmm.write(OutputStream::Stdout, b"rest\n").unwrap();
        assert!(vmm.tell(report(10)).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        assert_eq!(std::fs::read(&log).unwrap(), b"firstrest\n");
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

/// The pause before a restart is over and the attempt is just being recorded when the user stops it: one of the two
/// is recorded, and what was started ends.
#[test]
fn a_stop_that_meets_a_restart_is_not_lost() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.restart = RestartPolicy::Always;
        spec.restart_backoff.initial = Duration::from_millis(500);
        let mut vmm = stage.running(spec).await;
        exit(&mut vmm, 1, b"").await;
        let row = loop {
            match stage.row("a").await {
                row if row.state.status() == Status::Backoff => break row,
                _ => tokio::task::yield_now().await,
            }
        };
        let SandboxState::Backoff { until } = row.state else { unreachable!() };
        let lock = stage.lock_database().await;
        let pause = (until - chrono::Utc::now()).to_std().unwrap_or_default();
        tokio::time::sleep(pause + Duration::from_millis(100)).await;
        let stopped = tokio::task::spawn_local(stop(&stage, "a", Duration::ZERO));
        tokio::time::sleep(Duration::from_millis(100)).await;
        lock.release().await;
        let end = async {
            let mut vmm = stage.arrival().await;
            assert_eq!(vmm.launch.generation, 2);
            while !matches!(vmm.next_asked().await, Some(Asked::SignalVmm(_))) {}
            vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(15))).await;
        };
        soon(end).await;
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!(
            (row.state.status(), row.stopped_by, row.generation),
            (Status::Stopped, Some(StoppedBy::Request), 2)
        );
        let stored = stage.row("a").await;
        assert_eq!((stored.state, stored.stopped_by, stored.seq), (row.state, row.stopped_by, row.seq));
        stage.end();
    });
}
