//! Supervisor and monitors with the fake driver, a real database and real logs.

mod ends;
mod health;
mod losses;
#[cfg(feature = "testing")]
mod release;
mod removal_hold;
mod restarts;
#[cfg(feature = "testing")]
mod succession;

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

const DEADLINE: Duration = Duration::from_secs(20);

/// One orchestrator's worth of actors in a temporary state directory.
struct Stage {
    supervisor: Addr<Supervisor>,
    #[cfg(feature = "testing")]
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
        Self {
            supervisor,
            #[cfg(feature = "testing")]
            config,
            database,
            driver,
            arrivals,
            dir,
            faults,
            timings,
            arbiters,
        }
    }

    fn spec(&self, name: &str) -> SandboxSpec {
        let rootfs = Rootfs::Native(self.dir.path().to_owned());
        SandboxSpec::new(SandboxName::new(name).unwrap(), rootfs, vec!["/bin/true".into()])
    }

    fn start(&self, spec: SandboxSpec) -> actix::prelude::Request<Supervisor, StartSandbox> {
        self.supervisor.send(StartSandbox { spec: spec.try_into().unwrap() })
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
                match supervisor.send(StartSandbox { spec: wanted.clone() }).await.unwrap() {
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
        let history = stage.database.send(ListTransitions(row.id)).await.unwrap().unwrap();
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
        let stop = StopSandbox { key: key("asked"), grace: DEADLINE };
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
        let stop = StopSandbox { key: key("a"), grace: Duration::from_millis(50) };
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
        let stop = StopSandbox { key: key("a"), grace: DEADLINE };
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
        assert!(matches!(refused, SupervisorError::AlreadyLive { .. }));
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
