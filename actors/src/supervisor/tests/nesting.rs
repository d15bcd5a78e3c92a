//! Sandboxes whose directories lie in each other.

use sandpen_types::spec::Volume;

use super::*;
use crate::testing::panic::{ActorKind, InjectPanic, PanicPlace};

impl Stage {
    /// A sandbox over a layer of its own, with this directory, which is made.
    fn with_volume(&self, name: &str, path: &str, read_only: bool) -> SandboxSpec {
        let base = self.dir.path().canonicalize().unwrap();
        for directory in ["layer", path] {
            std::fs::create_dir_all(base.join(directory)).unwrap();
        }
        let volume = Volume::of_host(base.join(path), "/data", read_only);
        let rootfs = Rootfs::Overlayfs(vec![base.join("layer")]);
        SandboxSpec { rootfs, volumes: vec![volume], ..self.spec(name) }
    }

    /// What a start is refused with.
    async fn refused(&self, spec: SandboxSpec) -> String {
        let name = spec.key.name.clone();
        let refused = soon(self.start(spec)).await.unwrap().unwrap_err();
        assert!(matches!(refused, SupervisorError::Nested(_)), "{refused}");
        assert_eq!(self.database.send(GetSandbox(SandboxKey::new(name))).await.unwrap().unwrap(), None);
        refused.to_string()
    }
}

#[test]
fn nothing_starts_where_another_ones_guest_could_put_something_else_in_its_place() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let mut outer = stage.running(stage.with_volume("outer", "share", false)).await;
        let told = stage.refused(stage.with_volume("inner", "share/a", true)).await;
        assert!(told.contains("default/inner") && told.contains("default/outer") && told.contains("share/a"), "{told}");
        // By another way to the same place.
        let inner = stage.with_volume("inner", "share/a", true);
        std::os::unix::fs::symlink("share", stage.dir.path().join("link")).unwrap();
        let mut linked = inner.clone();
        linked.volumes[0] = Volume::of_host(stage.dir.path().join("layer/../link/a"), "/data", true);
        stage.refused(linked).await;
        assert_eq!(stage.faults.counters().value(crate::telemetry::counters::Counter::RefusedSpec), 2);
        // The same directory, and one beside it.
        let mut twin = stage.running(stage.with_volume("twin", "share", false)).await;
        let mut beside = stage.running(stage.with_volume("beside", "sharex", false)).await;
        for vmm in [&mut outer, &mut twin] {
            exit(vmm, 0, b"").await;
        }
        stage.wait("outer").await;
        stage.wait("twin").await;
        let mut inner = stage.running(inner).await;
        // Around one that is there.
        let told = stage.refused(stage.with_volume("outer-2", "share", false)).await;
        assert!(told.contains("stop sandbox default/inner"), "{told}");
        let mut reader = stage.running(stage.with_volume("reader", "share", true)).await;
        for vmm in [&mut inner, &mut reader, &mut beside] {
            exit(vmm, 0, b"").await;
        }
        stage.wait("inner").await;
        stage.end();
    });
}

#[test]
fn of_two_starts_at_the_same_time_one_is_refused_and_an_adopted_sandbox_counts() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let (outer, inner) = (stage.with_volume("outer", "share", false), stage.with_volume("inner", "share/a", true));
        let both = tokio::task::spawn_local(futures::future::join(stage.start(outer), stage.start(inner.clone())));
        let vmm = stage.arrival().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        let (outer, inner_too) = soon(both).await.unwrap();
        let started = [outer.unwrap().is_ok(), inner_too.unwrap().is_ok()];
        assert_eq!(started.iter().filter(|started| **started).count(), 1, "{started:?}");
        let others = match started[0] {
            true => inner,
            false => stage.with_volume("outer", "share", false),
        };
        let stage = stage.succeed().await;
        let told = stage.refused(others).await;
        assert!(told.contains("can write to"), "{told}");
        drop(vmm);
        stage.end();
    });
}

#[test]
fn a_restart_that_would_be_nested_by_now_fails_with_the_reason() {
    nested_restart(PanicPlace::Handler);
}

/// The monitor that was told of the refusal panics, and the next one looks for the microVM.
#[test]
fn a_nested_restart_is_refused_by_the_next_monitor_too() {
    nested_restart(PanicPlace::Factory);
}

/// A restart after the loss of a monitor at this place.
fn nested_restart(place: PanicPlace) {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let backoff = sandpen_types::spec::RestartBackoff { initial: Duration::ZERO, ..Default::default() };
        let policy = RestartPolicy::OnFailure { max: Some(1) };
        let outer =
            SandboxSpec { restart: policy, restart_backoff: backoff, ..stage.with_volume("outer", "share", false) };
        stage.driver.hold_releases(true);
        let mut vmm = stage.running(outer).await;
        exit(&mut vmm, 1, b"").await;
        // It has ended, and its next start is not decided yet.
        let mut inner = stage.running(stage.with_volume("inner", "share/a", true)).await;
        stage.driver.hold_releases(false);
        stage.driver.forget(&vmm.launch.runtime_dir);
        let panic = InjectPanic { actor: ActorKind::Monitor, place, sandbox: Some(key("outer")) };
        assert!(soon(stage.supervisor.send(panic)).await.unwrap());
        let row = stage.wait("outer").await;
        let SandboxState::Failed { reason: FailureReason::SpawnFailed { message }, .. } = &row.state else {
            panic!("{row:?}");
        };
        assert!(message.contains("default/inner") && message.contains("can write to"), "{message}");
        assert_eq!(row.restarts, 1);
        exit(&mut inner, 0, b"").await;
        stage.wait("inner").await;
        stage.end();
    });
}
