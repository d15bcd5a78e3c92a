//! A file of the schema before the past had bounds.

use std::time::Instant;

use super::retention::{events_of, record};
use super::*;

const DEADLINE: Duration = Duration::from_mins(2);

/// 200,000 transitions and 98,000 events of the schema before there were bounds.
#[test]
fn a_file_with_much_history_opens_soon_and_is_cut_beside_the_work() {
    run(|| async {
        let fixture = Fixture::new();
        let old = fixture.of_before(4).await;
        // Generations of five transitions each.
        for (name, status, generation, seq) in [
            ("noisy", "BACKOFF", 38_000, 190_000),
            ("live", "RUNNING", 1990, 9947),
            ("exact", "RUNNING", 100, 500),
            ("short", "RUNNING", 3, 15),
        ] {
            sqlx::query(
                r#"INSERT INTO sandboxes (config_file, name, status, supervisor_pid, rootfs_paths, restarts, generation, seq,
                                         state, spec, created_at, started_at, updated_at)
                   VALUES ('default', ?1, ?2, 1, 'native:/', 5, ?3, ?4, '{"status":"RUNNING"}', ?5,
                           '2026-01-01T00:00:00.000000Z', '2026-01-02T00:00:00.000000Z', '2026-01-03T00:00:00.000000Z')"#,
            )
            .bind(name)
            .bind(status)
            .bind(generation)
            .bind(seq)
            .bind(serde_json::to_string(&spec(name)).unwrap())
            .execute(&old.0)
            .await
            .unwrap();
        }
        old.without_triggers(&[
            r#"WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 189999)
               INSERT INTO transitions (sandbox_id, seq, generation, event, status, state, at, supervisor_pid, restarts)
               SELECT id, i + 1, i / 5 + 1, 'x', iif(i % 5 = 0, 'STARTING', 'RUNNING'),
                      '{"status":"' || iif(i % 5 = 0, 'STARTING', 'RUNNING') || '"}',
                      '2026-01-01T00:00:00.000000Z', 1, 0
               FROM sandboxes CROSS JOIN n WHERE i < sandboxes.seq"#,
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 97999)
             INSERT INTO events (seq, at, config_file, name, kind, detail)
             SELECT 400001 + i, '2026-01-01T00:00:00.000000Z', iif(i BETWEEN 500 AND 699, NULL, 'default'),
                    CASE WHEN i < 500 THEN 'short' WHEN i < 700 THEN NULL WHEN i < 95700 THEN 'noisy'
                         WHEN i < 97700 THEN 'live' ELSE 'removed' END,
                    'x', '{}'
             FROM n",
        ])
        .await;
        let rows = "SELECT group_concat(concat_ws('|', id, name, status, restarts, generation, seq, state, spec, started_at, updated_at), ';')
                    FROM sandboxes";
        let before = old.text(rows).await;
        let latest =
            "SELECT group_concat(concat_ws('|', sandbox_id, transitions.seq, event, transitions.status, at), ';')
                      FROM transitions JOIN sandboxes ON sandbox_id = id
                      WHERE transitions.generation > sandboxes.generation - 100";
        let (before_latest, size) = (old.text(latest).await, std::fs::metadata(fixture.path()).unwrap().len());
        drop(old);

        let begun = Instant::now();
        let database = fixture.open().await;
        let opened = begun.elapsed();
        // Its end comes in the middle: the next one goes on.
        drop(database);
        let database = fixture.open().await;
        database.send(RecordEvent::now(None, EventKind::LogRecovered {})).await.unwrap().unwrap();
        let other = SqlitePoolForTests::open(&fixture.path()).await;
        let whole =
            "SELECT count(*) FROM (SELECT min(seq) AS first FROM transitions GROUP BY sandbox_id) WHERE first % 5 <> 1";
        let is_cut = async {
            while other.number("SELECT count(*) FROM transitions").await > 500 + 497 + 500 + 15 {
                assert_eq!(other.number(whole).await, 0, "a start was halved");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(DEADLINE, is_cut).await.unwrap();
        println!("{} MB: opened after {opened:?}, cut after {:?}", size >> 20, begun.elapsed());
        assert!(opened < Duration::from_secs(30), "{opened:?}");

        assert_eq!(other.text(rows).await, before);
        assert_eq!(other.text(latest).await, before_latest);
        assert_eq!(other.number("SELECT count(*) FROM transitions").await, 500 + 497 + 500 + 15);
        let keys = database.send(ListKeys).await.unwrap().unwrap();
        assert_eq!(keys.values().filter(|is_live| **is_live).count(), 4);
        let kept = other.kept().await;
        let expected = [("", 201), ("live", 1000), ("noisy", 1000), ("removed", 300), ("short", 500)];
        assert!(kept.iter().map(|(name, numbers)| (name.as_str(), numbers.len())).eq(expected), "{kept:?}");
        assert_eq!((kept["noisy"][0], kept["noisy"][999]), (494_701, 495_700));
        other.assert_counted().await;
        for (name, first) in [("short", 400_001), ("noisy", 494_701), ("live", 496_701), ("removed", 400_001)] {
            let refused = events_of(&database, Some(name), Some(first - 1)).await;
            assert!(matches!(refused, Err(DatabaseError::EventsGone { first: told, .. }) if told == first), "{name}");
            events_of(&database, Some(name), Some(first)).await.unwrap();
        }
        // Everything goes on: the next start, with the next number.
        let row = database.send(ListSandboxes).await.unwrap().unwrap().remove(0);
        let next = record(&row, 190_001, 38_001, SandboxState::Starting);
        database.send(RecordTransition(next)).await.unwrap().unwrap();
        assert_eq!(history(&database, row.id, HistoryPage::OLDEST).await.len(), 496);
    });
}
