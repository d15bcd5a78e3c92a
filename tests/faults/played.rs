//! Orchestrators whose microVMs are played by the test.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sandpen::{Sandpen, SandpenBuilder};
use sandpen_actors::testing::fake_driver::{FakeDriver, FakeVmm};
use sandpen_types::spec::{Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen_vmm::driver::{Drivers, VmmEvent};
use tokio::sync::mpsc::UnboundedReceiver;

const DEADLINE: Duration = Duration::from_mins(1);

pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, what).await.expect("within the deadline")
}

pub fn key(name: &str) -> SandboxKey {
    SandboxKey::new(SandboxName::new(name).unwrap())
}

/// Where microVMs that are started come out.
pub type Arrivals = UnboundedReceiver<FakeVmm>;

pub fn orchestrator(builder: SandpenBuilder, dir: &Path) -> (Sandpen, FakeDriver, Arrivals) {
    let (driver, arrivals) = FakeDriver::new();
    let drivers = Drivers::default().with(Arc::new(driver.clone()));
    (builder.state_dir(dir.join("state")).drivers(drivers).start().unwrap(), driver, arrivals)
}

/// The next microVM, whose workload starts.
pub async fn arrived(arrivals: &mut Arrivals) -> FakeVmm {
    let vmm = soon(arrivals.recv()).await.unwrap();
    assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
    vmm
}

/// An orchestrator with a sandbox `a` that runs, and its microVM.
pub async fn running(builder: SandpenBuilder, dir: &Path) -> (Sandpen, FakeVmm) {
    let (sandpen, _driver, mut arrivals) = orchestrator(builder, dir);
    let spec = SandboxSpec { idle: true, ..SandboxSpec::new(key("a"), Rootfs::Native(dir.to_owned()), Vec::new()) };
    let handle = sandpen.handle();
    let started = tokio::spawn(async move { handle.start_sandbox(spec).await });
    let vmm = arrived(&mut arrivals).await;
    soon(started).await.unwrap().unwrap();
    (sandpen, vmm)
}
