//! The database actor with real files.

mod erase;
mod events;
mod images;
mod jobs;
mod projection;
mod renames;
mod retention;
#[cfg(feature = "testing")]
mod takeover;
mod trouble;
mod upgrade;

use std::path::PathBuf;
use std::time::Duration;

use actix::{Actor as _, Addr, Handler, Message, ResponseFuture, System};
use chrono::Utc;
use sandpen_types::event::{EventKind, StoredEvent};
use sandpen_types::health::{HealthState, HealthStatus};
use sandpen_types::history::HistoryPage;
use sandpen_types::row::{SandboxId, SandboxRow};
use sandpen_types::spec::{Rootfs, SandboxKey, SandboxName, SandboxSpec};
use sandpen_types::state::{Event, ExitStatus, FailureReason, SandboxState, Status};
use sandpen_types::transition::{Transition, advance};
use tempfile::TempDir;

use super::*;

fn run<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    System::new().block_on(async { test().await });
}

struct Fixture {
    dir: TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("db")
    }

    async fn open(&self) -> Addr<Database> {
        Database::open(&self.path()).await.unwrap().start()
    }

    /// A file as a version with so many migrations made it.
    async fn of_before(&self, migrations: usize) -> SqlitePoolForTests {
        let path = format!("sqlite://{}?mode=rwc", self.path().display());
        let old = SqlitePoolForTests(sqlx::SqlitePool::connect(&path).await.unwrap());
        let mut first = sqlx::migrate!("./migrations");
        first.migrations = first.migrations.iter().take(migrations).cloned().collect::<Vec<_>>().into();
        first.run(&old.0).await.unwrap();
        old
    }

    /// The connection of another program that has the lock for writing, until `ROLLBACK`.
    async fn locked_by_another(&self) -> sqlx::pool::PoolConnection<sqlx::Sqlite> {
        let mut other = SqlitePoolForTests::open(&self.path()).await.0.acquire().await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *other).await.unwrap();
        other
    }

    async fn refused(&self) -> DatabaseError {
        match Database::open(&self.path()).await {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    }
}

fn spec(name: &str) -> SandboxSpec {
    let mut spec =
        SandboxSpec::new(SandboxName::new(name).unwrap(), Rootfs::Native("/r:x".into()), vec!["/bin/true".into()]);
    spec.env.push(("A".into(), "b".into()));
    spec
}

/// Makes a row that was never started, as earlier versions did before each start, or gives one that is not live
/// another specification.
#[derive(Clone, Message)]
#[rtype(result = "Result<SandboxRow, DatabaseError>")]
struct PutSandbox(SandboxSpec);

impl Handler<PutSandbox> for Database {
    type Result = ResponseFuture<Result<SandboxRow, DatabaseError>>;

    fn handle(&mut self, PutSandbox(spec): PutSandbox, _: &mut Self::Context) -> Self::Result {
        let writer = self.writer.clone();
        Box::pin(async move { sandboxes::upsert(&mut writer.acquire().await.unwrap(), &spec, 7, false).await })
    }
}

async fn add(database: &Addr<Database>, name: &str) -> SandboxRow {
    database.send(PutSandbox(spec(name))).await.unwrap().unwrap()
}

fn start_of(spec: SandboxSpec) -> BeginStart {
    BeginStart {
        spec: spec.into(),
        supervisor_pid: 7,
        driver: "fake".into(),
        boot_id: None,
        again: None,
        requested_at: Utc::now(),
    }
}

async fn step(database: &Addr<Database>, row: &SandboxRow, event: Event) -> SandboxRow {
    let (row, record) = advance(row, &event, Utc::now(), None).unwrap().unwrap();
    database.send(RecordTransition(record)).await.unwrap().unwrap();
    row
}

async fn history(database: &Addr<Database>, sandbox: SandboxId, page: HistoryPage) -> Vec<Transition> {
    database.send(ListTransitions { sandbox, page }).await.unwrap().unwrap()
}

/// Microseconds are what the file keeps.
fn without_times(mut row: SandboxRow) -> SandboxRow {
    row.created_at = Utc::now();
    let fixed = row.created_at;
    row.updated_at = fixed;
    row.started_at = row.started_at.map(|_| fixed);
    row.ended_at = row.ended_at.map(|_| fixed);
    row
}

#[test]
fn a_life_is_projected_onto_the_row_and_survives_reopening() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let mut row = add(&database, "a").await;
        assert_eq!((row.state.clone(), row.seq, row.generation), (SandboxState::Created, 0, 0));
        for event in [
            Event::StartRequested,
            Event::WorkloadStarted,
            Event::WorkloadExited(ExitStatus::Code(42)),
            Event::VmmExited(ExitStatus::Code(0)),
        ] {
            row = step(&database, &row, event).await;
            let stored = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
            let fixed = without_times(row.clone());
            let mut stored = without_times(stored);
            (stored.created_at, stored.updated_at) = (fixed.created_at, fixed.updated_at);
            stored.started_at = stored.started_at.and(fixed.started_at);
            stored.ended_at = stored.ended_at.and(fixed.ended_at);
            assert_eq!(stored, fixed);
        }
        drop(database);
        let database = fixture.open().await;
        let rows = database.send(ListSandboxes).await.unwrap().unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!(rows[0].state, SandboxState::Stopped { exit: ExitStatus::Code(42) });
        let history = history(&database, rows[0].id, HistoryPage::OLDEST).await;
        assert_eq!(history.iter().map(|step| step.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(history[2].state.exit(), Some(ExitStatus::Code(42)));
        assert_eq!(
            database.send(GetSandbox(SandboxKey::new(SandboxName::new("b").unwrap()))).await.unwrap().unwrap(),
            None
        );
    });
}

#[test]
fn people_can_read_the_columns() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let row = step(&database, &row, Event::StartRequested).await;
        step(&database, &row, Event::SpawnFailed(FailureReason::SpawnFailed { message: "no QEMU".into() })).await;
        let pool = SqlitePoolForTests::open(&fixture.path()).await;
        let columns = "SELECT config_file || '|' || name || '|' || status || '|' || rootfs_paths || '|' || failure_reason FROM sandboxes";
        assert_eq!(
            pool.text(columns).await,
            "default|a|FAILED|native:/r\\:x|the microVM could not be started: no QEMU"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(fixture.path()).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    });
}

/// A second connection, as the `sqlite3` shell is.
struct SqlitePoolForTests(sqlx::SqlitePool);

impl SqlitePoolForTests {
    async fn open(path: &std::path::Path) -> Self {
        Self(sqlx::SqlitePool::connect(&format!("sqlite://{}", path.display())).await.unwrap())
    }

    async fn text(&self, sql: &'static str) -> String {
        sqlx::query_scalar(sql).fetch_one(&self.0).await.unwrap()
    }

    async fn execute(&self, sql: &'static str) -> Result<(), sqlx::Error> {
        sqlx::query(sql).execute(&self.0).await.map(drop)
    }
}

#[test]
fn the_history_is_append_only_and_goes_with_its_sandbox() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let row = step(&database, &row, Event::StartRequested).await;
        assert!(matches!(database.send(RemoveSandbox(row.id)).await.unwrap(), Err(DatabaseError::StillLive)));
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        for forbidden in ["UPDATE transitions SET event = 'x'", "DELETE FROM transitions"] {
            assert!(other.execute(forbidden).await.unwrap_err().to_string().contains("append-only"));
        }
        let row = step(&database, &row, Event::SpawnFailed(FailureReason::Lost)).await;
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        assert!(history(&database, row.id, HistoryPage::OLDEST).await.is_empty());
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        assert!(add(&database, "a").await.id > row.id, "a row number was used again");
    });
}

#[test]
fn the_same_number_twice_is_recorded_once_and_an_old_one_does_not_turn_back_the_row() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let (starting, first) = advance(&row, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
        database.send(RecordTransition(first.clone())).await.unwrap().unwrap();
        step(&database, &starting, Event::WorkloadStarted).await;
        database.send(RecordTransition(first)).await.unwrap().unwrap();
        let row = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
        assert_eq!((row.state, row.seq), (SandboxState::Running, 2));
        assert_eq!(history(&database, row.id, HistoryPage::OLDEST).await.len(), 2);
    });
}

#[test]
fn a_new_spec_replaces_an_ended_one_and_no_live_one() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let row = step(&database, &row, Event::StartRequested).await;
        let mut larger = spec("a");
        larger.resources.memory_mib = 512;
        let begin = BeginStart { supervisor_pid: 8, ..start_of(larger) };
        assert!(matches!(database.send(begin.clone()).await.unwrap(), Err(DatabaseError::StillLive)));
        step(&database, &row, Event::SpawnFailed(FailureReason::Lost)).await;
        let again = database.send(begin).await.unwrap().unwrap();
        assert_eq!((again.id, again.spec.resources.memory_mib, again.supervisor_pid), (row.id, 512, 8));
        assert_eq!((again.state, again.generation), (SandboxState::Starting, 2));
    });
}

#[test]
fn one_bad_update_fails_alone() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let mut answers = Vec::new();
        let good = add(&database, "a").await;
        let (_, record) = advance(&good, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
        for sandbox in [good.id, 999] {
            answers.push(database.send(RecordTransition(Transition { sandbox, ..record.clone() })));
        }
        let answers = futures::future::join_all(answers).await;
        assert!(answers[0].as_ref().unwrap().is_ok());
        assert!(matches!(answers[1].as_ref().unwrap(), Err(DatabaseError::UnknownSandbox { sandbox: 999 })));
    });
}

#[test]
fn a_thousand_senders_that_go_away_lose_nothing() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let mut rows = Vec::new();
        for number in 0..1000 {
            rows.push(add(&database, &format!("s{number}")).await);
        }
        for row in &rows {
            let (_, record) = advance(row, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
            database.do_send(RecordTransition(record));
        }
        database.send(Flush).await.unwrap().unwrap();
        let rows = database.send(ListSandboxes).await.unwrap().unwrap();
        assert_eq!(rows.iter().filter(|row| row.state == SandboxState::Starting).count(), 1000);
    });
}

#[test]
fn another_programs_lock_is_waited_for() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let mut other = fixture.locked_by_another().await;
        let (_, record) = advance(&row, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
        let update = tokio::task::spawn_local(database.send(RecordTransition(record)));
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!update.is_finished());
        sqlx::query("ROLLBACK").execute(&mut *other).await.unwrap();
        update.await.unwrap().unwrap().unwrap();
    });
}

#[test]
fn files_that_are_not_ours_are_refused_and_left_alone() {
    run(|| async {
        let fixture = Fixture::new();
        let garbage = b"this is not a database, whatever its name says".repeat(100);
        std::fs::write(fixture.path(), &garbage).unwrap();
        assert!(matches!(fixture.refused().await, DatabaseError::Corrupted { .. }));
        assert_eq!(std::fs::read(fixture.path()).unwrap(), garbage);

        let fixture = Fixture::new();
        let database = fixture.open().await;
        for number in 0..200 {
            add(&database, &format!("s{number}")).await;
        }
        drop(database);
        let pool = SqlitePoolForTests::open(&fixture.path()).await;
        pool.execute("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
        drop(pool);
        let mut bytes = std::fs::read(fixture.path()).unwrap();
        // The pages behind the first; the header stays.
        for byte in bytes.iter_mut().skip(4096).step_by(3) {
            *byte = 0x5a;
        }
        let damaged = tempfile::tempdir().unwrap();
        let damaged = Fixture { dir: damaged };
        std::fs::write(damaged.path(), &bytes).unwrap();
        let refused = damaged.refused().await;
        assert!(matches!(refused, DatabaseError::Corrupted { .. }), "{refused:?}");
    });
}

#[test]
fn a_newer_schema_is_refused() {
    run(|| async {
        let fixture = Fixture::new();
        drop(fixture.open().await);
        let pool = SqlitePoolForTests::open(&fixture.path()).await;
        pool.execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'the future', true, x'00', 0)",
        )
        .await
        .unwrap();
        assert!(matches!(fixture.refused().await, DatabaseError::Newer { version: 9999, .. }));
    });
}

#[test]
fn a_row_that_cannot_be_read_hides_no_other() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        add(&database, "a").await;
        let bad = add(&database, "b").await;
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        other.execute("UPDATE sandboxes SET state = '{}' WHERE name = 'b'").await.unwrap();
        let rows = database.send(ListSandboxes).await.unwrap().unwrap();
        assert_eq!(rows.iter().map(|row| row.spec.key.name.as_str()).collect::<Vec<_>>(), ["a"]);
        let refused = database.send(GetSandbox(bad.spec.key.clone())).await.unwrap();
        assert!(matches!(refused, Err(DatabaseError::Unreadable { column: "state", .. })));
        // Nor is its disk or its microVM taken for nobody's.
        for (status, is_live) in [("STOPPED", false), ("RUNNING", true)] {
            let now = format!("UPDATE sandboxes SET status = '{status}' WHERE name = 'b'");
            sqlx::query(sqlx::AssertSqlSafe(now)).execute(&other.0).await.unwrap();
            let keys = database.send(ListKeys).await.unwrap().unwrap();
            assert_eq!((keys.len(), keys.get(&bad.spec.key)), (2, Some(&is_live)));
        }
    });
}

#[test]
fn a_missing_directory_is_said() {
    run(|| async {
        let fixture = Fixture::new();
        let refused = Database::open(&fixture.path().join("no/db")).await;
        assert!(matches!(refused, Err(DatabaseError::Create { .. })));
    });
}
