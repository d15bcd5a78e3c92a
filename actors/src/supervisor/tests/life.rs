//! A sandbox's life under one supervisor: started, refused, ended, started again, removed.

use super::*;

#[test]
fn a_whole_life_with_output_and_history() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        exit(&mut vmm, 42, b"hello\n").await;
        let row = stage.wait("a").await;
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(42) });
        assert_eq!(row.microvm_pid, None);
        let log = std::fs::read(stage.dir.path().join("logs/default/a.log")).unwrap();
        assert_eq!(log, b"hello\n");
        let history =
            stage.database.send(ListTransitions { sandbox: row.id, page: HistoryPage::OLDEST }).await.unwrap().unwrap();
        let words: Vec<_> = history.iter().map(|step| (step.seq, step.state.status())).collect();
        assert_eq!(words, [(1, Status::Starting), (2, Status::Running), (3, Status::Stopping), (4, Status::Stopped)]);
        let timings = stage.timings.get(&key("a")).unwrap();
        let steps: Vec<_> = timings.steps().iter().map(|timed| timed.step).collect();
        // What no driver noted is left out, not made up.
        let of_monitor = [
            StartStep::Requested,
            StartStep::Checked,
            StartStep::Recorded,
            StartStep::Running,
            StartStep::WorkloadEnded,
            StartStep::OutputComplete,
            StartStep::ExitRecorded,
            StartStep::VmmEnded,
            StartStep::EndRecorded,
            StartStep::Released,
        ];
        let without_output: Vec<_> = steps.iter().copied().filter(|step| *step != StartStep::FirstOutput).collect();
        assert_eq!((without_output.as_slice(), steps.len()), (&of_monitor[..], of_monitor.len() + 1));
        soon(stage.supervisor.send(RemoveSandbox { key: key("a"), force: false })).await.unwrap().unwrap();
        assert!(stage.timings.get(&key("a")).is_none());
        stage.end();
    });
}

#[test]
fn the_exit_is_durable_before_the_guest_may_power_off() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let report =
            VmmEvent::WorkloadExited { exit: ExitStatus::Code(7), stdout_bytes: Some(3), stderr_bytes: Some(0) };
        assert!(vmm.tell(report).await);
        vmm.write(OutputStream::Stdout, b"abc").unwrap();
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        assert_eq!(stage.row("a").await.state.exit(), Some(ExitStatus::Code(7)));
        assert_eq!(std::fs::read(stage.dir.path().join("logs/default/a.log")).unwrap(), b"abc");
        stage.end();
    });
}

#[test]
fn a_taken_name_is_refused_and_nothing_is_touched() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let vmm = stage.running(stage.spec("a")).await;
        let before = stage.row("a").await;
        let mut other = stage.spec("a");
        other.command = vec!["/bin/other".into()];
        let refused = stage.start(other).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::AlreadyLive { status: "RUNNING", .. }), "{refused}");
        assert_eq!(stage.row("a").await, before);
        drop(vmm);
        stage.end();
    });
}

#[test]
fn two_starts_of_one_name_at_once_give_one_microvm() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let first = tokio::task::spawn_local(stage.start(stage.spec("a")));
        let second = tokio::task::spawn_local(stage.start(stage.spec("a")));
        let vmm = stage.arrival().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        let answers = [soon(first).await.unwrap().unwrap(), soon(second).await.unwrap().unwrap()];
        assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
        assert!(stage.arrivals.try_recv().is_err());
        stage.end();
    });
}

#[test]
fn a_launch_that_fails_is_failed_with_the_drivers_words_and_can_be_tried_again() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        stage.driver.refuse(Some("no such luck"));
        let row = soon(stage.start(stage.spec("a"))).await.unwrap().unwrap();
        let SandboxState::Failed { reason: FailureReason::SpawnFailed { message }, .. } = &row.state else {
            panic!("{row:?}")
        };
        assert!(message.contains("no such luck"));
        stage.driver.refuse(None);
        let mut vmm = stage.running(stage.spec("a")).await;
        assert_eq!(vmm.launch.generation, 2);
        exit(&mut vmm, 0, b"").await;
        stage.wait("a").await;
        stage.end();
    });
}

#[test]
fn stop_asks_the_workload_and_kill_ends_the_vmm() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut asked = stage.running(stage.spec("asked")).await;
        let stop = StopSandbox { key: key("asked"), grace: DEADLINE, signal: None };
        let stopped = tokio::task::spawn_local(stage.supervisor.send(stop));
        assert_eq!(soon(asked.next_asked()).await, Some(Asked::SignalWorkload(15)));
        assert_eq!(stage.row("asked").await.state.status(), Status::Stopping);
        exit(&mut asked, 143, b"bye").await;
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Code(143) });

        let mut killed = stage.running(stage.spec("killed")).await;
        let kill = KillSandbox { key: key("killed"), signal: 9 };
        let answer = tokio::task::spawn_local(stage.supervisor.send(kill));
        assert_eq!(soon(killed.next_asked()).await, Some(Asked::SignalVmm(9)));
        assert!(killed.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        let row = soon(answer).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Signal(9) });
        stage.end();
    });
}

#[test]
fn a_workload_that_ignores_the_stop_is_escalated() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let stop = StopSandbox { key: key("a"), grace: Duration::from_millis(50), signal: None };
        let stopped = tokio::task::spawn_local(stage.supervisor.send(stop));
        for expected in [Asked::SignalWorkload(15), Asked::SignalVmm(15), Asked::SignalVmm(9)] {
            assert_eq!(soon(vmm.next_asked()).await, Some(expected));
        }
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Signal(9) });
        stage.end();
    });
}

#[test]
fn the_time_limit_ends_the_workload_with_its_reason() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.timeout = Some(Duration::from_millis(50));
        let mut vmm = stage.running(spec).await;
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(&mut vmm, 143, b"").await;
        let row = stage.wait("a").await;
        assert!(matches!(row.state.failure(), Some(FailureReason::TimedOut { .. })), "{row:?}");
        assert_eq!(row.state.exit(), Some(ExitStatus::Code(143)));
        stage.end();
    });
}

#[test]
fn a_vmm_without_report_is_failed_and_a_fault_ends_the_vmm() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let lost = stage.running(stage.spec("lost")).await;
        assert!(lost.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        let row = stage.wait("lost").await;
        assert!(matches!(row.state.failure(), Some(FailureReason::VmmLost { .. })), "{row:?}");

        let mut broken = stage.running(stage.spec("broken")).await;
        let reason = FailureReason::ProtocolBroken { message: "nonsense".into() };
        assert!(broken.tell(VmmEvent::Faulted(reason.clone())).await);
        assert_eq!(soon(broken.next_asked()).await, Some(Asked::SignalVmm(9)));
        assert!(broken.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        let row = stage.wait("broken").await;
        assert_eq!(row.state.failure(), Some(&reason));
        stage.end();
    });
}

#[test]
fn a_workload_that_is_not_found_is_failed_with_127() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let request = tokio::task::spawn_local(stage.start(stage.spec("a")));
        let mut vmm = stage.arrival().await;
        let message = "/bin/nope: not found".to_owned();
        assert!(vmm.tell(VmmEvent::WorkloadNotStarted { code: 127, message }).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        let row = soon(request).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state.exit(), Some(ExitStatus::Code(127)));
        assert!(matches!(row.state.failure(), Some(FailureReason::WorkloadNotStarted { .. })));
        stage.end();
    });
}

#[test]
fn a_restart_policy_starts_again_and_a_stop_ends_it() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.restart = RestartPolicy::Always;
        let mut vmm = stage.running(spec).await;
        exit(&mut vmm, 1, b"one ").await;
        let mut again = stage.arrival().await;
        assert_eq!(again.launch.generation, 2);
        assert!(again.tell(VmmEvent::WorkloadStarted).await);
        let stop = StopSandbox { key: key("a"), grace: DEADLINE, signal: None };
        let stopped = tokio::task::spawn_local(stage.supervisor.send(stop));
        assert_eq!(soon(again.next_asked()).await, Some(Asked::SignalWorkload(15)));
        exit(&mut again, 0, b"two").await;
        let row = soon(stopped).await.unwrap().unwrap().unwrap();
        assert_eq!((row.restarts, row.state.status()), (1, Status::Stopped));
        assert_eq!(std::fs::read(stage.dir.path().join("logs/default/a.log")).unwrap(), b"one two");
        stage.end();
    });
}

#[test]
fn removal_takes_row_and_log_and_refuses_a_live_one() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let remove = |force| RemoveSandbox { key: key("a"), force };
        let refused = stage.supervisor.send(remove(false)).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::NotEnded { .. }));
        exit(&mut vmm, 0, b"text").await;
        stage.wait("a").await;
        soon(stage.supervisor.send(remove(false))).await.unwrap().unwrap();
        assert!(!stage.dir.path().join("logs/default/a.log").exists());
        let missing = stage.supervisor.send(remove(false)).await.unwrap().unwrap_err();
        assert!(matches!(missing, SupervisorError::NotFound { .. }));
        let missing = stage.supervisor.send(WaitSandbox { key: key("a") }).await.unwrap().unwrap_err();
        assert!(matches!(missing, SupervisorError::NotFound { .. }));
        stage.end();
    });
}

#[test]
fn a_forced_removal_kills_first_and_remove_on_end_cleans_up() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        let removed = tokio::task::spawn_local(stage.supervisor.send(RemoveSandbox { key: key("a"), force: true }));
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::SignalVmm(9)));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Signal(9))).await);
        soon(removed).await.unwrap().unwrap().unwrap();

        let mut spec = stage.spec("b");
        spec.remove_on_end = true;
        let mut vmm = stage.running(spec).await;
        let waiting = tokio::task::spawn_local(stage.supervisor.send(WaitSandbox { key: key("b") }));
        tokio::task::yield_now().await;
        exit(&mut vmm, 5, b"x").await;
        let row = soon(waiting).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state.exit(), Some(ExitStatus::Code(5)));
        // Removal follows the answer; the name is free when it is done.
        let mut again = stage.running_when_free(stage.spec("b")).await;
        assert_eq!(again.launch.generation, 1);
        exit(&mut again, 0, b"").await;
        stage.end();
    });
}

#[test]
fn no_room_is_refused_before_anything_is_made() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmms = Vec::new();
        // 6 descriptors each, 2 more for each log up to an eighth of all, 128 beside.
        for number in 0..128 {
            vmms.push(stage.running(stage.spec(&format!("s{number}"))).await);
        }
        let refused = stage.start(stage.spec("one-more")).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::OpenFiles { live: 128, limit: 1024, .. }), "{refused}");
        assert_eq!(guests_within(1024), 128);
        assert!(stage.database.send(GetSandbox(key("one-more"))).await.unwrap().unwrap().is_none());
        stage.end();
    });
}

#[test]
fn a_subscriber_hears_every_durable_change() {
    struct Ear(mpsc::UnboundedSender<Status>);
    impl Actor for Ear {
        type Context = Context<Self>;
    }
    impl Handler<StateChanged> for Ear {
        type Result = ();
        fn handle(&mut self, StateChanged { row }: StateChanged, _: &mut Self::Context) {
            let _ = self.0.send(row.state.status());
        }
    }
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let (tell, mut told) = mpsc::unbounded_channel();
        let recipient = Ear(tell).start().recipient();
        stage.supervisor.send(SubscribeStateChanges { recipient }).await.unwrap();
        let mut vmm = stage.running(stage.spec("a")).await;
        exit(&mut vmm, 0, b"").await;
        for expected in [Status::Starting, Status::Running, Status::Stopping, Status::Stopped] {
            assert_eq!(soon(told.recv()).await, Some(expected));
        }
        stage.end();
    });
}
