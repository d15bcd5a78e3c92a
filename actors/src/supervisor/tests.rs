//! Supervisor and monitors with the fake driver, a real database and real logs.

mod adoption;
mod ends;
mod health;
mod job_takeover;
mod jobs;
mod life;
mod losses;
#[cfg(feature = "testing")]
mod nesting;
#[cfg(feature = "testing")]
mod release;
mod removal_hold;
mod restarts;
mod starts;
#[cfg(feature = "testing")]
mod succession;
mod volumes;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, Addr, Arbiter, Context, Handler, System};
use nix::errno::Errno;
use sandpen_types::fault::Fault;
use sandpen_types::output_stream::OutputStream;
use sandpen_types::row::SandboxRow;
use sandpen_types::spec::{RestartPolicy, Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen_types::start_step::StartStep;
use sandpen_types::state::{ExitStatus, FailureReason, SandboxState, Status};
use sandpen_types::state_dir::StateDir;
use sandpen_vmm::driver::{Drivers, VmmEvent};
use sandpen_vmm::start_timings::LatestTimings;
use tempfile::TempDir;
use tokio::sync::mpsc;

use super::*;
use crate::database::{Database, GetSandbox, ListTransitions};
use crate::monitor::StateChanged;
use crate::runtime::hosting::host_on;
use crate::runtime::intensity::RestartIntensity;
use crate::telemetry::faults::{Faults, counter_of};
use crate::testing::fake_driver::{Asked, FakeDriver, FakeVmm};
use sandpen_types::history::HistoryPage;

const DEADLINE: Duration = Duration::from_secs(20);

/// One orchestrator's worth of actors in a temporary state directory.
struct Stage {
    supervisor: Addr<Supervisor>,
    config: SupervisorConfig,
    database: Addr<Database>,
    driver: FakeDriver,
    arrivals: mpsc::UnboundedReceiver<FakeVmm>,
    dir: Arc<TempDir>,
    faults: Faults,
    timings: LatestTimings,
    arbiters: Vec<Arbiter>,
}

impl Stage {
    async fn new() -> Self {
        let (driver, arrivals) = FakeDriver::new();
        Self::on(Arc::new(tempfile::tempdir().unwrap()), driver, arrivals).await
    }

    async fn on(dir: Arc<TempDir>, driver: FakeDriver, arrivals: mpsc::UnboundedReceiver<FakeVmm>) -> Self {
        let state_dir = StateDir::new(dir.path().to_owned());
        let arbiters = vec![Arbiter::new()];
        let faults = Faults::default();
        let database = Database::open(&state_dir.database()).await.unwrap();
        let database = host_on(&Arbiter::current(), move || database, |_| {});
        let timings = LatestTimings::default();
        let config = SupervisorConfig {
            uids: None,
            state_dir,
            state_id: format!("test-{}", dir.path().file_name().unwrap().to_string_lossy()),
            drivers: Drivers::default().with(Arc::new(driver.clone())),
            database: database.clone().into(),
            control_arbiter: Arbiter::current(),
            log_arbiters: arbiters.iter().map(Arbiter::handle).collect(),
            supervisor_pid: std::process::id(),
            open_files_limit: 1024,
            reserve: None,
            faults: faults.clone(),
            timings: timings.clone(),
            intensity: RestartIntensity::default(),
        };
        let kept = config.clone();
        let supervisor = host_on(&Arbiter::current(), move || Supervisor::new(kept), |_| {});
        Self { supervisor, config, database, driver, arrivals, dir, faults, timings, arbiters }
    }

    fn spec(&self, name: &str) -> SandboxSpec {
        let rootfs = Rootfs::Native(self.dir.path().to_owned());
        SandboxSpec::new(SandboxName::new(name).unwrap(), rootfs, vec!["/bin/true".into()])
    }

    fn start(&self, spec: SandboxSpec) -> actix::prelude::Request<Supervisor, StartSandbox> {
        self.supervisor.send(StartSandbox::anew(spec.try_into().unwrap()))
    }

    async fn arrival(&mut self) -> FakeVmm {
        soon(self.arrivals.recv()).await.unwrap()
    }

    /// Starts a sandbox up to RUNNING.
    async fn running(&mut self, spec: SandboxSpec) -> FakeVmm {
        let request = tokio::task::spawn_local(self.start(spec));
        let vmm = self.arrival().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        let row = soon(request).await.unwrap().unwrap().unwrap();
        assert_eq!(row.state, SandboxState::Running);
        vmm
    }

    /// As [`Stage::running`], for a name that is being cleaned up.
    async fn running_when_free(&mut self, spec: SandboxSpec) -> FakeVmm {
        let (supervisor, wanted) = (self.supervisor.clone(), sandpen_types::spec::CheckedSpec::try_from(spec).unwrap());
        let request = tokio::task::spawn_local(async move {
            loop {
                match supervisor.send(StartSandbox::anew(wanted.clone())).await.unwrap() {
                    Err(SupervisorError::AlreadyLive { .. } | SupervisorError::BeingRemoved { .. }) => {
                        tokio::task::yield_now().await;
                    }
                    started => break started,
                }
            }
        });
        let vmm = self.arrival().await;
        assert!(vmm.tell(VmmEvent::WorkloadStarted).await);
        soon(request).await.unwrap().unwrap();
        vmm
    }

    async fn row(&self, name: &str) -> SandboxRow {
        self.database.send(GetSandbox(key(name))).await.unwrap().unwrap().unwrap()
    }

    async fn wait(&self, name: &str) -> SandboxRow {
        soon(self.supervisor.send(WaitSandbox { key: key(name) })).await.unwrap().unwrap()
    }

    /// A statement of another program.
    async fn execute(&self, sql: &'static str) {
        let path = self.dir.path().join("sandpen.db");
        let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        sqlx::query(sql).execute(&pool).await.unwrap();
    }

    /// Another program takes the lock for writing.
    async fn lock_database(&self) -> Lock {
        let path = self.dir.path().join("sandpen.db");
        let pool = sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await.unwrap();
        Lock(connection)
    }

    fn end(self) {
        for arbiter in self.arbiters {
            arbiter.stop();
            arbiter.join().unwrap();
        }
    }
}

struct Lock(sqlx::pool::PoolConnection<sqlx::Sqlite>);

impl Lock {
    async fn release(mut self) {
        sqlx::query("ROLLBACK").execute(&mut *self.0).await.unwrap();
    }
}

/// How many wait for something of a sandbox.
#[derive(actix::Message)]
#[rtype(result = "usize")]
struct CountWaiting(SandboxKey);

impl Handler<CountWaiting> for Supervisor {
    type Result = usize;

    fn handle(&mut self, CountWaiting(key): CountWaiting, _: &mut Self::Context) -> usize {
        self.children.get_mut(&key).map_or(0, |child| {
            // One more who waits takes the place of those who left.
            drop((child.ended(), child.hosted()));
            child.until_ended.len() + child.until_hosted.len() - 1
        })
    }
}

fn key(name: &str) -> SandboxKey {
    SandboxKey::new(SandboxName::new(name).unwrap())
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("nothing happened before the deadline")
}

fn on_stage<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    System::new().block_on(async { test().await });
}

/// The guest's whole farewell.
async fn exit(vmm: &mut FakeVmm, code: i32, out: &[u8]) {
    vmm.write(OutputStream::Stdout, out).unwrap();
    let report = VmmEvent::WorkloadExited {
        exit: ExitStatus::Code(code),
        stdout_bytes: Some(out.len() as u64),
        stderr_bytes: Some(0),
    };
    assert!(vmm.tell(report).await);
    assert_eq!(soon(vmm.next_asked()).await, Some(Asked::AcknowledgeExit));
    assert!(vmm.tell(VmmEvent::VmmExited(ExitStatus::Code(0))).await);
    assert_eq!(soon(vmm.next_asked()).await, Some(Asked::Release));
}
