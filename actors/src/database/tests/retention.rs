//! What is kept of the past: bounded, the latest, whole starts, and what is gone is told.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sandpen_types::history::HistoryCursor;

use super::*;

impl SqlitePoolForTests {
    pub(super) async fn number(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.0).await.unwrap()
    }

    /// Fills tables quickly: nothing follows from what `statements` do.
    pub(super) async fn without_triggers(&self, statements: &[&'static str]) {
        let triggers = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'";
        let triggers: Vec<(String, String)> = sqlx::query_as(triggers).fetch_all(&self.0).await.unwrap();
        for (name, _) in &triggers {
            sqlx::query(sqlx::AssertSqlSafe(format!("DROP TRIGGER {name}"))).execute(&self.0).await.unwrap();
        }
        for statement in statements {
            self.execute(statement).await.unwrap();
        }
        for (_, sql) in triggers {
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&self.0).await.unwrap();
        }
    }

    /// So many events of a sandbox, or where it has no name of none.
    async fn happens(&self, name: &str, times: u64) {
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
             INSERT INTO events (at, config_file, name, kind, detail)
             SELECT '2026-01-01T00:00:00.000000Z', iif(?1 = '', NULL, 'default'), nullif(?1, ''), 'x', '{}' FROM n",
        )
        .bind(name)
        .bind(i64::try_from(times).unwrap())
        .execute(&self.0)
        .await
        .unwrap();
    }

    /// The numbers that are kept, by the sandbox's name.
    pub(super) async fn kept(&self) -> BTreeMap<String, Vec<u64>> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT coalesce(name, ''), seq FROM events ORDER BY seq").fetch_all(&self.0).await.unwrap();
        let mut kept = BTreeMap::<_, Vec<u64>>::new();
        for (name, seq) in rows {
            kept.entry(name).or_default().push(u64::try_from(seq).unwrap());
        }
        kept
    }

    pub(super) async fn assert_counted(&self) {
        let counted: Vec<(String, i64)> =
            sqlx::query_as("SELECT scope, kept FROM event_counts ORDER BY scope").fetch_all(&self.0).await.unwrap();
        let there: Vec<(String, i64)> = sqlx::query_as(
            "SELECT coalesce(config_file || '/' || name, 'own') AS scope, count(*) FROM events GROUP BY scope
             UNION ALL SELECT 'sandboxes', count(*) FROM events WHERE name IS NOT NULL ORDER BY scope",
        )
        .fetch_all(&self.0)
        .await
        .unwrap();
        let wrong: Vec<_> = counted.iter().zip(&there).filter(|(counted, there)| counted != there).take(3).collect();
        assert!(counted.len() == there.len() && wrong.is_empty(), "{} and {}: {wrong:?}", counted.len(), there.len());
    }
}

pub(super) async fn events_of(
    database: &Addr<Database>,
    name: Option<&str>,
    from: Option<u64>,
) -> Result<EventPage, DatabaseError> {
    let sandbox = name.map(|name| SandboxKey::new(SandboxName::new(name).unwrap()));
    database.send(ListEvents { from, sandbox, limit: 2 }).await.unwrap()
}

pub(super) fn record(row: &SandboxRow, seq: u64, generation: u64, state: SandboxState) -> Transition {
    Transition {
        sandbox: row.id,
        seq,
        generation,
        event: "x".into(),
        state,
        at: Utc::now(),
        microvm_pid: None,
        supervisor_pid: 1,
        driver: None,
        restarts: 0,
        restarts_in_a_row: 0,
        stopped_by: None,
        boot_id: None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6, ..ProptestConfig::default() })]

    /// Whatever each start consists of, and whoever else does something.
    #[test]
    fn of_each_sandbox_the_latest_starts_are_kept_whole(lives in prop::collection::vec((1..7_u64, any::<bool>()), 90..230)) {
        run(|| async {
            let fixture = Fixture::new();
            let database = fixture.open().await;
            let (busy, other) = (add(&database, "busy").await, add(&database, "other").await);
            let (mut all, mut others, mut answers) = (Vec::new(), 0, Vec::new());
            for (generation, (edges, is_joined)) in (1..).zip(&lives) {
                for edge in 0..*edges {
                    let state = if edge == 0 { SandboxState::Starting } else { SandboxState::Running };
                    let step = record(&busy, all.len() as u64 + 1, generation, state);
                    // What is sent again is recorded once.
                    answers.push(database.send(RecordTransition(step.clone())));
                    answers.push(database.send(RecordTransition(step.clone())));
                    all.push((step.seq, generation));
                }
                if *is_joined && others < 50 {
                    others += 1;
                    answers.push(database.send(RecordTransition(record(&other, others, others, SandboxState::Starting))));
                }
            }
            for answer in futures::future::join_all(answers).await {
                answer.unwrap().unwrap();
            }
            let last = lives.len() as u64;
            all.retain(|(_, generation)| *generation + STARTS_KEPT > last);
            let kept = history(&database, busy.id, HistoryPage::OLDEST).await;
            assert_eq!(kept.iter().map(|step| (step.seq, step.generation)).collect::<Vec<_>>(), all);
            assert_eq!(history(&database, other.id, HistoryPage::OLDEST).await.len() as u64, others);
            let row = database.send(GetSandbox(busy.spec.key.clone())).await.unwrap().unwrap().unwrap();
            assert_eq!((row.generation, row.seq), (last, all.last().unwrap().0));
            let other = SqlitePoolForTests::open(&fixture.path()).await;
            other.assert_counted().await;
            assert!(other.execute("DELETE FROM transitions").await.unwrap_err().to_string().contains("append-only"));
        });
    }

    #[test]
    fn of_each_sandbox_and_of_none_the_latest_events_are_kept(
        bursts in prop::collection::vec((prop::sample::select(vec!["a", "b", "c", ""]), 1..1500_u64), 1..8),
    ) {
        run(|| async {
            let fixture = Fixture::new();
            let database = fixture.open().await;
            let other = SqlitePoolForTests::open(&fixture.path()).await;
            let (mut all, mut next) = (BTreeMap::<String, Vec<u64>>::new(), 1);
            for (name, times) in bursts {
                other.happens(name, times).await;
                all.entry(name.to_owned()).or_default().extend(next..next + times);
                next += times;
            }
            for (name, numbers) in &mut all {
                let bound = if name.is_empty() { OWN_EVENTS_KEPT } else { EVENTS_KEPT_OF_SANDBOX };
                let gone = numbers.len().saturating_sub(usize::try_from(bound).unwrap());
                let gone = numbers.drain(..gone).next_back();
                // Who asks for one sandbox's is told from which number on all are there.
                if !name.is_empty() {
                    let first = gone.unwrap_or(0) + 1;
                    let page = events_of(&database, Some(name), None).await.unwrap();
                    assert_eq!(page.events[0].seq, numbers[0]);
                    assert_eq!(events_of(&database, Some(name), Some(first)).await.unwrap(), page);
                    let refused = events_of(&database, Some(name), Some(first - 1)).await;
                    assert!(matches!(refused, Err(DatabaseError::EventsGone { first: told, .. }) if told == first));
                }
            }
            assert_eq!(other.kept().await, all);
            other.assert_counted().await;
            for forbidden in ["UPDATE events SET kind = 'y'", "DELETE FROM events WHERE seq = (SELECT min(seq) FROM events)"] {
                assert!(other.execute(forbidden).await.unwrap_err().to_string().contains("append-only"));
            }
        });
    }
}

#[test]
fn one_noisy_sandbox_evicts_nobody() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        other.happens("quiet", 3).await;
        other.happens("", 2).await;
        other.happens("noisy", EVENTS_KEPT + 5000).await;
        other.happens("", 1).await;
        let kept = other.kept().await;
        assert_eq!((&kept["quiet"][..], &kept[""][..]), (&[1, 2, 3][..], &[4, 5, EVENTS_KEPT + 5006][..]));
        assert_eq!(kept["noisy"].len() as u64, EVENTS_KEPT_OF_SANDBOX);
        // Of all events in one order the numbers say what is missing.
        let page = events_of(&database, None, Some(5)).await.unwrap();
        assert_eq!(page.events.iter().map(|event| event.seq).collect::<Vec<_>>(), [5, kept["noisy"][0]]);
        // Those of one sandbox are without holes: whoever fell behind is told.
        let refused = events_of(&database, Some("noisy"), Some(6)).await;
        assert!(matches!(refused, Err(DatabaseError::EventsGone { from: 6, first }) if first == kept["noisy"][0]));
        assert_eq!(events_of(&database, Some("quiet"), Some(2)).await.unwrap().events.len(), 2);
        assert!(events_of(&database, Some("quiet"), Some(4)).await.unwrap().events.is_empty());
        // A kind that this version does not know is handed on.
        assert_eq!(page.events[0].known_kind(), None);
    });
}

#[test]
fn all_sandboxes_together_have_a_bound_and_the_orchestrator_one_of_its_own() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        // Each of 1,000 names has a hundred, as removed ones have, among events of none.
        other
            .without_triggers(&[
                "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 110000)
                 INSERT INTO events (seq, at, config_file, name, kind, detail)
                 SELECT i, '2026-01-01T00:00:00.000000Z', iif(i % 11 = 0, NULL, 'default'),
                        iif(i % 11 = 0, NULL, 's' || (i / 110)), 'x', '{}'
                 FROM n",
                "INSERT INTO event_counts (scope, kept)
                 SELECT coalesce(config_file || '/' || name, 'own'), count(*) FROM events WHERE true GROUP BY 1
                 ON CONFLICT (scope) DO UPDATE SET kept = excluded.kept",
                "UPDATE event_counts SET kept = (SELECT count(*) FROM events WHERE name IS NOT NULL) WHERE scope = 'sandboxes'",
            ])
            .await;
        other.assert_counted().await;
        other.happens("late", 150).await;
        other.happens("", 1).await;
        other.assert_counted().await;
        let kept = other.kept().await;
        assert_eq!(kept[""].len() as u64, OWN_EVENTS_KEPT);
        assert_eq!((kept[""][0], kept["late"].len()), (22, 150));
        assert_eq!(kept.values().map(Vec::len).sum::<usize>() as u64, EVENTS_KEPT + OWN_EVENTS_KEPT);
        assert!(!kept.contains_key("s0") && kept["s1"].len() == 50, "{:?}", kept["s1"]);
        // The number between is one of the orchestrator's own.
        let gone = kept["s1"][0] - 2;
        for name in ["s0", "s1", "s999", "never"] {
            let refused = events_of(&database, Some(name), Some(gone)).await;
            assert!(matches!(refused, Err(DatabaseError::EventsGone { first, .. }) if first == gone + 1), "{name}");
            events_of(&database, Some(name), Some(gone + 1)).await.unwrap();
        }
        let refused = events_of(&database, None, Some(21)).await;
        assert!(matches!(refused, Err(DatabaseError::EventsGone { first: 22, .. })), "{refused:?}");
    });
}

#[test]
fn a_health_check_makes_an_event_only_of_another_word() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        let row = step(&database, &row, Event::StartRequested).await;
        let row = step(&database, &row, Event::WorkloadStarted).await;
        let say = async |status, failures, output: &str| {
            let health = HealthState { status, failures, output: output.into() };
            // Each one is written, whatever comes next.
            database.do_send(RecordHealth { sandbox: row.id, generation: row.generation, health, is_news: true });
            database.send(Flush).await.unwrap().unwrap();
            database.send(Flush).await.unwrap().unwrap();
        };
        for (status, failures, output) in [
            (HealthStatus::Healthy, 0, ""),
            (HealthStatus::Failing, 1, "one"),
            (HealthStatus::Failing, 2, "one"),
            (HealthStatus::Failing, 3, "another"),
            (HealthStatus::Healthy, 0, ""),
            (HealthStatus::Healthy, 0, "so so"),
            (HealthStatus::Failing, 1, "again"),
        ] {
            say(status, failures, output).await;
        }
        let page = database.send(ListEvents { from: Some(3), sandbox: None, limit: 99 }).await.unwrap().unwrap();
        let said: Vec<_> = page.events.iter().map(|event| event.detail["output"].as_str().unwrap()).collect();
        assert_eq!(said, ["", "one", "", "again"]);
        let row = database.send(GetSandbox(row.spec.key.clone())).await.unwrap().unwrap().unwrap();
        assert_eq!(row.health.unwrap().output, "again");
    });
}

#[test]
fn a_history_is_read_by_pages_from_either_end() {
    run(|| async {
        let fixture = Fixture::new();
        let database = fixture.open().await;
        let row = add(&database, "a").await;
        for seq in 1..=7 {
            let step = record(&row, seq, 1, SandboxState::Starting);
            database.send(RecordTransition(step)).await.unwrap().unwrap();
        }
        let page = async |cursor, limit| {
            let steps = history(&database, row.id, HistoryPage { cursor, limit }).await;
            steps.iter().map(|step| step.seq).collect::<Vec<_>>()
        };
        for (cursor, limit, expected) in [
            (HistoryCursor::After(0), 3, vec![1, 2, 3]),
            (HistoryCursor::After(3), 3, vec![4, 5, 6]),
            (HistoryCursor::After(6), 3, vec![7]),
            (HistoryCursor::After(7), 3, vec![]),
            (HistoryCursor::After(u64::MAX), 3, vec![]),
            (HistoryCursor::Before(u64::MAX), 2, vec![6, 7]),
            (HistoryCursor::Before(6), 2, vec![4, 5]),
            (HistoryCursor::Before(2), 2, vec![1]),
            (HistoryCursor::Before(1), 2, vec![]),
            (HistoryCursor::Before(0), 2, vec![]),
            (HistoryCursor::After(0), 0, vec![]),
            (HistoryCursor::After(0), u32::MAX, vec![1, 2, 3, 4, 5, 6, 7]),
        ] {
            assert_eq!(page(cursor, limit).await, expected, "{cursor:?} {limit}");
        }
        // However long a single start is, and whatever is asked.
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        other
            .without_triggers(&["WITH RECURSIVE n(i) AS (SELECT 8 UNION ALL SELECT i + 1 FROM n WHERE i < 3000)
                 INSERT INTO transitions (sandbox_id, seq, generation, event, status, state, at, supervisor_pid, restarts)
                 SELECT 1, i, 1, 'x', 'RUNNING', '{\"status\":\"RUNNING\"}', '2026-01-01T00:00:00.000000Z', 1, 0 FROM n"])
            .await;
        assert_eq!(page(HistoryCursor::After(0), u32::MAX).await.len(), HistoryPage::MAX as usize);
    });
}
