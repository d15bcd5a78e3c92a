//! The events table: complete, in order, bounded, and there after a removal.

use sandpen_types::spec::ConfigName;

use super::*;

async fn list(database: &Addr<Database>, from: Option<u64>, limit: u32) -> Result<EventPage, DatabaseError> {
    database.send(ListEvents { from, sandbox: None, limit }).await.unwrap()
}

fn note() -> RecordEvent {
    RecordEvent::now(None, EventKind::ActorRestarted { actor: "monitor".into(), reason: "panicked".into() })
}

#[test]
fn a_whole_life_is_told_in_order_and_stays_after_the_removal() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let mut row = add(&database, "a").await;
        for event in [
            Event::StartRequested,
            Event::WorkloadStarted,
            Event::Faulted(FailureReason::TimedOut { limit: Duration::from_secs(5) }),
            Event::VmmExited(ExitStatus::Code(0)),
        ] {
            row = step(&database, &row, event).await;
        }
        database.send(note()).await.unwrap().unwrap();
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        database.send(RecordEvent::now(None, EventKind::LogRecovered {})).await.unwrap().unwrap();
        let page = list(&database, None, 100).await.unwrap();
        assert_eq!((page.next, page.is_last), (8, true));
        let last = page.events.last().unwrap();
        assert_eq!((last.seq, last.known_kind()), (7, Some(EventKind::LogRecovered {})));
        let events = &page.events[..6];
        assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["transition", "transition", "transition", "transition", "actor_restarted", "removed"]);
        let of_row = |event: &StoredEvent| event.sandbox.as_ref() == Some(&row.spec.key);
        assert_eq!(events.iter().map(of_row).collect::<Vec<_>>(), [true, true, true, true, false, true]);
        let Some(EventKind::Transition { transition, event, state, reason, .. }) = page.events[3].known_kind() else {
            panic!("{:?}", page.events[3]);
        };
        assert_eq!((transition, event.as_str(), &state), (4, "VmmExited", &row.state));
        assert!(reason.unwrap().contains("time limit"));
        assert_eq!(page.events[4].known_kind(), Some(note().0.kind));
        assert_eq!(page.events[5].known_kind(), Some(EventKind::Removed { generation: 1 }));
    });
}

#[test]
fn what_is_sent_again_is_told_once() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let key = SandboxKey::new(SandboxName::new("a").unwrap());
        let of_one = RecordEvent::now(Some(key), EventKind::FilesLimitMet {});
        let all = [note(), of_one, RecordEvent::now(None, EventKind::LogRecovered {})];
        for event in all.iter().chain(&all) {
            database.send(event.clone()).await.unwrap().unwrap();
        }
        // Of all at the same time, another one is another one.
        let mut other = all[1].clone();
        other.0.sandbox = None;
        database.send(other).await.unwrap().unwrap();
        let page = list(&database, None, 100).await.unwrap();
        let kinds: Vec<_> = page.events.iter().map(|event| event.kind.as_str()).collect();
        assert_eq!(kinds, ["actor_restarted", "files_limit_met", "log_recovered", "files_limit_met"]);
    });
}

#[test]
fn a_transition_that_is_not_recorded_or_recorded_twice_leaves_no_gap() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let (starting, first) = advance(&row, &Event::StartRequested, Utc::now(), None).unwrap().unwrap();
        database.send(RecordTransition(first.clone())).await.unwrap().unwrap();
        database.send(RecordTransition(first.clone())).await.unwrap().unwrap();
        let unknown = RecordTransition(Transition { sandbox: 999, ..first });
        database.send(unknown).await.unwrap().unwrap_err();
        step(&database, &starting, Event::WorkloadStarted).await;
        drop(database);
        let database = fixture.open().await;
        database.send(note()).await.unwrap().unwrap();
        let page = list(&database, Some(1), 100).await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3]);
    });
}

#[test]
fn pages_follow_each_other_and_numbers_that_are_none_are_refused() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        assert_eq!(list(&database, None, 9).await.unwrap(), EventPage { events: vec![], next: 1, is_last: true });
        for _ in 0..5 {
            database.send(note()).await.unwrap().unwrap();
        }
        let mut seen = Vec::new();
        let mut from = None;
        loop {
            let page = list(&database, from, 2).await.unwrap();
            seen.extend(page.events.iter().map(|event| event.seq));
            from = Some(page.next);
            if page.is_last {
                break;
            }
        }
        assert_eq!((seen, from), (vec![1, 2, 3, 4, 5], Some(6)));
        assert!(list(&database, Some(6), 2).await.unwrap().events.is_empty());
        for ahead in [7, u64::MAX] {
            let refused = list(&database, Some(ahead), 2).await;
            assert!(matches!(refused, Err(DatabaseError::EventsAhead { next: 6, .. })), "{refused:?}");
        }
        assert!(matches!(list(&database, Some(0), 2).await, Err(DatabaseError::EventsGone { first: 1, .. })));
        assert!(!list(&database, Some(1), 0).await.unwrap().events.is_empty(), "a page without room would never end");
    });
}

#[test]
fn one_sandbox_can_be_followed_alone() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let (a, b) = (add(&database, "a").await, add(&database, "b").await);
        step(&database, &a, Event::StartRequested).await;
        let b = step(&database, &b, Event::StartRequested).await;
        step(&database, &b, Event::WorkloadStarted).await;
        database.send(note()).await.unwrap().unwrap();
        let of = |key: SandboxKey, limit| database.send(ListEvents { from: Some(1), sandbox: Some(key), limit });
        let page = of(b.spec.key.clone(), 9).await.unwrap().unwrap();
        assert_eq!((page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), page.next), (vec![2, 3], 5));
        let page = of(b.spec.key.clone(), 1).await.unwrap().unwrap();
        assert_eq!((page.events.len(), page.next, page.is_last), (1, 3, false));
        let elsewhere = SandboxKey { config: ConfigName::new("other").unwrap(), ..b.spec.key.clone() };
        assert!(of(elsewhere, 9).await.unwrap().unwrap().events.is_empty());
    });
}

#[test]
fn a_watcher_is_woken_by_every_kind_of_writing() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let mut watch = database.send(WatchEvents).await.unwrap();
        let row = step(&database, &row, Event::StartRequested).await;
        watch.changed().await.unwrap();
        let row = step(&database, &row, Event::SpawnFailed(FailureReason::Lost)).await;
        watch.changed().await.unwrap();
        database.send(note()).await.unwrap().unwrap();
        watch.changed().await.unwrap();
        database.send(RemoveSandbox(row.id)).await.unwrap().unwrap();
        watch.changed().await.unwrap();
        drop(database);
        assert!(watch.changed().await.is_err(), "the end of the database is told");
    });
}

#[test]
fn what_happened_before_the_table_was_made_is_in_it() {
    run(|| async {
        let fixture = Fixture::new();
        let old = fixture.of_before(1).await;
        old.execute(
            r"INSERT INTO sandboxes (config_file, name, supervisor_pid, rootfs_paths, state, spec, created_at, updated_at)
               VALUES ('c', 'a', 1, 'native:/', '{}', '{}', '', '')",
        )
        .await
        .unwrap();
        for (seq, status) in [(1, "STARTING"), (2, "RUNNING")] {
            sqlx::query(
                r#"INSERT INTO transitions (sandbox_id, seq, generation, event, status, state, at, supervisor_pid, restarts)
                   VALUES (1, ?1, 1, 'x', ?2, '{"status":"' || ?2 || '"}', '2026-01-01T00:00:00.000000Z', 1, 0)"#,
            )
            .bind(seq)
            .bind(status)
            .execute(&old.0)
            .await
            .unwrap();
        }
        drop(old);
        let page = list(&fixture.open().await, None, 9).await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
        assert!(matches!(
            page.events[1].known_kind(),
            Some(EventKind::Transition { transition: 2, state: SandboxState::Running, .. })
        ));
    });
}
