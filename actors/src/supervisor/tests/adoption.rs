//! MicroVMs that are found again: by the next monitor, and by the next orchestrator.

use sandpen_types::reconcile::LeftoverKind;

use super::*;

#[test]
fn a_lost_driver_task_is_healed_by_adoption_without_touching_the_microvm() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        vmm.write(OutputStream::Stdout, b"before ").unwrap();
        vmm.hang_up();
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
        assert_eq!(stage.row("a").await.state, SandboxState::Running);
        vmm.write(OutputStream::Stdout, b"after").unwrap();
        let report =
            VmmEvent::WorkloadExited { exit: ExitStatus::Code(0), stdout_bytes: Some(12), stderr_bytes: Some(0) };
        assert!(vmm.tell(report).await);
        assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
        assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        assert_eq!(std::fs::read(stage.dir.path().join("logs/default/a.log")).unwrap(), b"before after");
        stage.end();
    });
}

#[test]
fn a_microvm_whose_row_cannot_be_read_when_its_monitor_is_lost_is_adopted_when_it_can() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut vmm = stage.running(stage.spec("a")).await;
        stage.execute("ALTER TABLE sandboxes RENAME TO elsewhere").await;
        vmm.hang_up();
        // The loss was noticed when there is no monitor to ask, and this answer comes after the supervisor's own.
        let ask = || KillSandbox { key: key("a"), signal: nix::libc::SIGUSR1 };
        while !matches!(soon(stage.supervisor.send(ask())).await.unwrap(), Err(SupervisorError::Database(_))) {
            tokio::task::yield_now().await;
        }
        stage.execute("ALTER TABLE elsewhere RENAME TO sandboxes").await;
        while soon(vmm.next_asked()).await.unwrap() != Asked::Adopted {}
        assert_eq!(stage.row("a").await.state, SandboxState::Running);
        exit(&mut vmm, 0, b"").await;
        assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
        stage.end();
    });
}

#[test]
fn a_microvm_that_cannot_be_found_for_lack_of_descriptors_or_processes_is_not_given_up() {
    on_stage(|| async {
        for (errno, fault) in [(Errno::EMFILE, Fault::OpenFiles), (Errno::EAGAIN, Fault::Processes)] {
            let mut stage = Stage::new().await;
            let mut vmm = stage.running(stage.spec("a")).await;
            stage.driver.hinder_adoption(Some(errno));
            vmm.hang_up();
            let was_tried = async {
                while stage.faults.counters().value(counter_of(fault)) == 0 {
                    tokio::task::yield_now().await;
                }
            };
            soon(was_tried).await;
            assert_eq!(stage.row("a").await.state, SandboxState::Running);
            stage.driver.hinder_adoption(None);
            assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Adopted));
            assert_eq!(stage.faults.active(), []);
            exit(&mut vmm, 0, b"").await;
            assert_eq!(stage.wait("a").await.state, SandboxState::Stopped { exit: ExitStatus::Code(0) });
            stage.end();
        }
    });
}

#[test]
fn the_next_orchestrator_adopts_what_lives_and_resolves_what_does_not() {
    on_stage(|| async {
        let mut first = Stage::new().await;
        let mut lives = first.running(first.spec("lives")).await;
        let gone = first.running(first.spec("gone")).await;
        first.supervisor.send(Shutdown { grace: None }).await.unwrap();
        let refused = first.start(first.spec("late")).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::ShuttingDown));
        let (dir, driver) = (first.dir.clone(), first.driver.clone());
        driver.forget(&gone.launch.runtime_dir);
        let arrivals = std::mem::replace(&mut first.arrivals, mpsc::unbounded_channel().1);
        first.end();

        let second = Stage::on(dir, driver, arrivals).await;
        let report = second.supervisor.send(Reconcile).await.unwrap().unwrap();
        assert_eq!((report.adopted, report.resolved), (vec![key("lives")], vec![key("gone")]));
        assert_eq!(soon(lives.next_asked()).await, Some(Asked::Adopted));
        let row = second.row("gone").await;
        assert_eq!(row.state, SandboxState::Failed { reason: FailureReason::Lost, exit: None });
        assert_eq!(second.row("lives").await.state, SandboxState::Running);
        exit(&mut lives, 3, b"").await;
        assert_eq!(second.wait("lives").await.state, SandboxState::Stopped { exit: ExitStatus::Code(3) });
        second.end();
    });
}

/// As one is that a later version wrote, whose program was then put back.
#[test]
fn an_ended_sandbox_whose_row_cannot_be_read_keeps_its_disk() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        for name in ["kept", "nobodys"] {
            exit(&mut stage.running(stage.spec(name)).await, 0, b"").await;
            stage.wait(name).await;
            let disk = stage.config.state_dir.sandbox_disk(&key(name));
            std::fs::create_dir_all(disk.parent().unwrap()).unwrap();
            std::fs::write(disk, "all its work").unwrap();
        }
        stage.execute("UPDATE sandboxes SET state = '{}' WHERE name = 'kept'").await;
        stage.execute("DELETE FROM sandboxes WHERE name = 'nobodys'").await;
        let stage = stage.succeed().await;
        let has_disk = |name| stage.config.state_dir.sandbox_disk(&key(name)).exists();
        assert!(has_disk("kept") && !has_disk("nobodys"), "what the first reconciliation takes");
        std::fs::write(stage.config.state_dir.sandbox_disk(&key("nobodys")), "").unwrap();
        let report = soon(stage.supervisor.send(Reconcile)).await.unwrap().unwrap();
        let gone: Vec<_> = report.leftovers.iter().map(|leftover| (leftover.kind, &leftover.sandbox)).collect();
        assert_eq!(gone, [(LeftoverKind::Disk, &Some(key("nobodys")))]);
        assert!(has_disk("kept"));
        stage.end();
    });
}
