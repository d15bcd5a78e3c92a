//! Jobs, which end with their sandbox at the latest.

use chrono::{DateTime, TimeDelta};
use sandpen_types::session::{SessionEnd, SessionId};

use super::*;

fn id(number: u64) -> SessionId {
    SessionId::new(number).unwrap()
}

fn job(sandbox: SandboxId, number: u64) -> JobRow {
    let asked_at = DateTime::UNIX_EPOCH + TimeDelta::seconds(number.cast_signed());
    let label = "sh -c '\u{1b}\n\u{fffd}'".to_owned();
    JobRow { sandbox, id: id(number), label, terminal: true, stdin: false, asked_at, is_begun: false, ended: None }
}

async fn list(database: &Addr<Database>, sandbox: SandboxId) -> Vec<JobRow> {
    database.send(ListJobs(sandbox)).await.unwrap().unwrap()
}

#[test]
fn a_job_is_recorded_once_and_ends_once() {
    run(async || {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let (one, two) = (add(&database, "one").await.id, add(&database, "two").await.id);
        for number in [3, 1] {
            database.send(AddJob(job(one, number))).await.unwrap().unwrap();
        }
        // The message may have been sent again, and another sandbox may have the same number.
        database.send(AddJob(JobRow { label: "other".to_owned(), ..job(one, 1) })).await.unwrap().unwrap();
        database.send(AddJob(job(two, 1))).await.unwrap().unwrap();
        assert_eq!(list(&database, one).await, [job(one, 1), job(one, 3)]);
        assert!(matches!(
            database.send(AddJob(job(99, 1))).await.unwrap(),
            Err(DatabaseError::UnknownSandbox { sandbox: 99 })
        ));
        database.send(MarkJobBegun { sandbox: one, id: id(1) }).await.unwrap().unwrap();
        let at = DateTime::UNIX_EPOCH + TimeDelta::microseconds(7);
        let end = SessionEnd::NotStarted { code: 127, message: "no \u{0} such".to_owned() };
        for (number, end) in [(1, end.clone()), (1, SessionEnd::Gone), (7, SessionEnd::Gone)] {
            database.send(EndJob { sandbox: one, id: id(number), at, end }).await.unwrap().unwrap();
        }
        let ended = JobRow { is_begun: true, ended: Some((at, end)), ..job(one, 1) };
        let get = |number| GetJob { sandbox: one, id: id(number) };
        assert_eq!(database.send(get(1)).await.unwrap().unwrap(), Some(ended.clone()));
        assert_eq!(database.send(get(2)).await.unwrap().unwrap(), None);
        // Of two writers of one file the next one reads the same.
        let again = fixture.open().await;
        assert_eq!(list(&again, one).await, [ended, job(one, 3)]);
        again.send(RemoveJobs { sandbox: one, ids: vec![id(1), id(3), id(9)] }).await.unwrap().unwrap();
        assert_eq!((list(&again, one).await, list(&again, two).await.len()), (vec![], 1));
        again.send(RemoveSandbox(two)).await.unwrap().unwrap();
        assert_eq!(list(&again, two).await, []);
    });
}

#[test]
fn the_last_end_is_the_latest_wherever_the_clock_was_set() {
    run(async || {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let (one, two) = (add(&database, "one").await.id, add(&database, "two").await.id);
        let time = |seconds| DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds);
        for (sandbox, number, at) in [(one, 4, 100), (one, 3, 50), (one, 2, 100), (one, 1, 200), (two, 1, 50)] {
            database.send(AddJob(job(sandbox, number))).await.unwrap().unwrap();
            let ended = EndJob { sandbox, id: id(number), at: time(at), end: SessionEnd::Gone };
            database.send(ended).await.unwrap().unwrap();
        }
        let ended = |jobs: Vec<JobRow>| jobs.into_iter().map(|job| job.ended.unwrap().0).collect::<Vec<_>>();
        let later = |micros| time(100) + TimeDelta::microseconds(micros);
        assert_eq!(ended(list(&database, one).await), [time(200), later(2), later(1), later(0)]);
        assert_eq!(ended(list(&database, two).await), [time(50)], "each sandbox has its own");
    });
}

#[test]
fn what_nobody_heard_of_is_gone_with_the_sandboxs_end_and_not_before() {
    run(async || {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = database.send(start_of(spec("one"))).await.unwrap().unwrap();
        let row = step(&database, &row, Event::WorkloadStarted).await;
        for number in [1, 2] {
            database.send(AddJob(job(row.id, number))).await.unwrap().unwrap();
        }
        let end = SessionEnd::Exited(ExitStatus::Code(3));
        let ended = EndJob { sandbox: row.id, id: id(1), at: Utc::now(), end: end.clone() };
        database.send(ended).await.unwrap().unwrap();
        let row = step(&database, &row, Event::WorkloadExited(ExitStatus::Code(0))).await;
        assert!(list(&database, row.id).await[1].ended.is_none(), "its microVM is still there");
        let row = step(&database, &row, Event::VmmExited(ExitStatus::Code(0))).await;
        let ends = list(&database, row.id).await.into_iter().map(|job| job.ended.map(|(_, end)| end));
        assert_eq!(ends.collect::<Vec<_>>(), [Some(end), Some(SessionEnd::Gone)]);
    });
}

/// A file of before has none, and takes some.
#[test]
fn a_file_of_before_has_no_jobs() {
    run(async || {
        let fixture = Fixture::new();
        let old = fixture.of_before(8).await;
        let row = spec("old");
        sqlx::query(
            r#"INSERT INTO sandboxes (config_file, name, status, supervisor_pid, rootfs_paths, state, spec, created_at, updated_at)
               VALUES ('default', 'old', 'STOPPED', 1, 'native:/', '{"status":"CREATED"}', ?1,
                       '2026-01-01T00:00:00.000000Z', '2026-01-01T00:00:00.000000Z')"#,
        )
        .bind(serde_json::to_string(&row).unwrap())
        .execute(&old.0)
        .await
        .unwrap();
        old.0.close().await;
        let database = fixture.open().await;
        assert_eq!(list(&database, 1).await, []);
        database.send(AddJob(job(1, 1))).await.unwrap().unwrap();
        // One row that cannot be read hides no other.
        database.send(AddJob(job(1, 2))).await.unwrap().unwrap();
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        other.execute("UPDATE jobs SET ended_at = 'never', how = 'x' WHERE id = '0000000000000001'").await.unwrap();
        assert_eq!(list(&database, 1).await, [job(1, 2)]);
    });
}
