//! Starts that are under way: given up, refused, found by the next orchestrator.

use sandpen_types::state::StoppedBy;

use super::ends::stop;
use super::*;

#[test]
fn a_start_that_takes_long_is_given_up_by_a_stop_and_by_a_kill() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        stage.driver.hold_launches(true);
        for (held, (name, kills)) in [("a", false), ("b", true)].into_iter().enumerate() {
            let mut spec = stage.spec(name);
            spec.restart = RestartPolicy::Always;
            let start = tokio::task::spawn_local(stage.start(spec));
            while stage.driver.launches_held() == held {
                tokio::task::yield_now().await;
            }
            let row = match kills {
                true => soon(stage.supervisor.send(KillSandbox { key: key(name), signal: 9 })).await,
                false => soon(stop(&stage, name, Duration::from_hours(1))).await,
            };
            let row = row.unwrap().unwrap();
            let signal = if kills { 9 } else { 15 };
            assert_eq!(row.state, SandboxState::Stopped { exit: ExitStatus::Signal(signal) });
            assert_eq!(row.stopped_by, Some(StoppedBy::Request));
            assert_eq!(soon(start).await.unwrap().unwrap().unwrap().state, row.state);
        }
        // The names are free.
        stage.driver.hold_launches(false);
        let mut vmm = stage.running_when_free(stage.spec("a")).await;
        exit(&mut vmm, 0, b"").await;
        stage.wait("a").await;
        stage.end();
    });
}

/// A handle looks at images; whoever asks the supervisor itself has to have done so.
#[test]
fn an_image_that_was_not_looked_at_is_refused() {
    on_stage(|| async {
        let stage = Stage::new().await;
        let mut spec = stage.spec("a");
        spec.rootfs = Rootfs::Image(sandpen_types::spec::ImageRoot::new("debian".parse().unwrap()));
        spec.command.clear();
        let refused = soon(stage.start(spec)).await.unwrap().unwrap_err();
        assert!(refused.to_string().contains("image debian:latest was not looked at yet"), "{refused}");
        stage.end();
    });
}

#[test]
fn a_start_that_is_still_being_checked_is_given_up_and_changes_nothing() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        exit(&mut vmm, 3, b"kept").await;
        let before = stage.wait("a").await;
        stage.driver.hold_checks(true);
        let mut spec = stage.spec("a");
        spec.remove_on_end = true;
        let start = tokio::task::spawn_local(stage.start(spec));
        let refused = loop {
            // Until the supervisor has seen the start, there is nothing to stop.
            match soon(stop(&stage, "a", Duration::ZERO)).await.unwrap() {
                Err(SupervisorError::NotLive { .. }) if start.is_finished() => break true,
                Err(SupervisorError::NotLive { .. }) => tokio::task::yield_now().await,
                other => panic!("{other:?}"),
            }
        };
        assert!(refused);
        let given_up = soon(start).await.unwrap().unwrap().unwrap_err();
        assert!(matches!(given_up, SupervisorError::GivenUp { .. }), "{given_up}");
        assert_eq!(stage.row("a").await, before);
        assert_eq!(std::fs::read(stage.dir.path().join("logs/default/a.log")).unwrap(), b"kept");
        stage.end();
    });
}

/// Clients that ask and leave, for as long as a sandbox lives.
#[test]
fn waits_that_were_given_up_leave_nothing_behind() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        for _ in 0..1000 {
            let after = vmm.launch.generation;
            let asked = stage.supervisor.send(WaitSandbox { key: key("a") });
            let hosted = stage.supervisor.send(AwaitRestart { key: key("a"), after });
            let stopped = tokio::time::timeout(Duration::ZERO, async { tokio::join!(asked, hosted) });
            assert!(stopped.await.is_err());
        }
        let patient = tokio::task::spawn_local(stage.supervisor.send(WaitSandbox { key: key("a") }));
        let left = loop {
            let left = stage.supervisor.send(CountWaiting(key("a"))).await.unwrap();
            if left <= 2 {
                break left;
            }
            tokio::task::yield_now().await;
        };
        assert!(left >= 1, "the one who stays is among them");
        exit(&mut vmm, 0, b"").await;
        assert_eq!(soon(patient).await.unwrap().unwrap().unwrap().state.status(), Status::Stopped);
        stage.end();
    });
}

/// A start whose record is refused leaves the row and the files of the earlier run.
#[test]
fn a_start_is_on_record_as_a_whole_or_not_at_all() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        exit(&mut vmm, 3, b"kept").await;
        let before = stage.wait("a").await;
        let disk = StateDir::new(stage.dir.path().to_owned()).sandbox_disk(&key("a"));
        std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
        std::fs::write(&disk, "of the earlier run").unwrap();
        stage
            .execute(
                "CREATE TRIGGER no_start BEFORE INSERT ON transitions WHEN NEW.status = 'STARTING'
                 BEGIN SELECT RAISE(ABORT, 'not now'); END",
            )
            .await;
        let mut spec = stage.spec("a");
        spec.remove_on_end = true;
        let refused = soon(stage.start(spec.clone())).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::Database(_)), "{refused}");
        assert_eq!(stage.row("a").await, before);
        assert!(disk.exists());
        let report = stage.supervisor.send(Reconcile).await.unwrap().unwrap();
        assert!(report.leftovers.iter().all(|leftover| leftover.sandbox != Some(key("a"))), "{report:?}");
        assert_eq!(stage.row("a").await, before);
        stage.execute("DROP TRIGGER no_start").await;
        let mut vmm = stage.running(spec).await;
        assert!(!disk.exists(), "the disk of an earlier run goes before the launch");
        exit(&mut vmm, 0, b"").await;
        stage.end();
    });
}

/// The orchestrator ends while a microVM is being made: the next one finds it, not half of it.
#[test]
fn a_launch_that_is_under_way_is_there_for_the_next_orchestrator() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        stage.driver.hold_launches(true);
        let start = tokio::task::spawn_local(stage.start(stage.spec("a")));
        while stage.driver.launches_held() == 0 {
            tokio::task::yield_now().await;
        }
        let ended = tokio::task::spawn_local(stage.supervisor.send(Shutdown { grace: None }));
        tokio::task::yield_now().await;
        stage.driver.let_go();
        let mut vmm = stage.arrival().await;
        assert!(soon(ended).await.unwrap().unwrap().is_empty());
        drop(start);
        stage.driver.hold_launches(false);
        let stage = stage.succeed().await;
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        exit(&mut vmm, 5, b"").await;
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(5) });
        stage.end();
    });
}
