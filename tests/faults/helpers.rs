//! What is asked of the files of a sandbox that has ended: a helper with its root and disk does it, and nobody else has those
//! meanwhile.

use std::path::Path;

use sandpen::session::{SessionEnd, SessionProgram, SessionSpec};
use sandpen::{Handle, Sandpen, SandpenError};
use sandpen_actors::supervisor::SupervisorError;
use sandpen_actors::testing::fake_driver::{Asked, FakeVmm};
use sandpen_types::guest_tool::GuestTool;
use sandpen_types::spec::{Rootfs, SandboxSpec};
use sandpen_types::state::ExitStatus;
use sandpen_vmm::driver::VmmEvent;

use crate::played::{Arrivals, arrived, key, orchestrator, soon};

fn changes() -> SessionSpec {
    SessionSpec::new(SessionProgram::Tool(GuestTool::Changes))
}

/// A microVM ends as it does whose workload ends; what was asked of it until all is released.
async fn end(vmm: &mut FakeVmm) {
    let exit = ExitStatus::Code(3);
    vmm.tell(VmmEvent::WorkloadExited { exit, stdout_bytes: Some(0), stderr_bytes: Some(0) }).await;
    while soon(vmm.next_asked()).await != Some(Asked::AcknowledgeExit) {}
    vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await;
    while soon(vmm.next_asked()).await != Some(Asked::Release) {}
}

/// A sandbox that has ended.
async fn ended(handle: &Handle, dir: &Path, arrivals: &mut Arrivals, name: &str) {
    let spec = SandboxSpec::new(key(name), Rootfs::Overlayfs(vec![dir.to_owned()]), vec!["sh".into()]);
    let starter = handle.clone();
    let started = tokio::spawn(async move { starter.start_sandbox(spec).await });
    let mut vmm = arrived(arrivals).await;
    soon(started).await.unwrap().unwrap();
    end(&mut vmm).await;
    soon(handle.wait(&key(name))).await.ok();
}

#[tokio::test]
async fn a_helper_has_the_files_of_an_ended_sandbox_and_goes() {
    let dir = tempfile::tempdir().unwrap();
    let (sandpen, _driver, mut arrivals) = orchestrator(Sandpen::builder(), dir.path());
    let handle = sandpen.handle();
    ended(&handle, dir.path(), &mut arrivals, "a").await;
    let asking = handle.clone();
    let asked = tokio::spawn(async move { asking.exec(&key("a"), changes()).await });
    let mut helper = arrived(&mut arrivals).await;
    assert_eq!(helper.launch.spec.helper_of, Some(key("a")));
    assert_eq!(helper.launch.spec.rootfs, Rootfs::Overlayfs(vec![dir.path().canonicalize().unwrap()]));
    let mut session = soon(asked).await.unwrap().unwrap();
    assert_eq!(soon(session.wait()).await.unwrap(), SessionEnd::Exited(ExitStatus::Code(0)));
    // It is there for its files alone, and nobody sees it.
    let refused = soon(handle.exec(&key("a"), SessionSpec::command(["true"]))).await;
    assert!(matches!(refused, Err(SandpenError::Supervisor(SupervisorError::NotLive { .. }))), "{refused:?}");
    let names: Vec<_> = soon(handle.list()).await.unwrap().iter().map(|row| row.spec.key.clone()).collect();
    assert_eq!(names, [key("a")]);
    // A start has to wait until it goes, which it does by itself.
    let starter = handle.clone();
    let started = tokio::spawn(async move { starter.start_again(&key("a")).await });
    while !matches!(soon(helper.next_asked()).await, Some(Asked::SignalWorkload(15))) {}
    assert!(arrivals.try_recv().is_err(), "its disk is the helper's");
    end(&mut helper).await;
    let mut again = arrived(&mut arrivals).await;
    assert_eq!(again.launch.spec.key, key("a"));
    soon(started).await.unwrap().unwrap();
    end(&mut again).await;
    soon(sandpen.shutdown(None)).await.unwrap();
}

#[tokio::test]
async fn a_removal_waits_for_a_helper_and_one_that_does_not_start_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let (sandpen, driver, mut arrivals) = orchestrator(Sandpen::builder(), dir.path());
    let handle = sandpen.handle();
    let missing = soon(handle.exec(&key("a"), changes())).await;
    assert!(matches!(missing, Err(SandpenError::Supervisor(SupervisorError::NotFound { .. }))), "{missing:?}");
    ended(&handle, dir.path(), &mut arrivals, "a").await;
    driver.refuse(Some("no microVM today"));
    let refused = soon(handle.exec(&key("a"), changes())).await.unwrap_err();
    assert!(refused.to_string().contains("no microVM today"), "{refused}");
    driver.refuse(None);
    let asking = handle.clone();
    let asked = tokio::spawn(async move { asking.exec(&key("a"), changes()).await });
    let mut helper = arrived(&mut arrivals).await;
    let mut session = soon(asked).await.unwrap().unwrap();
    let remover = handle.clone();
    let removed = tokio::spawn(async move { remover.remove(&key("a"), false).await });
    soon(session.wait()).await.unwrap();
    while !matches!(soon(helper.next_asked()).await, Some(Asked::SignalWorkload(15))) {}
    assert!(soon(handle.get(&key("a"))).await.unwrap().is_some());
    end(&mut helper).await;
    soon(removed).await.unwrap().unwrap();
    assert!(soon(handle.get(&key("a"))).await.unwrap().is_none());
    soon(sandpen.shutdown(None)).await.unwrap();
}
