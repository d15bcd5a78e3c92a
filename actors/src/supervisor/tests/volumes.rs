//! Volumes with names, while sandboxes and supervisors come and go.

use sandpen_types::spec::VolumeName;

use super::*;
#[cfg(feature = "testing")]
use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};

fn name(name: &str) -> VolumeName {
    VolumeName::new(name).unwrap()
}

/// Makes a volume as somebody has left it.
fn volume(stage: &Stage, of: &str) -> std::path::PathBuf {
    let path = StateDir::new(stage.dir.path().to_owned()).named_volume(&name(of));
    std::fs::create_dir_all(path.join("deep/er")).unwrap();
    path
}

#[test]
fn a_removed_volume_is_gone_at_once_and_stays_where_somebody_may_have_it() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let remove = |of: &str| stage.supervisor.send(RemoveVolume { name: name(of) });
        for _ in 0..3 {
            let path = volume(&stage, "data");
            soon(remove("data")).await.unwrap().unwrap();
            assert!(!path.exists());
        }
        assert!(matches!(soon(remove("data")).await.unwrap(), Err(SupervisorError::VolumeNotFound { .. })));
        // All that was set aside goes by itself.
        let volumes = StateDir::new(stage.dir.path().to_owned()).volumes();
        while std::fs::read_dir(&volumes).unwrap().next().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // A row that cannot be read may be the one that has it.
        let mut spec = stage.spec("a");
        spec.volumes = vec!["kept:/data".parse().unwrap()];
        let mut vmm = stage.running(spec).await;
        exit(&mut vmm, 0, b"").await;
        while stage.row("a").await.state.status() != Status::Stopped {
            tokio::task::yield_now().await;
        }
        let (path, other) = (volume(&stage, "kept"), volume(&stage, "other"));
        let remove = |of: &str| stage.supervisor.send(RemoveVolume { name: name(of) });
        assert!(matches!(soon(remove("kept")).await.unwrap(), Err(SupervisorError::VolumeInUse { .. })));
        stage.execute("UPDATE sandboxes SET spec = '{}'").await;
        for of in ["kept", "other"] {
            let refused = soon(remove(of)).await.unwrap().unwrap_err();
            assert!(matches!(refused, SupervisorError::VolumeUsersUnknown { unreadable: 1, .. }), "{refused}");
        }
        assert!(path.exists() && other.exists());
        stage.end();
    });
}

/// Whoever started with it has it, however the removal and the supervisor's end met that.
#[cfg(feature = "testing")]
#[test]
fn a_start_and_a_removal_never_meet_also_where_supervisors_change() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let supervisor = Supervisor::keep_running(stage.config.clone(), || {});
        let (mut started, mut removed) = (0, 0);
        for round in 0..8 {
            let path = volume(&stage, "data");
            let mut spec = stage.spec(&format!("a{round}"));
            spec.volumes = vec!["data:/data".parse().unwrap()];
            let removal = tokio::task::spawn_local(supervisor.send(RemoveVolume { name: name("data") }));
            // Some of the way, which is another one each time.
            for _ in 0..round * 2 {
                tokio::task::yield_now().await;
            }
            let panic = InjectPanic { actor: ActorKind::Supervisor, place: PanicPlace::Handler, sandbox: None };
            assert!(soon(supervisor.send(panic)).await.unwrap());
            let start = StartSandbox::anew(spec.try_into().unwrap());
            let start = tokio::task::spawn_local(supervisor.send(start));
            let end = loop {
                tokio::select! {
                    vmm = stage.arrivals.recv() => break vmm,
                    () = tokio::time::sleep(Duration::from_millis(5)) => if start.is_finished() { break None },
                }
            };
            let removal = soon(removal).await.unwrap().unwrap();
            removed += usize::from(removal.is_ok());
            let Some(mut vmm) = end else {
                let refused = soon(start).await.unwrap().unwrap();
                assert!(matches!(refused, Err(SupervisorError::VolumeLeaves { .. })), "{refused:?}");
                continue;
            };
            started += 1;
            assert!(path.exists(), "round {round}: {removal:?}");
            assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
            soon(start).await.unwrap().unwrap().unwrap();
            exit(&mut vmm, 0, b"").await;
            let key = key(&format!("a{round}"));
            soon(supervisor.send(WaitSandbox { key: key.clone() })).await.unwrap().unwrap();
            assert!(path.exists(), "round {round}: {removal:?}");
            soon(supervisor.send(RemoveSandbox { key, force: true })).await.unwrap().unwrap();
        }
        assert!(started > 0, "{removed} were removed");
        stage.end();
    });
}
