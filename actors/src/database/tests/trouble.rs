//! A host that cannot write, rows that cannot be written, and what is written only with something else.

use super::*;

async fn starting(database: &Addr<Database>, name: &str) -> SandboxRow {
    let begin = BeginStart { boot_id: Some("boot".into()), ..start_of(spec(name)) };
    database.send(begin).await.unwrap().unwrap()
}

fn is_locked<T: std::fmt::Debug>(answer: &Result<Result<T, DatabaseError>, actix::MailboxError>) -> bool {
    let Ok(Err(error)) = answer else { panic!("{answer:?}") };
    error.fault() == Some(sandpen_types::fault::Fault::DatabaseLocked)
}

/// Everybody waits for the same lock, nobody for the others' turns: 200 updates one after the other would take
/// 1,000 s.
#[test]
fn a_locked_file_refuses_everybody_at_once() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let mut updates = Vec::new();
        for number in 0..200 {
            let row = starting(&database, &format!("s{number}")).await;
            updates.push(advance(&row, &Event::WorkloadStarted, Utc::now(), None).unwrap().unwrap().1);
        }
        let other = fixture.locked_by_another().await;
        let answers =
            futures::future::join_all(updates.iter().map(|update| database.send(RecordTransition(update.clone()))));
        let begin = database.send(start_of(spec("new")));
        let removal = database.send(RemoveSandbox(1));
        let event = database.send(RecordEvent::now(None, EventKind::LogRecovered {}));
        let all = async { tokio::join!(answers, begin, removal, event) };
        let (answers, begin, removal, event) =
            tokio::time::timeout(Duration::from_mins(1), all).await.expect("they wait one after the other");
        assert!(answers.iter().all(is_locked) && is_locked(&begin) && is_locked(&removal) && is_locked(&event));
        let keys = database.send(ListKeys).await.unwrap().unwrap();
        assert_eq!(keys.len(), 200, "questions are answered meanwhile");
        drop(other);
        // Sent again, all of it is written.
        for update in updates {
            database.do_send(RecordTransition(update));
        }
        database.send(Flush).await.unwrap().unwrap();
        let rows = database.send(ListSandboxes).await.unwrap().unwrap();
        assert!(rows.iter().all(|row| row.state == SandboxState::Running));
    });
}

/// In one batch with good ones of every kind.
#[test]
fn a_row_at_fault_fails_alone_among_others_of_every_kind() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let (live, ended) = (starting(&database, "live").await, starting(&database, "ended").await);
        let ended = step(&database, &ended, Event::SpawnFailed(FailureReason::Lost)).await;
        let (_, good) = advance(&live, &Event::WorkloadStarted, Utc::now(), None).unwrap().unwrap();
        let bad = RecordTransition(Transition { sandbox: 999, ..good.clone() });
        let other = fixture.locked_by_another().await;
        // Waits for the lock; what comes now is the next batch.
        let first = database.send(RecordEvent::now(None, EventKind::LogRecovered {}));
        let begin = |name| BeginStart { supervisor_pid: 8, ..start_of(spec(name)) };
        let batch = async {
            tokio::join!(
                first,
                database.send(bad),
                database.send(RecordTransition(good)),
                database.send(begin("live")),
                database.send(begin("new")),
                database.send(RemoveSandbox(live.id)),
                database.send(RemoveSandbox(ended.id)),
                database.send(RecordEvent::now(None, EventKind::LogRecovered {})),
            )
        };
        let unlock = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            drop(other);
        };
        let ((first, bad, good, begin_live, begin_new, live_removal, removal, event), ()) = tokio::join!(batch, unlock);
        first.unwrap().unwrap();
        assert!(matches!(bad.unwrap(), Err(DatabaseError::UnknownSandbox { sandbox: 999 })));
        good.unwrap().unwrap();
        assert!(matches!(begin_live.unwrap(), Err(DatabaseError::StillLive)));
        assert_eq!(begin_new.unwrap().unwrap().state, SandboxState::Starting);
        assert!(matches!(live_removal.unwrap(), Err(DatabaseError::StillLive)));
        removal.unwrap().unwrap();
        event.unwrap().unwrap();
        let rows = database.send(ListSandboxes).await.unwrap().unwrap();
        let rows: Vec<_> = rows.iter().map(|row| (row.spec.key.name.as_str(), row.state.status())).collect();
        assert_eq!(rows, [("live", Status::Running), ("new", Status::Starting)]);
    });
}

/// Of a start that cannot be recorded nothing stays, though others of its batch do.
#[test]
fn both_rows_of_a_start_are_written_or_neither() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let before = starting(&database, "a").await;
        let before = step(&database, &before, Event::SpawnFailed(FailureReason::Lost)).await;
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        other
            .execute(
                "CREATE TRIGGER no_start BEFORE INSERT ON transitions WHEN NEW.status = 'STARTING'
                 BEGIN SELECT RAISE(ABORT, 'not now'); END",
            )
            .await
            .unwrap();
        let mut changed = spec("a");
        changed.remove_on_end = true;
        let begin = BeginStart { supervisor_pid: 9, ..start_of(changed) };
        let refused = database.send(begin.clone());
        let event = database.send(RecordEvent::now(None, EventKind::LogRecovered {}));
        let (refused, event) = tokio::join!(refused, event);
        assert!(matches!(refused.unwrap(), Err(DatabaseError::Sql { .. })));
        event.unwrap().unwrap();
        let row = database.send(GetSandbox(before.spec.key.clone())).await.unwrap().unwrap().unwrap();
        assert_eq!((row.spec.remove_on_end, row.supervisor_pid, row.seq), (false, 7, before.seq));
        other.execute("DROP TRIGGER no_start").await.unwrap();
        let row = database.send(begin).await.unwrap().unwrap();
        assert_eq!((row.generation, row.state, row.spec.remove_on_end), (2, SandboxState::Starting, true));
    });
}

/// The actor that had the request died after it was written: whoever asks again gets what it began, and another
/// request does not.
#[test]
fn a_start_that_is_asked_for_twice_begins_once() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let begin = start_of(spec("a"));
        let row = database.send(begin.clone()).await.unwrap().unwrap();
        let again = database.send(begin.clone()).await.unwrap().unwrap();
        let what = |row: &SandboxRow| (row.id, row.generation, row.seq, row.state.clone(), row.driver.clone());
        assert_eq!(what(&again), what(&row));
        assert_eq!(history(&database, row.id, HistoryPage::OLDEST).await.len(), 1);
        let later =
            BeginStart { requested_at: begin.requested_at + chrono::TimeDelta::microseconds(1), ..begin.clone() };
        for other in [later, BeginStart { supervisor_pid: 8, ..begin.clone() }] {
            assert!(matches!(database.send(other).await.unwrap(), Err(DatabaseError::StillLive)));
        }
        step(&database, &row, Event::WorkloadStarted).await;
        assert!(matches!(database.send(begin).await.unwrap(), Err(DatabaseError::StillLive)));
    });
}

fn says(row: &SandboxRow, status: HealthStatus, failures: u32, is_news: bool) -> RecordHealth {
    let health = HealthState { status, failures, output: String::new() };
    RecordHealth { sandbox: row.id, generation: row.generation, health, is_news }
}

#[test]
fn what_a_health_check_says_is_known_at_once_and_costs_a_commit_only_where_it_is_news() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = starting(&database, "a").await;
        let row = step(&database, &row, Event::WorkloadStarted).await;
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        let on_disk = "SELECT coalesce(health, 'none') FROM sandboxes";
        let known = || async {
            let row = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
            let listed = database.send(ListSandboxes).await.unwrap().unwrap();
            assert_eq!(listed[0].health, row.health);
            row.health.map(|health| (health.status, health.failures))
        };
        for failures in 1..100 {
            database.send(says(&row, HealthStatus::Failing, failures, false)).await.unwrap();
        }
        database.send(says(&row, HealthStatus::Healthy, 0, false)).await.unwrap();
        database.send(RecordHealth { generation: 0, ..says(&row, HealthStatus::Failing, 7, true) }).await.unwrap();
        assert_eq!(known().await, Some((HealthStatus::Healthy, 0)));
        assert_eq!(other.text(on_disk).await, "none");
        // Taken along by whatever is written next.
        database.send(RecordEvent::now(None, EventKind::LogRecovered {})).await.unwrap().unwrap();
        assert!(other.text(on_disk).await.contains("healthy"));
        // News are written soon, also where a lock refused them at first.
        let lock = fixture.locked_by_another().await;
        database.send(says(&row, HealthStatus::Failing, 1, true)).await.unwrap();
        database.send(says(&row, HealthStatus::Failing, 2, false)).await.unwrap();
        assert_eq!(known().await, Some((HealthStatus::Failing, 2)));
        drop(lock);
        let written = async {
            while !other.text(on_disk).await.contains("\"failures\":2") {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), written).await.unwrap();
        // A later start begins anew.
        let row = step(&database, &row, Event::VmmExited(ExitStatus::Code(0))).await;
        let row = step(&database, &row, Event::StartRequested).await;
        assert_eq!(row.health, None);
        assert_eq!(known().await, None);
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap_err();
    });
}
