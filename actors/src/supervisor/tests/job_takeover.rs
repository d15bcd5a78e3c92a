//! A keeper that finds jobs on record of which nobody has said that a guest has them.

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sandpen_types::session::{SessionEnd, SessionId, SessionSpec};
use sandpen_types::spec::{ByteString, TerminalSize};
use sandpen_vmm::driver::{DriverError, GuestSession, ProbeOutcome};
use sandpen_vmm::sessions::{GuestSessions, SessionError};

use super::*;
use crate::database::{AddJob, GetJob, JobRow};
use crate::jobs::{AwaitJob, BeginJob, JobError, JobKeeper, KeeperConfig, UseGuest};
use crate::log_writer::OpenLogs;
use crate::testing::fake_sessions::FakeSessions;

/// A guest that has sessions and nothing else.
struct Guest(FakeSessions);

fn nothing<T: 'static>() -> BoxFuture<'static, Result<T, DriverError>> {
    async { Err(DriverError::Unreachable("it has sessions only".to_owned())) }.boxed()
}

impl GuestSession for Guest {
    fn signal_workload(&self, _: i32) -> BoxFuture<'static, Result<(), DriverError>> {
        nothing()
    }

    fn acknowledge_exit(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        nothing()
    }

    fn write_stdin(&self, _: Vec<u8>) -> BoxFuture<'static, Result<(), DriverError>> {
        nothing()
    }

    fn close_stdin(&self) -> BoxFuture<'static, Result<(), DriverError>> {
        nothing()
    }

    fn resize(&self, _: TerminalSize) -> BoxFuture<'static, Result<(), DriverError>> {
        nothing()
    }

    fn probe(&self, _: Vec<ByteString>, _: Duration) -> BoxFuture<'static, Result<ProbeOutcome, DriverError>> {
        nothing()
    }

    fn sessions(&self) -> Result<Arc<dyn GuestSessions>, SessionError> {
        Ok(Arc::new(self.0.clone()))
    }
}

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn exits(code: u8) -> SessionSpec {
    SessionSpec::command(["sh", "-c", &format!("echo {code}; exit {code}")])
}

/// A keeper of a sandbox whose jobs were asked for, all of them, by an earlier one.
async fn keeper(stage: &Stage, numbers: &[u64]) -> (Addr<JobKeeper>, SandboxRow) {
    let row = stage.row("a").await;
    for number in numbers {
        let job = JobRow {
            sandbox: row.id,
            id: id(*number),
            label: "sh".to_owned(),
            terminal: false,
            stdin: false,
            asked_at: chrono::Utc::now(),
            is_begun: false,
            ended: None,
        };
        stage.database.send(AddJob(job)).await.unwrap().unwrap();
    }
    let config = KeeperConfig {
        row: row.clone(),
        state_dir: StateDir::new(stage.dir.path().to_owned()),
        log_arbiter: stage.arbiters[0].handle(),
        open_logs: OpenLogs::default(),
        database: stage.database.clone().into(),
        faults: stage.faults.clone(),
    };
    (host_on(&Arbiter::current(), move || JobKeeper::new(config), |_| {}), row)
}

fn begin(keeper: &Addr<JobKeeper>, number: u64) -> tokio::task::JoinHandle<Result<JobRow, JobError>> {
    let asked = keeper.send(BeginJob { id: id(number), spec: exits(5) });
    tokio::task::spawn_local(async move { asked.await.unwrap() })
}

#[test]
fn what_no_guest_ever_had_is_begun_once_when_it_is_asked_for_again() {
    on_stage(|| async {
        let mut stage = Stage::new().await;
        let _vmm = stage.running(stage.spec("a")).await;
        let guest = Arc::new(Guest(FakeSessions::default()));
        guest.0.open(id(2), exits(6)).await.unwrap();
        let (keeper, row) = keeper(&stage, &[1, 2]).await;
        let (new, twice, had) = (begin(&keeper, 1), begin(&keeper, 1), begin(&keeper, 2));
        // All of them wait for the guest, as whoever knows.
        keeper.send(AwaitJob(id(9))).await.unwrap();
        let found: Arc<dyn GuestSession> = guest.clone();
        keeper.send(UseGuest { guest: Arc::downgrade(&found), is_found: true }).await.unwrap();
        for asked in [new, twice, had] {
            soon(asked).await.unwrap().unwrap();
        }
        for (number, code) in [(1, 5), (2, 6)] {
            soon(keeper.send(AwaitJob(id(number)))).await.unwrap();
            let job = GetJob { sandbox: row.id, id: id(number) };
            let job = stage.database.send(job).await.unwrap().unwrap().expect("it is on record");
            assert_eq!(job.ended.unwrap().1, SessionEnd::Exited(ExitStatus::Code(code)));
            let log = StateDir::new(stage.dir.path().to_owned()).job_log(row.id, id(number));
            assert_eq!(std::fs::read_to_string(log).unwrap(), format!("{code}\n"), "it has run once");
        }
        stage.end();
    });
}
